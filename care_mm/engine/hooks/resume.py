"""Compare a config with the checkpoint that a run resumes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.errors import InputError

# Counters that change while a scheduler runs. The rest of its state comes from the config.
_COUNTED = {"last_step", "_global_step", "_last_value", "verbose", "base_values", "optimizer"}
_ADVICE = (
    "the run keeps the checkpoint's value; for the config's, start another run from the weights "
    "(load_from)"
)


@HOOKS.register_module()
class ResumeGuardHook(Hook):
    """Refuse to resume with other classes, and warn of other rates and schedules.

    mmengine restores the state of optimizer and schedulers, so that such changes of the config
    have no effect. With other classes, labels would change their meaning.
    """

    priority = "VERY_HIGH"

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the config with the checkpoint, before its state is restored.

        Raises:
            InputError: The classes differ; names the first difference.
        """
        if not runner._resume:
            return
        before = ((checkpoint.get("meta") or {}).get("dataset_meta") or {}).get("classes")
        now = (getattr(runner.train_dataloader.dataset, "metainfo", None) or {}).get("classes")
        if isinstance(before, list | tuple) and isinstance(now, list | tuple):
            _refuse_other_classes(runner._load_from, before, now)
        for difference in _differences(runner, checkpoint):
            runner.logger.warning(f"--resume: {difference}: {_ADVICE}")


def _differences(runner: Runner, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Yield where optimizer and schedule of a config differ from the checkpoint's."""
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
    for i, (scheduler, state) in enumerate(zip(schedulers, states, strict=False)):
        settings = scheduler.state_dict()
        # Schedulers derive other values from `end`, so `end` is reported first.
        keys = sorted(set(settings) & set(state) - _COUNTED, key=lambda key: (key != "end", key))
        found = [
            text
            for key in keys
            for text in _difference(f"param_scheduler.{i}.{key}", state[key], settings[key])
        ]
        yield from found[:1]


def _refuse_other_classes(path: str, before: Sequence[str], now: Sequence[str]) -> None:
    """Raise InputError unless the classes and their order are equal."""
    pairs = zip(before, now, strict=False)
    differences = [
        f"class {i} is {old!r} in the checkpoint and {new!r} in the training data"
        for i, (old, new) in enumerate(pairs)
        if old != new
    ]
    if len(before) != len(now):
        differences = [f"it has {len(before)} classes and the training data {len(now)}"]
    if differences:
        raise InputError(
            f"--resume: {path}: {differences[0]}: resume with the checkpoint's classes, in its "
            "order"
        )


def _difference(what: str, before: Any, now: Any) -> Iterator[str]:
    plain = (int, float, str, list, tuple, dict)
    if isinstance(before, plain) and isinstance(now, plain) and before != now:
        yield f"{what} is {before} in the checkpoint and {now} in the config"
