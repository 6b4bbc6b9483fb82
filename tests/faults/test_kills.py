"""SIGKILL while a checkpoint is being saved, many times over: nothing is lost, nothing differs."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from tiny_job import finish, start, told

from care_mm.engine.checkpointing import LAST
from care_mm.engine.resume import read_state
from care_mm.loading import read_checkpoint
from care_mm.storage import PARTIAL

WIDTH = 600_000  # a checkpoint of 10 MB, so that most kills are in the middle of one


def curve(work_dir: Path) -> dict[int, dict]:
    """What each iteration told; an iteration that was done twice told the same both times."""
    lines: dict[int, dict] = {}
    for line in told(work_dir):
        assert lines.setdefault(line["iter"], line) == line
    return lines


def kill_while_saving(work_dir: Path, number: int, delay: float, **options) -> bool:
    """Resume, and kill ``delay`` seconds into the ``number``-th save; whether it got so far."""
    saves = work_dir.with_suffix(".saves")
    saves.unlink(missing_ok=True)
    process = start(work_dir, "auto", **options)
    until = time.monotonic() + 100
    while process.is_alive() and time.monotonic() < until:
        if saves.exists() and saves.stat().st_size >= number:
            time.sleep(delay)
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.001)
    process.join(20)
    assert process.exitcode in (0, -signal.SIGKILL), work_dir.with_suffix(".log").read_text()[
        -3000:
    ]
    return process.exitcode == -signal.SIGKILL


def check_work_dir(work_dir: Path, kept: int = 2) -> None:
    """Every file under a checkpoint's name is whole, and so is what points at one."""
    named = [file for file in work_dir.glob("*.pth")]
    states = [file for file in named if not file.name.startswith("best_")]
    for file in named:
        content = read_checkpoint(file)
        if file in states:
            read_state(file)
            best = content["message_hub"]["runtime_info"].get("best_ckpt")
            if file == max(states, key=lambda f: f.stat().st_mtime_ns):
                assert best is None or Path(best).is_file()
    last = work_dir / LAST
    if last.exists():
        assert Path(last.read_text()).is_file()
    if states:
        assert len(states) <= kept + 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("by_epoch", "kills"), [(True, 40), (False, 15)])
def test_killed_runs_equal_the_uninterrupted_one(
    by_epoch: bool, kills: int, tmp_path: Path, record_property
) -> None:
    options = dict(by_epoch=by_epoch, length=6, rounds=kills, width=WIDTH)
    assert finish(tmp_path / "whole", **options) == 0
    draw = random.Random(by_epoch)
    killed, partial, lives = 0, 0, 0
    while killed < kills:
        lives += 1
        assert lives < 3 * kills
        # Not the first save every time: the run would never get on.
        if not kill_while_saving(
            tmp_path / "killed", draw.choice((1, 2, 3)), draw.uniform(0, 0.06), **options
        ):
            break
        killed += 1
        partial += any((tmp_path / "killed").glob(f".*{PARTIAL}"))
        check_work_dir(tmp_path / "killed")
    assert finish(tmp_path / "killed", "auto", **options) == 0
    assert killed >= kills * 0.6, "the run is too short for its kills"
    record_property("kills", killed)
    record_property("in the middle of a write", partial)
    print(f"{killed} kills, {partial} in the middle of a write")

    whole, again = curve(tmp_path / "whole"), curve(tmp_path / "killed")
    assert whole.keys() == again.keys() == set(range(2 * kills))
    assert whole == again
    first, second = (
        read_checkpoint(Path((tmp_path / name / LAST).read_text())) for name in ("whole", "killed")
    )
    for key in ("state_dict", "ema_state_dict"):
        for name, value in first[key].items():
            assert torch.equal(value, second[key][name]), name
    assert json.dumps(first["param_schedulers"]) == json.dumps(second["param_schedulers"])


@pytest.mark.parametrize("by_epoch", [True, False])
def test_kill_with_loader_workers(by_epoch: bool, tmp_path: Path) -> None:
    """Workers have generators of their own, and have read ahead."""
    options = dict(by_epoch=by_epoch, rounds=3, workers=2)
    assert finish(tmp_path / "whole", **(options | dict(workers=0))) == 0
    kill_while_saving(tmp_path / "killed", 2, 0.0, **options)
    assert finish(tmp_path / "killed", "auto", **options) == 0
    assert curve(tmp_path / "whole") == curve(tmp_path / "killed")


def test_random_seed_is_kept(tmp_path: Path) -> None:
    """A run without a seed in its config draws one; the resumed run takes it over."""
    options = dict(seed=None, rounds=3)
    assert kill_while_saving(tmp_path / "run", 3, 0.0, **options)
    before = curve(tmp_path / "run")
    assert finish(tmp_path / "run", "auto", **options) == 0
    epochs = {}
    for line in curve(tmp_path / "run").values():
        epochs.setdefault(line["epoch"], []).extend(line["samples"])
    assert len(before) < 12 and all(len(set(samples)) == 12 for samples in epochs.values())


@pytest.mark.parametrize("by_epoch", [True, False])
def test_ctrl_c_saves_and_goes_on_in_the_middle_of_an_epoch(by_epoch: bool, tmp_path: Path) -> None:
    options = dict(by_epoch=by_epoch, rounds=3, width=1000)
    assert finish(tmp_path / "whole", **options) == 0
    assert finish(tmp_path / "run", interrupt_at=5, **options) == 130
    last = Path((tmp_path / "run" / LAST).read_text())
    assert read_state(last)["meta"]["iter"] == 6
    assert len(told(tmp_path / "run")) == 6
    assert finish(tmp_path / "run", "auto", **options) == 0
    assert curve(tmp_path / "whole") == curve(tmp_path / "run")
    assert len(told(tmp_path / "run")) == 12, "an iteration was done twice"
    assert not list((tmp_path / "run").glob("interrupted_*")), "the next checkpoint replaces it"
