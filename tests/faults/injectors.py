"""Faults that a job sets up in its own process before it trains; given as ``prepare``."""

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
from care_mm.engine.hooks import checkpoint as checkpointing


def limit_files(work_dir: Path, size: int) -> None:
    """The system's own limit on the size of a file."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def fail_writes(work_dir: Path, after: int, keep: int) -> None:
    """After so many files the disk takes ``keep`` bytes of each, as a full one does."""
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
    """After so many files somebody else takes the room, all but 20 kB."""
    real, count = os.replace, [0]

    def replace(source: str, target: str) -> None:
        real(source, target)
        count[0] += 1
        if count[0] == after:
            usage = os.statvfs(work_dir.parent)
            (work_dir.parent / "other").write_bytes(bytes(usage.f_bavail * usage.f_frsize - 20_000))

    files.os.replace = replace


# Where in a save the time to a kill is counted from: it begins, its file is written, or named.
MARKS = {
    "save": (tiny_job.TellHook, "before_save_checkpoint"),
    "write": (checkpointing, "write_torch"),
    "name": (files, "_publish"),
}


def kill_in_save(work_dir: Path, mark: str, number: int, delay: float) -> None:
    """SIGKILL ``delay`` seconds after a save comes to a mark for the ``number``-th time.

    A process of its own kills: this one may be anywhere by then, in C++ or in the kernel.
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
    """A loader worker dies as when memory runs out."""
    real = tiny_job.MakeNoise.__call__

    def die(self: Any, data: dict) -> dict:
        if get_worker_info() is not None and data["img_path"].endswith("//5"):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(self, data)

    tiny_job.MakeNoise.__call__ = die


def bad_samples(work_dir: Path, bad: int) -> None:
    """The first files cannot be read."""
    real = tiny_job.MakeNoise.__call__

    def fail(self: Any, data: dict) -> dict:
        if int(data["img_path"].split("//")[1]) < bad:
            raise OSError("no such picture")
        return real(self, data)

    tiny_job.MakeNoise.__call__ = fail


def be_rank(work_dir: Path, rank: int, world: int, port: int) -> None:
    """What torchrun tells a process."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
