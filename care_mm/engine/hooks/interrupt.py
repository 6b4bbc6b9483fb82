"""Stop cleanly on Ctrl-C or SIGTERM: finish the iteration and save a checkpoint."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.engine.hooks.checkpoint import AtomicCheckpointHook

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Request:
    """The signal that this process received, 0 for none."""

    number = 0


@contextmanager
def clean_stop() -> Iterator[None]:
    """Make the first signal request a clean stop from :class:`InterruptHook`.

    A second signal stops at once. Outside the main thread, which owns signal handlers, this context
    does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, frame: FrameType | None) -> None:
        if _Request.number:
            raise KeyboardInterrupt
        _Request.number = number
        if is_main_process():
            print("\nfinishing the iteration and saving; once more to stop at once", flush=True)

    before = {number: signal.signal(number, request) for number in SIGNALS}
    try:
        yield
    finally:
        _Request.number = 0
        for number, handler in before.items():
            signal.signal(number, handler)


class _IgnoreInterrupts:
    """Initialise a loader worker: Ctrl-C reaches all processes, but only the parent handles it."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.init is not None:
            self.init(worker)


@HOOKS.register_module()
class InterruptHook(Hook):
    """End the run with a checkpoint, after the iteration in which it was asked to stop.

    Triggered by :func:`clean_stop`, which wraps ``care_mm.engine.run.train``. During validation,
    the run ends at once if all iterations are saved, and after the validation otherwise.
    """

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Make loader workers ignore Ctrl-C."""
        for loader in (runner.train_dataloader, getattr(runner.val_loop, "dataloader", None)):
            if loader is not None:
                loader.worker_init_fn = _IgnoreInterrupts(loader.worker_init_fn)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Save and stop if any process was asked to.

        Raises:
            KeyboardInterrupt: The run was asked to stop. Its work is saved, if the run has our
                checkpoint hook.
        """
        number = _Request.number
        if get_world_size() > 1:  # signals reach processes at different iterations
            flag = torch.tensor(number, device=next(runner.model.parameters()).device)
            all_reduce(flag, "max")
            number = int(flag)
        if not number:
            return
        hook = _checkpoint_hook(runner)
        if hook is None:
            raise KeyboardInterrupt
        is_saved = hook.saved_iter == runner.iter + 1
        _stop(runner, hook.last_ckpt if is_saved else hook.save_now(runner))

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stop if the run was asked to and nothing is left to save.

        Raises:
            KeyboardInterrupt: The run was asked to stop, and its work is saved.
        """
        hook = _checkpoint_hook(runner)
        is_saved = hook is not None and hook.saved_iter == runner.iter
        if _Request.number and is_saved and get_world_size() == 1:
            _stop(runner, hook.last_ckpt or runner.work_dir)


def _stop(runner: Runner, path: str) -> None:
    runner.logger.info(f"Stopped as requested; --resume continues from {path}")
    raise KeyboardInterrupt(str(path))


def _checkpoint_hook(runner: Runner) -> AtomicCheckpointHook | None:
    return next((hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)), None)
