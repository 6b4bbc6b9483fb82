"""Runs at the limits: batches of one image, bad data, dead workers, seeds and signals."""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

import injectors
import pytest
import torch
from tiny_job import finish, start, told

from care_mm.checkpoint.reading import read_checkpoint


def test_run_with_single_images_of_32_pixels(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", batch=1, rounds=1) == 0
    assert [len(line["samples"]) for line in told(tmp_path / "run")] == [1] * 12


def test_dead_worker_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", workers=1, prepare=injectors.kill_worker) == 2
    line = (tmp_path / "run.error").read_text()
    assert "killed by signal" in line or "exited unexpectedly" in line
    assert "num_workers" in line and "\n" not in line


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_skipped_in_a_run(workers: int, tmp_path: Path) -> None:
    """The validation set has the same bad files, and they end the validation."""
    prepare = partial(injectors.bad_samples, bad=2)
    assert finish(tmp_path / "run", workers=workers, prepare=prepare) == 2
    line = (tmp_path / "run.error").read_text()
    assert "noise://0" in line and "no such image" in line and "Traceback" not in line
    lines = (tmp_path / "run" / "bad_images.txt").read_text().splitlines()
    assert {entry.split(":")[0] + ":" + entry.split(":")[1] for entry in lines} == {
        "noise://0",
        "noise://1",
    }
    samples = [name for line in told(tmp_path / "run") for name in line["samples"]]
    assert len(samples) == 12 and not {"noise://0", "noise://1"} & set(samples)


@pytest.mark.parametrize("workers", [0, 1])
def test_data_without_a_good_sample_end_the_run(workers: int, tmp_path: Path) -> None:
    prepare = partial(injectors.bad_samples, bad=100)
    assert finish(tmp_path / "run", workers=workers, prepare=prepare) == 2
    line = (tmp_path / "run.error").read_text()
    assert ("in a row" in line or "which is more than" in line) and "Traceback" not in line


# Seeds


@pytest.mark.parametrize("by_epoch", [True, False])
def test_same_seed_gives_the_same_weights_to_the_last_bit(by_epoch: bool, tmp_path: Path) -> None:
    for name in ("first", "second"):
        options = dict(by_epoch=by_epoch, rounds=2, workers=0 if name == "first" else 2)
        assert finish(tmp_path / name, **options, deterministic=True) == 0
    assert told(tmp_path / "first") == told(tmp_path / "second")
    last = [
        read_checkpoint((tmp_path / n / "last_checkpoint").read_text()) for n in ("first", "second")
    ]
    for key in ("state_dict", "ema_state_dict"):
        assert all(torch.equal(v, last[1][key][k]) for k, v in last[0][key].items())


def test_another_seed_gives_other_samples(tmp_path: Path) -> None:
    for seed in (1, 2):
        assert finish(tmp_path / str(seed), seed=seed, rounds=1) == 0
    first, second = told(tmp_path / "1"), told(tmp_path / "2")
    assert first[0]["pixels"] != second[0]["pixels"]


def test_augmentation_differs_from_epoch_to_epoch_with_workers(tmp_path: Path) -> None:
    """mmengine gives its workers the same seed in every epoch."""
    assert finish(tmp_path / "run", workers=1, rounds=3) == 0
    pixels = [line["pixels"] for line in told(tmp_path / "run")]
    assert len(set(pixels)) == len(pixels) == 12


# Signals


def test_sigterm_saves_too(tmp_path: Path) -> None:
    """Schedulers send it before they kill."""
    process = start(tmp_path / "run", rounds=200)
    until = time.monotonic() + 90
    while not told(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    process.join(60)
    assert process.exitcode == 130
    done = len(told(tmp_path / "run"))
    last = read_checkpoint((tmp_path / "run" / "last_checkpoint").read_text())
    assert last["meta"]["iter"] == done
