"""Folders for results are created and tried before anything is computed."""

from __future__ import annotations

from pathlib import Path

import pytest

from care_mm.errors import InputError
from care_mm.files import prepare_folder


@pytest.mark.parametrize("option", ["--work-dir", "--out-dir", "--show-dir"])
def test_a_folder_that_is_not_writable_is_refused(option: str) -> None:
    """/proc is read-only even for root."""
    with pytest.raises(InputError, match=rf"{option} .*: cannot be written .* read-only"):
        prepare_folder("/proc/care_mm_run", option)


@pytest.mark.parametrize("below", [".", "run", "run/deeper"])
def test_a_file_in_the_way_is_named(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"--out-dir \S+: {tmp_path}/file is a file") as caught:
        prepare_folder(tmp_path / "file" / below, "--out-dir")
    assert "disk" not in str(caught.value)


def test_a_writable_folder_is_left_empty(tmp_path: Path, monkeypatch) -> None:
    prepare_folder(tmp_path / "a" / "b", "--work-dir")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    monkeypatch.chdir(tmp_path)
    prepare_folder("c", "--work-dir")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_folder_that_is_only_tried_does_not_stay(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare_folder("a/b", "--out-dir", keep=False)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").mkdir()
    prepare_folder(tmp_path / "a" / "b" / "c", "--out-dir", keep=False)
    prepare_folder("a", "--out-dir", keep=False)
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]
