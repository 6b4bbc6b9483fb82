"""Faults that a job injects into its own process before it trains; passed as ``prepare``."""

from __future__ import annotations

import errno
import os
import resource
import signal
import stat
import time
from pathlib import Path
from typing import Any

import tiny_job
from torch.utils.data import get_worker_info

from care_mm import files
from care_mm.engine.hooks import checkpoint


def limit_files(work_dir: Path, size: int) -> None:
    """Limit the size of files, by the operating system."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fail_writes(work_dir: Path, after: int, keep: int) -> None:
    """Simulate a full disk: after ``after`` files, only ``keep`` bytes of each are written."""
    real, count = os.fsync, [0]

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            count[0] += 1
            if count[0] > after:
                os.ftruncate(descriptor, keep)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    files.os.fsync = full


def fill_disk(work_dir: Path, after: int) -> None:
    """Fill the disk, except 20 kB, after ``after`` files."""
    real, count = os.replace, [0]

    def replace(source: str, target: str) -> None:
        real(source, target)
        count[0] += 1
        if count[0] == after:
            usage = os.statvfs(work_dir.parent)
            (work_dir.parent / "other").write_bytes(bytes(usage.f_bavail * usage.f_frsize - 20_000))

    files.os.replace = replace


# Moments of a save that the delay of a kill counts from: it begins, writes its file, or renames it.
MARKS = {
    "save": (tiny_job.TellHook, "before_save_checkpoint"),
    "write": (checkpoint, "write_torch"),
    "name": (files, "_publish"),
}


def kill_in_save(work_dir: Path, mark: str, number: int, delay: float) -> None:
    """Send SIGKILL ``delay`` seconds after a save reaches a mark for the ``number``-th time.

    A child process sends it, so that it can strike anywhere, also in C++ or in the kernel.
    """
    owner, name = MARKS[mark]
    real, count, victim = getattr(owner, name), [0], os.getpid()

    def marked(*args: Any, **settings: Any) -> Any:
        count[0] += 1
        if count[0] == number and os.fork() == 0:
            time.sleep(delay)
            os.kill(victim, signal.SIGKILL)
            os._exit(0)
        return real(*args, **settings)

    setattr(owner, name, marked)


def kill_worker(work_dir: Path) -> None:
    """Kill a loader worker, as the system does when memory runs out."""
    real = tiny_job.MakeNoise.__call__

    def die(self: Any, data: dict) -> dict:
        if get_worker_info() is not None and data["img_path"].endswith("//5"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, data)

    tiny_job.MakeNoise.__call__ = die


def bad_samples(work_dir: Path, bad: int) -> None:
    """Make the first ``bad`` files unreadable."""
    real = tiny_job.MakeNoise.__call__

    def fail(self: Any, data: dict) -> dict:
        if int(data["img_path"].split("//")[1]) < bad:
            raise OSError("no such image")
        return real(self, data)

    tiny_job.MakeNoise.__call__ = fail


def be_rank(work_dir: Path, rank: int, world: int, port: int) -> None:
    """Set the variables that torchrun sets for a process."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
