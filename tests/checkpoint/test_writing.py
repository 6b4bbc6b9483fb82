"""Written checkpoints read as they were, and an accident leaves no file behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from crafted import Full, equal, weights
from safetensors import safe_open

from care_mm import files
from care_mm.checkpoint import writing
from care_mm.checkpoint.reading import read_checkpoint
from care_mm.checkpoint.writing import serialise, write_checkpoint, write_torch
from care_mm.errors import InputError

LARGE = {"state_dict": {"a": torch.ones(30_000), "b": torch.ones(20_000)}}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_written_file_is_read_back(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"care{suffix}"
    shared = torch.arange(12.0)
    state = weights() | {"a": shared[:6], "b": shared[3:], "c": shared.view(3, 4).t()}
    sha256 = write_checkpoint({"state_dict": state, "meta": dict(arch="s0", keys=3)}, path)
    content = read_checkpoint(path)
    assert equal(content["state_dict"], state)
    assert {k: str(v) for k, v in content["meta"].items()} == {"arch": "s0", "keys": "3"}
    assert files.sha256_of(path) == sha256
    if suffix == ".pth":  # safetensors shuffles its metadata
        again = {"state_dict": dict(state), "meta": dict(arch="s0", keys=3)}
        assert write_checkpoint(again, path) == sha256
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_safetensors_metadata_are_strings(tmp_path: Path) -> None:
    path = tmp_path / "care.safetensors"
    write_checkpoint({"state_dict": weights(), "meta": dict(arch="s0", keys=3)}, path)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"arch": "s0", "keys": "3"}


@pytest.mark.parametrize(
    "content", [{"state_dict": {}, "optimizer": {}}, {"state_dict": {}, "meta": {"cfg": {}}}]
)
def test_safetensors_refuses_what_it_cannot_hold(content: dict, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"weights and flat meta only, not '(optimizer|cfg)'"):
        write_checkpoint(content, tmp_path / "care.safetensors")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("accident", [Full, KeyboardInterrupt])
def test_accident_in_the_middle_of_serialising(
    accident: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first error is raised, not a later one of torch, and the old file stays."""

    def fail(*args: object) -> None:
        raise accident()

    path = tmp_path / "care.pth"
    path.write_bytes(b"old")
    monkeypatch.setattr(writing, "AHEAD", 100_000)
    monkeypatch.setattr(files.os, "posix_fadvise", fail)
    with pytest.raises(InputError if accident is Full else accident):
        write_torch(LARGE, path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["care.pth"]


def test_serialised_into_a_file_or_in_memory_is_the_same(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "AHEAD", 100_000)
    write_torch(LARGE, tmp_path / "care.pth")
    assert (tmp_path / "care.pth").read_bytes() == serialise(LARGE, ".pth")
