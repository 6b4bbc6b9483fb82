"""Log the time of each training step, with and without that of other programs."""

from __future__ import annotations

import time

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class StepTimeHook(Hook):
    """Log ``step_time`` and ``cpu_time`` of each training step, in seconds.

    ``step_time`` is what a clock shows, and waits for the GPU. ``cpu_time`` is the processor time
    of all threads of the process, which other programs hardly change. Neither includes the loading
    of data.
    """

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: object = None) -> None:
        """Start both clocks."""
        self._begin = _clocks()

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: object = None,
        outputs: dict | None = None,
    ) -> None:
        """Log both times."""
        for name, begin, end in zip(("step", "cpu"), self._begin, _clocks(), strict=True):
            runner.message_hub.update_scalar(f"train/{name}_time", end - begin)


def _clocks() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()
