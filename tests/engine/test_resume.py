"""The newest intact checkpoint is chosen, and the log says why others were skipped."""

from __future__ import annotations

import shutil
from pathlib import Path

import crafted
import pytest
import torch
from tiny_job import error_of, finish, settings

from care_mm.checkpoint.reading import read_checkpoint
from care_mm.engine.hooks.checkpoint import LAST
from care_mm.engine.resume import existing_run, find_resumable, saved
from care_mm.errors import InputError


@pytest.fixture
def work_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.mark.parametrize("damage", ["empty", "half", "bit", "not a checkpoint", "nan", "weights"])
def test_resume_takes_the_newest_intact_checkpoint_and_says_why(
    damage: str, work_dir: Path, capsys: pytest.CaptureFixture
) -> None:
    newest = saved(work_dir)[0]
    data = newest.read_bytes()
    content = read_checkpoint(newest)
    if damage == "bit":
        data = bytearray(data)
        data[len(data) // 2] ^= 1
    elif damage == "nan":
        next(iter(content["state_dict"].values())).fill_(float("nan"))
    bad = {"empty": b"", "half": data[: len(data) // 2], "bit": bytes(data)}
    bad["not a checkpoint"] = b"hello"
    if damage in bad:
        newest.write_bytes(bad[damage])
    else:
        keys = content if damage == "nan" else {"state_dict"}
        torch.save({key: content[key] for key in keys}, newest)
    path, state = find_resumable(settings(work_dir))
    assert (path.name, state["meta"]["epoch"]) == ("epoch_1.pth", 1)
    printed = capsys.readouterr()
    assert f"skipped checkpoint {newest}" in printed.out + printed.err


def test_no_usable_checkpoint_is_one_line(work_dir: Path) -> None:
    for file in saved(work_dir):
        file.write_bytes(b"")
    with pytest.raises(InputError, match=r"none of 2 checkpoints in .* is usable"):
        find_resumable(settings(work_dir))


def test_last_checkpoint_is_not_needed(work_dir: Path) -> None:
    (work_dir / LAST).unlink()
    assert find_resumable(settings(work_dir))[0].name == "epoch_2.pth"
    assert existing_run(settings(work_dir)) == "epoch_2.pth"


def test_fresh_folder_holds_no_run(tmp_path: Path) -> None:
    assert existing_run(settings(tmp_path)) is None
    assert find_resumable(settings(tmp_path)) is None


def test_resumed_file_with_code_in_it_is_refused(work_dir: Path, tmp_path: Path) -> None:
    content = read_checkpoint(saved(work_dir)[0])
    content["optimizer"]["state"] = crafted.touch(tmp_path / "marker")
    torch.save(content, saved(work_dir)[0])
    assert finish(work_dir, str(work_dir / "epoch_2.pth"), rounds=3) == 2
    assert "refused" in error_of(work_dir)
    assert find_resumable(settings(work_dir))[0].name == "epoch_1.pth"
    assert not (tmp_path / "marker").exists()
