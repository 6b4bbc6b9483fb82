"""Measure all workers in interleaved rounds, so that machine drift cancels in the ratios."""

from __future__ import annotations

import multiprocessing
import platform
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy
import torch
from tqdm import tqdm

from care_mm.benchmark import models
from care_mm.benchmark.backends import RUNTIMES, Setting
from care_mm.benchmark.worker import COPY_BYTES, GEMM_SIZE, LIMITS, Job, export, serve
from care_mm.export.stand_in import is_exported
from care_mm.files import PARTIAL

TURN_SECONDS = 0.3  # of a worker in each round
WARM_UP_RUNS = 5

# Workers start with slow imports done, but with no code of torch run yet.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["care_mm.benchmark.worker", "care_mm.models.classifier", "timm"])


@dataclass(frozen=True)
class Result:
    """The measurements of one job.

    Attributes:
        job: The job.
        rounds: Seconds of each run, a tuple for each round.
        peak_bytes: Peak memory of the process, or of the device.
        error: Why the job did not run; empty if it did.
    """

    job: Job
    rounds: tuple[tuple[float, ...], ...] = ()
    peak_bytes: int = 0
    error: str = ""

    def milliseconds(self, quantile: float = 0.5) -> float:
        """Return a quantile over all runs, in ms for the whole batch."""
        return float(numpy.quantile([t for times in self.rounds for t in times], quantile)) * 1e3

    def ratio(self, other: Result) -> float:
        """Return this time over another's: the median over rounds of the ratio of medians."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(statistics.median(a) / statistics.median(b) for a, b in pairs)


class _Process:
    """A process that works for a job and sends pairs of a kind and a value.

    Args:
        target: A function of :mod:`care_mm.benchmark.worker`.
        job: Its first argument.
        file: Its second argument.
    """

    def __init__(self, target: Callable[..., None], job: Job, file: Path | None) -> None:
        self.pipe, other_end = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=target, args=(job, file, other_end), daemon=True)
        self.process.start()
        other_end.close()

    def receive(self) -> tuple[str, Any]:
        """Return the next message."""
        try:
            return self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join(10)
            return "error", how_it_ended(self.process.exitcode)

    def ask(self, number: int) -> tuple[str, Any]:
        """Send a number and return the answer."""
        with suppress(ConnectionError):  # receiving fails as well
            self.pipe.send(number)
        return self.receive()


def how_it_ended(exitcode: int | None) -> str:
    """Say how a process ended that sent nothing more: by a signal, or with a status."""
    if exitcode is None or exitcode >= 0:
        return f"its process ended with status {exitcode}"
    name = signal.Signals(-exitcode).name
    killed = " (out of memory?)" if name == "SIGKILL" else ""
    return f"its process ended by {name}{killed}"


class _Worker:
    """A job in its own process, see :func:`care_mm.benchmark.worker.serve`.

    Args:
        job: The job.
        file: The exported file, for backends that run files.
        error: Why the job cannot run; empty if it can.
    """

    def __init__(self, job: Job, file: Path | None = None, error: str = "") -> None:
        self.result = Result(job, error=error)
        self.process = None if error else _Process(serve, job, file)
        self.number = 0  # of runs in a turn

    def _value(self, message: tuple[str, Any]) -> Any:
        """Return the value of a message; ``None`` for an error, which is kept."""
        kind, value = message
        if kind == "error":
            self.result = replace(self.result, rounds=(), error=str(value))
            return None
        return value

    def _ask(self, number: int) -> Any:
        """Request runs; return the answer, or ``None`` after an error."""
        return None if self.result.error else self._value(self.process.ask(number))

    def warm_up(self) -> None:
        """Wait until the process is ready, and find the number of runs that fill a turn."""
        if not self.result.error:
            self._value(self.process.receive())
        if times := self._ask(WARM_UP_RUNS):
            self.number = max(1, round(TURN_SECONDS / statistics.median(times)))

    def take_turn(self) -> None:
        if times := self._ask(self.number):
            self.result = replace(self.result, rounds=(*self.result.rounds, tuple(times)))

    def finish(self) -> Result:
        if peak := self._ask(0):
            self.result = replace(self.result, peak_bytes=peak)
        if self.process is not None:
            self.process.process.join(10)
        return self.result


def measure(jobs: Sequence[Job], rounds: int, folder: Path | None = None) -> list[Result]:
    """Measure jobs in turns, each in its own process.

    Models are exported first. The processes are then prepared one after the other, and wait while
    it is not their turn.

    Args:
        jobs: The jobs, in the order of the results.
        rounds: Turns of each job; a turn is as many runs as fit in ``TURN_SECONDS``.
        folder: Keep the exported files here, and measure those that exist already; ``None`` for a
            temporary folder.
    """
    with ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(TemporaryDirectory()))
        files = {job: file_of(job, folder) for job in jobs}
        errors: dict[Path, str] = {}
        for job, file in tqdm(files.items(), "exporting", disable=None):
            if file is not None and file not in errors:
                errors[file] = _export(job, file)
        workers = []
        for job in tqdm(jobs, "preparing", disable=None):
            file = files[job]
            workers.append(_Worker(job, file, errors.get(file, "")))
            workers[-1].warm_up()
        for _ in tqdm(range(rounds), "measuring", disable=None):
            for worker in workers:
                worker.take_turn()
        return [worker.finish() for worker in workers]


def file_of(job: Job, folder: Path) -> Path | None:
    """Return the file that a job runs: the one it names, or one to be written to ``folder``."""
    if is_exported(job.model):
        return Path(job.model)
    if job.setting.backend not in RUNTIMES:
        return None
    shape = "x".join(map(str, (job.batch, *job.shape)))
    classes = "" if job.classes is None else f"_{job.classes}"
    # Two runtimes keep weights in ``.bin`` files, so the name alone has to tell them apart.
    setting = f"{job.setting.backend}_{job.setting.dtype}"
    name = f"{models.label(job.model)}_{job.what}{classes}_{shape}_{setting}"
    return folder / f"{name}{RUNTIMES[job.setting.backend].target.suffix}"


def _export(job: Job, file: Path) -> str:
    """Write the file of a job unless it exists; return the error, or an empty text."""
    if file.exists() or is_exported(job.model):
        return ""
    with TemporaryDirectory(dir=file.parent, prefix=".", suffix=PARTIAL) as folder:
        kind, value = _Process(export, job, Path(folder) / file.name).receive()
        if kind == "error":
            return str(value)
        # The file itself comes last, because its existence says that all of it is there.
        for item in sorted(Path(folder).iterdir(), key=lambda item: item.name == file.name):
            item.rename(file.parent / item.name)
    return ""


def limits(setting: Setting) -> list[Job]:
    """Return the jobs that measure the limits of the machine for a setting's device and dtype."""
    plain = replace(setting, backend="eager", channels_last=False)
    return [Job(name, "limit", (0, 0), 1, plain) for name in LIMITS]


