"""Weights that a run starts or goes on from fit its model, all of them, or it is said which not."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.checkpoint import misfits, not_finite, refuse_misfits, report_partial
from care_mm.errors import InputError
from care_mm.loading import state_dict_of


@HOOKS.register_module()
class WeightsGuardHook(Hook):
    """Refuse a checkpoint (``load_from``, ``resume``) that covers part of the model.

    Args:
        allow_partial: Take one to start from, and list what stays random. Going on with a run takes
            all weights in any case.
    """

    priority = "VERY_HIGH"

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Raises InputError for weights that do not fit."""
        path = runner._load_from
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = state_dict_of(checkpoint, path)
        expected = model.state_dict()
        problems = misfits(expected, state)
        problems["not finite"] = not_finite(state)
        if self.allow_partial and not runner._resume:
            bad = problems.pop("not finite")
            refuse_misfits(f"checkpoint {path}", len(expected), {"not finite": bad})
            report_partial(path, problems, len(expected))
            return
        hint = "" if runner._resume else " (--allow-partial loads what fits)"
        try:
            refuse_misfits(
                f"checkpoint {path} does not fit the config's model", len(expected), problems
            )
        except InputError as error:
            raise InputError(f"{error}{hint}") from error
