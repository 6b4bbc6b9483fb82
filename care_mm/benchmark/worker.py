"""A process that measures one model, with its own threads and memory.

A worker waits on a pipe while others are measured. So many models can be compared in turns on a
machine whose speed drifts.
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

from care_mm.benchmark.backends import DTYPES, Setting, prepare, synchronised
from care_mm.benchmark.models import build
from care_mm.errors import InputError

GEMM_SIZE = 1536  # side of square matrices: large enough for peak speed, fast enough for many runs
COPY_BYTES = 2**28


@dataclass(frozen=True)
class Job:
    """A model and how it is run.

    Attributes:
        model: A name, see :func:`care_mm.benchmark.models.build`; ``'gemm'`` and ``'copy'`` measure
            the limits of the machine, with the dtype and device of the setting.
        task: One of :data:`care_mm.benchmark.models.TASKS`.
        shape: Height and width in pixels.
        batch: Images in a batch.
        setting: How the model is run.
    """

    model: str
    task: str
    shape: tuple[int, int]
    batch: int
    setting: Setting


def _gemm(setting: Setting) -> Callable[[], object]:
    options = {"device": setting.device, "dtype": DTYPES[setting.dtype]}
    a, b = (torch.rand(GEMM_SIZE, GEMM_SIZE, **options) for _ in range(2))
    return lambda: torch.mm(a, b)


def _copy(setting: Setting) -> Callable[[], object]:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _prepare(job: Job) -> Callable[[], object]:
    limits = {"gemm": _gemm, "copy": _copy}
    if job.model not in limits:
        example = torch.rand(job.batch, 3, *job.shape)
        return prepare(build(job.model, job.task, job.shape), example, job.setting)
    run = limits[job.model](job.setting)
    return synchronised(run) if job.setting.device == "cuda" else run


def _status(key: str) -> int:
    """Return the bytes under ``key`` in the status of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


class _Memory:
    """Peak memory of the runs alone, without that of conversion and imports."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def peak(self) -> int:
        """Return the peak of the device, or of the process, in bytes."""
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        if sys.platform == "linux":
            return _status("VmHWM")
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def serve(job: Job, pipe: Connection) -> None:
    """Prepare a job, then time as many runs as each message on the pipe says, until it says 0.

    Sends ``('ready', None)`` or ``('error', text)`` first, then ``('times', [seconds, ...])`` for
    each number of runs, and ``('memory', bytes)`` at the end.
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
            first_line = str(error).strip().partition("\n")[0]
            pipe.send(("error", f"{type(error).__name__}: {first_line}"))
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
