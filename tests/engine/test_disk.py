"""A full or read-only disk is found before the run starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from care_mm.engine.disk import check_room, prepare_work_dir
from care_mm.errors import InputError


def test_full_disk_is_found_and_existing_checkpoints_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run replaces the checkpoints that the folder holds."""
    usage = shutil.disk_usage(tmp_path)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"need 11 MiB \(3 of 4\) and 10 MiB are free: make room"):
        check_room(tmp_path, size=4_000_000, number=3)
    assert not any(tmp_path.iterdir())
    (tmp_path / "epoch_1.pth").write_bytes(bytes(3_000_000))
    check_room(tmp_path, size=4_000_000, number=3)
    assert [file.name for file in tmp_path.iterdir()] == ["epoch_1.pth"]


@pytest.mark.parametrize("place", ["file", "nowhere"])
def test_work_dir_that_is_not_writable_is_refused(place: str, tmp_path: Path) -> None:
    """/proc is read-only even for root."""
    (tmp_path / "file").touch()
    folder = tmp_path / "file" / "run" if place == "file" else Path("/proc/care_mm_run")
    with pytest.raises(InputError, match=r"--work-dir .*: cannot be written"):
        prepare_work_dir(folder)


def test_check_leaves_a_writable_work_dir_empty(tmp_path: Path) -> None:
    prepare_work_dir(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
