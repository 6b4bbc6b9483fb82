"""Ctrl-C, and the SIGTERM of a scheduler: the iteration is finished, a checkpoint saved."""

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


class Stopped(KeyboardInterrupt):
    """A run that was asked to stop, and did so with its work saved; the message says where."""


class _Request:
    """What was asked of this process."""

    number = 0


@contextmanager
def asking_first() -> Iterator[None]:
    """Within it the first signal asks :class:`InterruptHook` to stop; a second one stops at once.

    Only the main thread can do so; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if _Request.number:
            raise KeyboardInterrupt
        _Request.number = number
        if is_main_process():
            print("\nfinishing the iteration and saving; once more to stop at once", flush=True)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield
    finally:
        _Request.number = 0
        for number, handler in before.items():
            signal.signal(number, handler)


class _LeaveSignals:
    """A loader worker's start: Ctrl-C goes to the whole group, and the parent decides."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self.init is not None:
            self.init(worker)


@HOOKS.register_module()
class InterruptHook(Hook):
    """End the run after the iteration in which it is asked to, with a checkpoint.

    Asked by :func:`asking_first`, which ``care_mm.engine.run.train`` is within. During a validation
    the run ends at once if all iterations are saved, else after it.
    """

    priority = "LOWEST"

    def before_train(self, runner: Runner) -> None:
        """Let workers be until the parent ends them."""
        for loader in (runner.train_dataloader, getattr(runner.val_loop, "dataloader", None)):
            if loader is not None:
                loader.worker_init_fn = _LeaveSignals(loader.worker_init_fn)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Raises Stopped."""
        asked = _Request.number
        if get_world_size() > 1:  # signals reach processes at different iterations
            flag = torch.tensor(asked, device=next(runner.model.parameters()).device)
            all_reduce(flag, "max")
            asked = int(flag)
        if asked:
            self._stop(runner, runner.iter + 1)

    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Raises Stopped where nothing is left to save."""
        hook = _checkpoint_hook(runner)
        saved = hook is not None and hook.saved_iter == runner.iter
        if _Request.number and saved and get_world_size() == 1:
            _say_and_stop(runner, hook.last_ckpt or runner.work_dir)

    @staticmethod
    def _stop(runner: Runner, done: int) -> None:
        hook = _checkpoint_hook(runner)
        if hook is None:
            raise KeyboardInterrupt
        path = hook.last_ckpt if hook.saved_iter == done else hook.save_now(runner)
        _say_and_stop(runner, path)


def _say_and_stop(runner: Runner, path: str) -> None:
    runner.logger.info(f"Stopped as asked; --resume goes on from {path}")
    raise Stopped(str(path))


def _checkpoint_hook(runner: Runner) -> AtomicCheckpointHook | None:
    hooks = [hook for hook in runner.hooks if isinstance(hook, AtomicCheckpointHook)]
    return hooks[0] if hooks else None
