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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from care_mm import noise
from care_mm.benchmark.backends import (
    DTYPES,
    RUNTIMES,
    Setting,
    open_file,
    prepare,
    run_of,
    synchronised,
    write_file,
)
from care_mm.benchmark.models import build
from care_mm.errors import InputError

GEMM_SIZE = 1536  # side of square matrices: large enough for peak speed, fast enough for many runs
COPY_BYTES = 2**28


@dataclass(frozen=True)
class Job:
    """A model and how it is run.

    Attributes:
        model: A name, see :func:`care_mm.benchmark.models.build`, or an exported file; ``'gemm'``
            and ``'copy'`` measure the limits of the machine, with the dtype and device of the
            setting.
        what: One of :data:`care_mm.export.graphs.WHAT`.
        shape: Height and width in pixels.
        batch: Images in a batch.
        setting: How the model is run.
        classes: Number of classes of all heads of a config; ``None`` leaves them.
    """

    model: str
    what: str
    shape: tuple[int, int]
    batch: int
    setting: Setting
    classes: int | None = None

    def example(self) -> Tensor:
        """Return an input (B, 3, H, W)."""
        return torch.rand(self.batch, 3, *self.shape)

    def build(self) -> nn.Module:
        """Build the model."""
        return build(self.model, self.what, self.shape, self.classes)


def _gemm(setting: Setting) -> Callable[[], object]:
    options = {"device": setting.device, "dtype": DTYPES[setting.dtype]}
    a, b = (torch.rand(GEMM_SIZE, GEMM_SIZE, **options) for _ in range(2))
    return lambda: torch.mm(a, b)


def _copy(setting: Setting) -> Callable[[], object]:
    source = torch.zeros(COPY_BYTES, dtype=torch.uint8, device=setting.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


LIMITS = {"gemm": _gemm, "copy": _copy}


def _prepare(job: Job, file: Path | None) -> Callable[[], object]:
    if job.setting.backend in RUNTIMES:
        example = job.example()
        return run_of(open_file(file, example, job.setting), example)
    if job.model not in LIMITS:
        return prepare(job.build(), job.example(), job.setting)
    run = LIMITS[job.model](job.setting)
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


@contextmanager
def _reported(pipe: Connection) -> Iterator[None]:
    """Send ``('error', text)`` and end the process if the block fails."""
    try:
        yield
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        bad_input = isinstance(error, InputError)
        pipe.send(("error", first_line if bad_input else f"{type(error).__name__}: {first_line}"))
        sys.exit()


def export(job: Job, file: Path, pipe: Connection) -> None:
    """Write the file of a job whose backend runs files.

    Sends ``('ready', None)`` or ``('error', text)``.
    """
    warnings.filterwarnings("ignore")
    noise.hide()
    with _reported(pipe), torch.no_grad():
        write_file(job.build(), job.example(), job.setting, file)
    pipe.send(("ready", None))


def serve(job: Job, file: Path | None, pipe: Connection) -> None:
    """Prepare a job, then time as many runs as each message on the pipe says, until it says 0.

    Sends ``('ready', None)`` or ``('error', text)`` first, then ``('times', [seconds, ...])`` for
    each number of runs, and ``('memory', bytes)`` at the end.

    Args:
        job: The job.
        file: The exported file, for backends that run files.
        pipe: Where the numbers come from and the results go to.
    """
    warnings.filterwarnings("ignore")
    noise.hide()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job.setting.threads])
    torch.set_num_threads(job.setting.threads)
    with torch.set_grad_enabled(job.setting.train):
        with _reported(pipe):
            run = _prepare(job, file)
            memory = _Memory(job.setting.device)
            run()
        pipe.send(("ready", None))
        while number := pipe.recv():
            times = []
            for _ in range(number):
                begin = time.perf_counter()
                run()
                times.append(time.perf_counter() - begin)
            pipe.send(("times", times))
        pipe.send(("memory", memory.peak()))