def gemm_rate(gemm: Result) -> float:
    """Return the multiply-adds per second of a large matrix product."""
    return GEMM_SIZE**3 / (gemm.milliseconds() / 1e3)


def copy_rate(copy: Result) -> float:
    """Return the bytes per second that a large copy reads and writes."""
    return 2 * COPY_BYTES / (copy.milliseconds() / 1e3)


def macs_of(job: Job) -> int | None:
    """Return the multiply-adds of one image; ``None`` for an exported file."""
    return models.macs(job.model, job.what, job.shape, job.classes)


def over_floor(result: Result, gemm: Result, macs: int) -> float:
    """Return the time over that of ``macs`` for each image at the rate of ``gemm``."""
    return result.ratio(gemm) * GEMM_SIZE**3 / (macs * result.job.batch)


def growth(results: Sequence[Result], by: str = "time") -> float:
    """Return the exponent e of time or memory against pixels, over several shapes.

    1 is linear growth. Time is fitted as b * pixels**e. Memory is fitted as a + b * pixels**e by
    least squares, because libraries and weights do not grow.

    Args:
        results: Results of one model in one setting; at least four shapes for memory.
        by: ``'time'`` or ``'memory'``.
    """
    pixels = numpy.array([r.job.shape[0] * r.job.shape[1] for r in results], dtype=float)
    if by == "time":
        times = numpy.array([r.milliseconds() for r in results])
        return float(numpy.polyfit(numpy.log(pixels), numpy.log(times), 1)[0])
    peaks = numpy.array([r.peak_bytes for r in results], dtype=float)
    pixels /= pixels.max()

    def error(exponent: float) -> float:
        parts = numpy.stack([numpy.ones_like(pixels), pixels**exponent], 1)
        coefficients = numpy.linalg.lstsq(parts, peaks, rcond=None)[0]
        return float(((parts @ coefficients - peaks) ** 2).sum())

    return float(min(numpy.arange(0.3, 3.0, 0.001), key=error))


def machine(device: str) -> dict[str, object]:
    """Describe the machine that the figures are taken on."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            name = next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        pass
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        "cpu": name,
        **gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }
