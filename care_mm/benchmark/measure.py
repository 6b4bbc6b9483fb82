"""The workers' turns: all of them are measured round after round, so that ratios outlive drift."""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from tqdm import tqdm

from care_mm.benchmark import models
from care_mm.benchmark.backends import Setting
from care_mm.benchmark.worker import COPY_BYTES, GEMM_SIZE, Job, serve

TURN_SECONDS = 0.3  # a worker's share of a round
MIN_WARM_UP = 5  # runs before the first that counts

# Workers begin with what takes seconds to import, and with nothing that has run.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["care_mm.benchmark.worker", "care_mm.models.classifier", "timm"])


@dataclass(frozen=True)
class Result:
    """What one job took.

    Attributes:
        job: What was run.
        rounds: Seconds per run, a tuple for each round.
        peak_bytes: Peak memory of the process, or of the device.
        error: Why it did not run, instead of all that.
    """

    job: Job
    rounds: tuple[tuple[float, ...], ...] = ()
    peak_bytes: int = 0
    error: str = ""

    def milliseconds(self, quantile: float = 0.5) -> float:
        """A quantile over all runs, in ms for the whole batch."""
        return float(numpy.quantile([t for times in self.rounds for t in times], quantile)) * 1e3

    def ratio(self, other: Result) -> float:
        """Median over the rounds of this median over the other's, taken side by side."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return statistics.median(
            statistics.median(mine) / statistics.median(others) for mine, others in pairs
        )


class _Worker:
    def __init__(self, job: Job) -> None:
        self.result = Result(job)
        self.pipe, theirs = _CONTEXT.Pipe()
        self.process = _CONTEXT.Process(target=serve, args=(job, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.number = 0

    def _ask(self, *question: int) -> tuple[str, object]:
        try:
            for part in question:
                self.pipe.send(part)
            return self.pipe.recv()
        except (EOFError, BrokenPipeError):
            return "error", "its process died: out of memory?"

    def _answer(self, kind: str, value: object) -> None:
        if kind == "error":
            self.result = replace(self.result, rounds=(), error=str(value))

    def warm_up(self) -> None:
        """Wait until it is ready; then find out how many runs fill its share of a round."""
        kind, value = self._ask()
        self._answer(kind, value)
        if kind == "error":
            return
        kind, times = self._ask(MIN_WARM_UP)
        self._answer(kind, times)
        if kind == "times":
            self.number = max(1, round(TURN_SECONDS / statistics.median(times)))

    def take_turn(self) -> None:
        kind, value = self._ask(self.number)
        self._answer(kind, value)
        if kind == "times":
            rounds = (*self.result.rounds, tuple(value))
            self.result = replace(self.result, rounds=rounds)

    def finish(self) -> Result:
        if not self.result.error:
            kind, value = self._ask(0)
            self._answer(kind, value)
            if kind == "memory":
                self.result = replace(self.result, peak_bytes=value)
        self.process.join(10)
        return self.result


def measure(jobs: Sequence[Job], rounds: int) -> list[Result]:
    """Measure ``jobs`` in turns, each in a process of its own.

    They are made ready one after the other, and wait while it is not their turn.

    Args:
        jobs: What to run, in the order of the results.
        rounds: Turns of each; a turn is as many runs as fit in a fraction of a second.
    """
    workers = []
    for job in tqdm(jobs, "preparing", disable=None):
        workers.append(_Worker(job))
        workers[-1].warm_up()
    for _ in tqdm(range(rounds), "measuring", disable=None):
        for worker in workers:
            if not worker.result.error:
                worker.take_turn()
    return [worker.finish() for worker in workers]


def ceilings(setting: Setting) -> list[Job]:
    """The jobs that tell what the machine can do with the setting's device and dtype."""
    plain = replace(setting, backend="eager", channels_last=False)
    return [Job(name, "ceiling", (0, 0), 1, plain) for name in ("gemm", "copy")]


def gemm_rate(gemm: Result) -> float:
    """Multiply-adds per second of a large matrix product."""
    return GEMM_SIZE**3 / (gemm.milliseconds() / 1e3)


def copy_rate(copy: Result) -> float:
    """Bytes per second that a large copy reads and writes."""
    return 2 * COPY_BYTES / (copy.milliseconds() / 1e3)


def over_floor(result: Result, gemm: Result) -> float | None:
    """Time over what the model's multiply-adds take at the rate of a large matrix product."""
    job = result.job
    macs = models.macs(job.subject, job.task, job.shape)
    return None if macs is None else result.ratio(gemm) * GEMM_SIZE**3 / (macs * job.batch)


def growth(results: Sequence[Result], by: str = "time") -> float:
    """Exponent e of time or memory against pixels, over results of several shapes.

    1 is linear growth. Time is fitted as b * pixels**e; memory as a + b * pixels**e by least
    squares, because libraries and weights do not grow.

    Args:
        results: Of one subject in one setting, four shapes or more for memory.
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
        found = numpy.linalg.lstsq(parts, peaks, rcond=None)[0]
        return float(((parts @ found - peaks) ** 2).sum())

    return float(min(numpy.arange(0.3, 3.0, 0.001), key=error))


def machine(device: str) -> dict[str, object]:
    """What the figures were taken on."""
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
