"""Refuse to start or resume from weights that fit only part of the model."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.checkpoint.matching import Match
from care_mm.checkpoint.reading import state_dict_of
from care_mm.errors import InputError


@HOOKS.register_module()
class WeightsGuardHook(Hook):
    """Refuse a checkpoint (``load_from``, ``resume``) that covers only part of the model.

    Args:
        allow_partial: Start from such a checkpoint and list the tensors that stay random. A
            resumed run needs all weights in any case.
    """

    priority = "VERY_HIGH"

    def __init__(self, allow_partial: bool = False) -> None:
        self.allow_partial = allow_partial

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the weights with the model.

        Raises:
            InputError: The weights do not fit, or are not finite.
        """
        path = runner._load_from
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        state = state_dict_of(checkpoint, path)
        match = Match.compare(model.state_dict(), state, finite=True)
        if self.allow_partial and not runner._resume:
            Match(match.total, not_finite=match.not_finite).refuse(f"checkpoint {path}")
            match.report_partial(path)
            return
        hint = "" if runner._resume else " (--allow-partial loads what fits)"
        try:
            match.refuse(f"checkpoint {path} does not fit the config's model")
        except InputError as error:
            raise InputError(f"{error}{hint}") from error
