"""Check, before a run starts, that the disk has room for its checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mmengine.runner import Runner

from care_mm.errors import InputError
from care_mm.files import PARTIAL

MiB = 1 << 20


def checkpoint_size(runner: Runner) -> int:
    """Estimate the bytes of one checkpoint: model, moving average and optimizer state."""
    model = sum(t.numel() * t.element_size() for t in runner.model.state_dict().values())
    copies = 1 + sum(hasattr(hook, "ema_model") for hook in runner.hooks)
    return model * copies + sum(_optimizer_sizes(runner))


def _optimizer_sizes(runner: Runner) -> Iterator[int]:
    wrappers = getattr(runner.optim_wrapper, "optim_wrappers", {"": runner.optim_wrapper}).values()
    for wrapper in wrappers:
        optimizer = wrapper.optimizer
        per_value = 2  # Adam and its relatives keep two moments
        if "momentum" in optimizer.defaults and "betas" not in optimizer.defaults:
            per_value = int(optimizer.defaults["momentum"] != 0)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                yield per_value * parameter.numel() * parameter.element_size()


def check_room(folder: Path, size: int, number: int) -> None:
    """Check that the disk has room for ``number`` checkpoints of ``size`` bytes.

    Checkpoints that the folder already holds count towards that number. The space of one
    checkpoint is reserved and released, to find quotas and limits that the free space does not
    show.

    Raises:
        InputError: There is not enough room; the message says how much is needed and free.
    """
    folder.mkdir(parents=True, exist_ok=True)
    existing = sum(file.stat().st_size for file in folder.glob("*.pth"))
    needed, free = max(size * number - existing, size), shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{folder}: checkpoints need {needed / MiB:,.0f} MiB ({number} of {size / MiB:,.0f}) "
            f"and {free / MiB:,.0f} MiB are free: make room, choose another --work-dir, or keep "
            "fewer (default_hooks.checkpoint.max_keep_ckpts)"
        )
    if not hasattr(os, "posix_fallocate"):
        return
    probe = folder / f".probe{PARTIAL}"
    try:
        with probe.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        raise InputError(
            f"{folder}: no room for a checkpoint of {size / MiB:,.0f} MiB ({error.strerror}): "
            "a full disk, a quota or a limit on the size of files (ulimit -f)?"
        ) from error
    finally:
        with suppress(OSError):
            probe.unlink()
