"""Ratios, floors and growth are computed from the times as documented."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark.conftest import result

from care_mm.benchmark import models
from care_mm.benchmark.backends import RUNTIMES, Setting
from care_mm.benchmark.measure import file_of, growth, how_it_ended, over_floor
from care_mm.benchmark.worker import GEMM_SIZE, Job


def test_ratios_are_of_the_same_round() -> None:
    """The ratio does not change when the machine becomes three times slower in between."""
    fast, slow = result(seconds=(1, 1, 3, 3, 3)), result(seconds=(2, 2, 6, 6, 6))
    assert slow.ratio(fast) == 2
    assert slow.milliseconds() == 6000


def test_the_floor_is_the_multiply_adds_at_the_rate_of_a_matrix_product() -> None:
    gemm = result("gemm", seconds=(0.5, 0.5))
    macs = models.macs("care_s0", "backbone", (64, 64))
    floor = 0.5 * macs / GEMM_SIZE**3
    assert over_floor(result(seconds=(2 * floor,) * 2), gemm, macs) == pytest.approx(2)


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_growth_is_the_exponent_against_pixels(exponent: float) -> None:
    sides = (64, 128, 256, 512)
    results = [
        result(seconds=(1e-9 * (s * s) ** exponent,), shape=(s, s), memory=10**9 + 40 * s * s)
        for s in sides
    ]
    assert growth(results) == pytest.approx(exponent)
    assert growth(results, "memory") == pytest.approx(1.0)


def test_runtimes_keep_their_files_apart() -> None:
    """ncnn and OpenVINO both have ``.bin`` files."""
    written = [
        file_of(Job("care_s0", "model", (64, 64), 1, Setting(name)), Path()).with_suffix(suffix)
        for name, runtime in RUNTIMES.items()
        for suffix in (runtime.target.suffix, *runtime.target.companions)
    ]
    assert len(set(written)) == len(written) > len(RUNTIMES)


def test_the_end_of_a_process_is_told_by_its_signal() -> None:
    assert how_it_ended(-11) == "its process ended by SIGSEGV"
    assert how_it_ended(-9) == "its process ended by SIGKILL (out of memory?)"
    assert how_it_ended(1) == "its process ended with status 1"
