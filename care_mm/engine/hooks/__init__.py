"""Hooks that guard a run, under their names in ``default_hooks``; importing registers them."""

from __future__ import annotations

from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from care_mm.config import type_name
from care_mm.engine.hooks.checkpoint import AtomicCheckpointHook
from care_mm.engine.hooks.data import DataGuardHook
from care_mm.engine.hooks.drawing import DrawingGuardHook
from care_mm.engine.hooks.finite import FiniteGuardHook
from care_mm.engine.hooks.interrupt import InterruptHook
from care_mm.engine.hooks.predictions import PredictionFileHook as PredictionFileHook
from care_mm.engine.hooks.randomness import PlacedRandomnessHook
from care_mm.engine.hooks.resume import ResumeGuardHook
from care_mm.engine.hooks.speed import FastBackboneHook as FastBackboneHook
from care_mm.engine.hooks.step_time import StepTimeHook as StepTimeHook
from care_mm.engine.hooks.weights import WeightsGuardHook

GUARDS = {
    "checkpoint": AtomicCheckpointHook,
    "finite": FiniteGuardHook,
    "data": DataGuardHook,
    "randomness": PlacedRandomnessHook,
    "weights": WeightsGuardHook,
    "resume": ResumeGuardHook,
    "interrupt": InterruptHook,
    "drawing": DrawingGuardHook,
}


def ensure_guards(config: Config) -> None:
    """Add the guards to a config that does not inherit ``configs/_base_/runtime.py``.

    A guard that is ``None`` in ``default_hooks`` stays off. mmengine's checkpoint hook is replaced
    by ours; any other one is kept.
    """
    hooks = config.setdefault("default_hooks", ConfigDict())
    custom = {type_name(hook) for hook in config.get("custom_hooks") or ()}
    for name, guard in GUARDS.items():
        kind = guard.__name__
        if name in hooks and hooks[name] is None:
            print_log(f"default_hooks.{name} is None: running without {kind}")
            if name != "checkpoint":  # mmengine would add its own
                del hooks[name]
        elif name not in hooks and kind not in custom:
            hooks[name] = dict(type=kind, interval=1) if name == "checkpoint" else dict(type=kind)
    if type_name(hooks.get("checkpoint")) == "CheckpointHook":
        hooks.checkpoint.type = "AtomicCheckpointHook"
