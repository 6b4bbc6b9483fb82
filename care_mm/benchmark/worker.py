"""One measured thing in a process of its own: its threads, its memory, its turn.

A worker waits on a pipe while others are measured, so that many can be compared in alternation on
a machine whose speed drifts.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from care_mm.benchmark.backends import Setting, prepare
from care_mm.benchmark.models import build
from care_mm.errors import InputError

GEMM_SIZE = 1536  # square matrices: large enough for the peak, and done in a fraction of a second
COPY_BYTES = 2**28


@dataclass(frozen=True)
class Job:
    """A subject and how it is run, or with no subject the machine's own ceiling.

    Attributes:
        subject: See :func:`care_mm.benchmark.models.build`; ``'gemm'`` and ``'copy'`` are the
            machine's ceilings, in the dtype and on the device of the setting.
        task: See :data:`care_mm.benchmark.models.TASKS`.
        shape: Height and width in pixels.
        batch: Images in a batch.
        setting: How it is run.
    """

    subject: str
    task: str
    shape: tuple[int, int]
    batch: int
    setting: Setting


def _gemm(setting: Setting) -> Callable[[], object]:
    from care_mm.benchmark.backends import DTYPES

    options = {"device": setting.device, "dtype": DTYPES[setting.dtype]}
    a, b = (torch.rand(GEMM_SIZE, GEMM_SIZE, **options) for _ in range(2))
    return lambda: torch.mm(a, b)


def _copy(setting: Setting) -> Callable[[], object]:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _prepare(job: Job) -> Callable[[], object]:
    ceilings = {"gemm": _gemm, "copy": _copy}
    if job.subject not in ceilings:
        example = torch.rand(job.batch, 3, *job.shape)
        return prepare(build(job.subject, job.task, job.shape), example, job.setting)
    run = ceilings[job.subject](job.setting)
    if job.setting.device != "cuda":
        return run
    return lambda: (run(), torch.cuda.synchronize())


def _status(key: str) -> int:
    """Bytes under ``key`` in this process's status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


class _Memory:
    """Peak memory of the runs alone: what conversion and imports took is not counted."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.base = 0
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here

    def peak(self) -> int:
        """Bytes: of the device, or of the process."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        if sys.platform == "linux":
            return _status("VmHWM")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(job: Job, pipe: Connection) -> None:
    """Prepare ``job``, then time as many runs as the pipe asks for, until it asks for none.

    Answers ``('ready', None)`` or ``('error', text)`` first, then for each number of runs
    ``('times', [seconds, ...])``, and for 0 ``('memory', bytes)`` and ends.
    """
    warnings.filterwarnings("ignore")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.setting.threads])
    torch.set_num_threads(job.setting.threads)
    with torch.set_grad_enabled(job.setting.train):
        try:
            run = _prepare(job)
            memory = _Memory(job.setting.device)
            run()
        except InputError as error:
            pipe.send(("error", str(error)))
            return
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            pipe.send(("error", f"{type(error).__name__}: {lines[0]}"))
            return
        pipe.send(("ready", None))
        while number := pipe.recv():
            times = []
            for _ in range(number):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            pipe.send(("times", times))
        pipe.send(("memory", memory.peak()))
