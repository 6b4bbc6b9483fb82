"""In several processes, a fault in one ends all of them, with its reason."""

from __future__ import annotations

import os
import signal
import socket
import time
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import injectors
import torch
from tiny_job import start, told

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.resume import read_state


def start_ranks(
    work_dir: Path, world: int, resume: str | None = None, only: dict | None = None, **options: Any
) -> list[BaseProcess]:
    """Start the job in ``world`` processes; ``only`` has options for single ranks."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [
        start(
            work_dir,
            resume,
            **options | (only or {}).get(rank, {}),
            log=f".{rank}",
            launcher="pytorch",
            prepare=partial(injectors.be_rank, rank=rank, world=world, port=port),
        )
        for rank in range(world)
    ]


def statuses(processes: list[BaseProcess]) -> list[int | None]:
    """Return the exit statuses; ``None`` for a process that hangs."""
    until = time.monotonic() + 120
    for process in processes:
        process.join(max(0.1, until - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def test_more_processes_than_samples(tmp_path: Path) -> None:
    assert statuses(start_ranks(tmp_path / "run", 3, length=2, rounds=2)) == [0, 0, 0]
    content = read_checkpoint((tmp_path / "run" / "last_checkpoint").read_text())
    assert all(torch.isfinite(value).all() for value in content["state_dict"].values())


def test_loss_that_is_nan_on_one_rank_ends_all_and_is_named(tmp_path: Path) -> None:
    processes = start_ranks(tmp_path / "run", 2, only={1: dict(nan_at=3)})
    assert statuses(processes) == [2, 2]
    for rank in range(2):
        line = (tmp_path / f"run.error.{rank}").read_text()
        assert "iteration 3: loss_extra is nan" in line and "_rank1.pth" in line


def test_signal_to_one_rank_stops_all_with_a_checkpoint(tmp_path: Path) -> None:
    processes = start_ranks(tmp_path / "run", 2, rounds=300)
    until = time.monotonic() + 90
    while not told(tmp_path / "run") and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(processes[1].pid, signal.SIGTERM)
    assert statuses(processes) == [130, 130]
    read_state((tmp_path / "run" / "last_checkpoint").read_text())
