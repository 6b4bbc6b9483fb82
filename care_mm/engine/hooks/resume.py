"""Refuse to resume with a config that the checkpoint contradicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.errors import InputError

# What a scheduler counts while it runs; everything else in its state comes from the config.
_COUNTED = {"last_step", "_global_step", "_last_value", "verbose", "base_values", "optimizer"}
_ADVICE = (
    "resuming keeps the checkpoint's value: set the config to it, or start another run from the "
    "weights (load_from)"
)


@HOOKS.register_module()
class ResumeGuardHook(Hook):
    """Refuse to resume with other classes, learning rates or schedules than the checkpoint has.

    mmengine restores the state of optimizer and schedulers, so that changes of the config would
    have no effect, and labels would change their meaning.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the config with the checkpoint, before its state is restored.

        Raises:
            InputError: They differ; names the first difference.
        """
        if not runner._resume:
            return
        for difference in _differences(runner, checkpoint):
            raise InputError(f"--resume: {runner._load_from}: {difference}")


def _differences(runner: Runner, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Yield the differences between a run's config and the checkpoint that it resumes from."""
    before = ((checkpoint.get("meta") or {}).get("dataset_meta") or {}).get("classes")
    now = (getattr(runner.train_dataloader.dataset, "metainfo", None) or {}).get("classes")
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        yield from _class_differences(before, now)
    optimizer = getattr(runner.optim_wrapper, "optimizer", None)  # None for several optimizers
    if optimizer is not None and isinstance(checkpoint.get("optimizer"), Mapping):
        groups = checkpoint["optimizer"].get("param_groups") or []
        for group, saved in zip(optimizer.param_groups, groups, strict=False):
            for name, key in (("lr", "initial_lr"), ("weight_decay", "weight_decay")):
                yield from _difference(f"{name} of optim_wrapper", saved.get(key), group.get(key))
    schedulers, states = runner.param_schedulers, checkpoint.get("param_schedulers")
    if not isinstance(schedulers, list) or not isinstance(states, list):
        return
    yield from _difference("the number of param_scheduler entries", len(states), len(schedulers))
    for i, (scheduler, state) in enumerate(zip(schedulers, states, strict=True)):
        settings = scheduler.state_dict()
        # What a config gives comes before what schedulers derive from it.
        keys = sorted(set(settings) & set(state) - _COUNTED, key=lambda key: (key != "end", key))
        for key in keys:
            yield from _difference(f"param_scheduler.{i}.{key}", state[key], settings[key])


def _class_differences(before: Sequence[str], now: Sequence[str]) -> Iterator[str]:
    yield from _difference("the number of classes", len(before), len(now))
    for i, (old, new) in enumerate(zip(before, now, strict=True)):
        if old != new:
            yield (
                f"class {i} is {old!r} in the checkpoint and {new!r} in the training data: give "
                "the classes in the checkpoint's order"
            )


def _difference(what: str, before: Any, now: Any) -> Iterator[str]:
    plain = (int, float, str, list, tuple, dict)
    if isinstance(before, plain) and isinstance(now, plain) and before != now:
        yield f"{what} is {before} in the checkpoint and {now} in the config: {_ADVICE}"
