"""A file is written completely or not at all."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from crafted import Full
from matplotlib.figure import Figure

from care_mm import files
from care_mm.checkpoint.writing import write_torch
from care_mm.errors import InputError
from care_mm.files import save_figure, write_bytes

LARGE = {"state_dict": {"a": torch.ones(30_000), "b": torch.ones(20_000)}}
WRITERS = [
    (partial(write_bytes, bytes(200_000)), "file.bin"),
    (partial(write_torch, LARGE), "care.pth"),
    (partial(save_figure, Figure()), "figure.raw"),
]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("accident", [Full, KeyboardInterrupt])
def test_accident_leaves_the_old_file_and_nothing_else(
    accident: type, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise accident()

    path = tmp_path / "care.pth"
    path.write_bytes(b"old")
    monkeypatch.setattr(files.os, step, fail)
    expected = InputError if accident is Full else accident
    with pytest.raises(expected) as caught:
        write_bytes(b"new", path)
    monkeypatch.undo()
    if accident is Full:
        assert f"{path}: could not be written (No space left on device)" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["care.pth"]


@pytest.mark.parametrize(("write", "name"), WRITERS)
def test_file_larger_than_allowed_is_one_line(write: Callable, name: str, tmp_path: Path) -> None:
    """The system's limit ends a write in the middle, as a full disk does."""
    path, before = tmp_path / name, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"could not be written \(File too large\)"):
            write(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("links", [True, False])
def test_existing_file_is_kept(links: bool, tmp_path: Path, monkeypatch) -> None:
    if not links:
        monkeypatch.setattr(files.os, "link", _no_links)
    path = tmp_path / "care.pth"
    write_bytes(b"old", path, overwrite=False)
    assert path.read_bytes() == b"old"
    with pytest.raises(InputError, match="exists already"):
        write_bytes(b"new", path, overwrite=False)
    (tmp_path / "dangling.pth").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="exists already"):
        write_bytes(b"new", tmp_path / "dangling.pth", overwrite=False)
    assert path.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["care.pth", "dangling.pth"]


def _no_links(*_: object) -> None:
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _read_only(path: Path) -> Path:
    """A folder that even root cannot write to."""
    return Path("/proc") / path.name


@pytest.mark.parametrize(
    "place",
    [lambda folder: folder / "missing" / "care.pth", lambda folder: folder, _read_only],
    ids=["missing folder", "a folder", "read-only folder"],
)
def test_folder_that_cannot_be_written_to_is_one_line(place: Callable, tmp_path: Path) -> None:
    (tmp_path / "inside").touch()
    with pytest.raises(InputError, match="could not be written") as caught:
        write_bytes(b"new", place(tmp_path))
    assert str(caught.value).isprintable()
    assert os.listdir(tmp_path) == ["inside"]


@pytest.mark.parametrize("call", ["open", "fsync"])
def test_folder_that_cannot_be_synced_is_no_error(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(os, call)

    def refuse_folders(target: int | Path, *args: object) -> object:
        if os.path.isdir(target):
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(target, *args)

    monkeypatch.setattr(files.os, call, refuse_folders)
    write_bytes(b"new", tmp_path / "care.pth")
    assert (tmp_path / "care.pth").read_bytes() == b"new"
