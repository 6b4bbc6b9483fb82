"""A full or read-only disk is found before the run starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from care_mm.engine.disk import check_room
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
