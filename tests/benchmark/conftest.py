"""Invented results."""

from __future__ import annotations

from care_mm.benchmark.backends import Setting
from care_mm.benchmark.measure import Result
from care_mm.benchmark.worker import Job


def result(
    model: str = "care_s0",
    seconds: tuple[float, ...] = (0.01,),
    backend: str = "deploy",
    shape: tuple[int, int] = (64, 64),
    memory: int = 0,
    threads: int = 2,
) -> Result:
    """Return a result with one run in each round."""
    job = Job(model, "backbone", shape, 1, Setting(backend, threads=threads))
    return Result(job, tuple((s,) for s in seconds), memory)
