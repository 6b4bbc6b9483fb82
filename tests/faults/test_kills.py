"""SIGKILL during saves, many times: no checkpoint is lost, and resumed runs equal others."""

from __future__ import annotations

import json
import random
import signal
from functools import partial
from pathlib import Path
from typing import Any

import injectors
import pytest
import torch
from injectors import MARKS
from tiny_job import finish, settings, told

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.hooks.checkpoint import LAST
from care_mm.engine.resume import find_resumable, read_state, saved
from care_mm.files import PARTIAL

WIDTH = 600_000  # a checkpoint of 10 MB, so that most kills interrupt a write
SAVE = 0.04  # seconds that writing one takes, about
LONG = [pytest.mark.long, pytest.mark.timeout(1800)]


def curve(work_dir: Path) -> dict[int, dict]:
    """Return the record of each iteration; repeated iterations must have equal records."""
    lines: dict[int, dict] = {}
    for line in told(work_dir):
        assert lines.setdefault(line["iter"], line) == line
    return lines


def killed_in_save(
    work_dir: Path, number: int, draw: random.Random | None = None, **options: Any
) -> bool:
    """Resume the job and kill it at a random moment of the ``number``-th save.

    Without ``draw``, the kill comes when that save begins.

    Returns:
        Whether the job was killed; False if it ended before.
    """
    mark, delay = "save", 0.0
    if draw is not None:
        mark, delay = draw.choice(list(MARKS)), draw.uniform(0, SAVE)
    prepare = partial(injectors.kill_in_save, mark=mark, number=number, delay=delay)
    status = finish(work_dir, "auto", prepare=prepare, **options)
    assert status in (0, -signal.SIGKILL), work_dir.with_suffix(".log").read_text()[-3000:]
    return status == -signal.SIGKILL


def check_work_dir(work_dir: Path, kept: int = 2) -> None:
    """Check that every checkpoint is intact, and that every path to one is valid."""
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


def newest_intact(work_dir: Path) -> int:
    """Return the iteration that a run resumes from; all other intact checkpoints are older."""
    resumed = find_resumable(settings(work_dir))
    states = [read_state(file)["meta"]["iter"] for file in saved(work_dir)]
    assert resumed is not None and resumed[1]["meta"]["iter"] == max(states)
    return max(states)


@pytest.mark.parametrize("kills", [15, pytest.param(60, marks=LONG)])
def test_kills_at_random_moments_of_saving(kills: int, tmp_path: Path) -> None:
    """Every planned kill strikes, and leaves a folder that the next process resumes from."""
    work_dir, draw = tmp_path / "run", random.Random(kills)
    options = dict(length=6, rounds=10**6, width=WIDTH)  # it never ends by itself
    newest, partial_files = 0, 0
    for _ in range(kills):
        before = len(told(work_dir))
        assert killed_in_save(work_dir, draw.choice((1, 2, 3)), draw, **options)
        assert told(work_dir)[before]["iter"] == newest, "resumed from another iteration"
        partial_files += any(work_dir.glob(f".*{PARTIAL}"))
        check_work_dir(work_dir)
        if saved(work_dir):
            current = newest_intact(work_dir)
            assert current >= newest
            newest = current
    print(f"{kills} kills, {partial_files} during a write, {newest} iterations")
    assert newest > 0


@pytest.mark.parametrize("by_epoch", [True, False])
def test_killed_runs_equal_the_uninterrupted_one(by_epoch: bool, tmp_path: Path) -> None:
    options = dict(by_epoch=by_epoch, length=6, rounds=12, width=WIDTH)
    assert finish(tmp_path / "uninterrupted", **options) == 0
    draw, kills = random.Random(by_epoch), 0
    # If every kill hit the first save, the run would never advance.
    while killed_in_save(tmp_path / "killed", draw.choice((1, 2, 3)), draw, **options):
        kills += 1
        check_work_dir(tmp_path / "killed")
    print(f"{kills} kills")
    assert kills >= 3
    expected, actual = curve(tmp_path / "uninterrupted"), curve(tmp_path / "killed")
    assert expected.keys() == actual.keys() == set(range(24))
    assert expected == actual
    first, second = (
        read_checkpoint(Path((tmp_path / name / LAST).read_text()))
        for name in ("uninterrupted", "killed")
    )
    for key in ("state_dict", "ema_state_dict"):
        for name, value in first[key].items():
            assert torch.equal(value, second[key][name]), name
    assert json.dumps(first["param_schedulers"]) == json.dumps(second["param_schedulers"])


@pytest.mark.parametrize("by_epoch", [True, False])
def test_kill_with_loader_workers(by_epoch: bool, tmp_path: Path) -> None:
    """Workers have their own generators, and read ahead."""
    options = dict(by_epoch=by_epoch, rounds=3, workers=2)
    assert finish(tmp_path / "uninterrupted", **(options | dict(workers=0))) == 0
    assert killed_in_save(tmp_path / "killed", 2, **options)
    assert finish(tmp_path / "killed", "auto", **options) == 0
    assert curve(tmp_path / "uninterrupted") == curve(tmp_path / "killed")


def test_random_seed_is_kept(tmp_path: Path) -> None:
    """A run without a seed in its config draws one, and the resumed run uses it."""
    options = dict(seed=None, rounds=3)
    assert killed_in_save(tmp_path / "run", 3, **options)
    before = curve(tmp_path / "run")
    assert finish(tmp_path / "run", "auto", **options) == 0
    epochs = {}
    for line in curve(tmp_path / "run").values():
        epochs.setdefault(line["epoch"], []).extend(line["samples"])
    assert len(before) < 12 and all(len(set(samples)) == 12 for samples in epochs.values())


@pytest.mark.parametrize("by_epoch", [True, False])
def test_ctrl_c_saves_and_the_run_resumes_in_the_middle_of_an_epoch(
    by_epoch: bool, tmp_path: Path
) -> None:
    options = dict(by_epoch=by_epoch, rounds=3, width=1000)
    assert finish(tmp_path / "uninterrupted", **options) == 0
    assert finish(tmp_path / "run", interrupt_at=5, **options) == 130
    last = Path((tmp_path / "run" / LAST).read_text())
    assert read_state(last)["meta"]["iter"] == 6
    assert len(told(tmp_path / "run")) == 6
    assert finish(tmp_path / "run", "auto", **options) == 0
    assert curve(tmp_path / "uninterrupted") == curve(tmp_path / "run")
    assert len(told(tmp_path / "run")) == 12, "an iteration was done twice"
    assert not list((tmp_path / "run").glob("interrupted_*")), "the next checkpoint replaces it"
