"""Crafted checkpoints that a run resumes from; tests/checkpoint tests how files are read."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import crafted
import pytest
import torch
from tiny_job import finish

from care_mm.checkpoint.loaders import safe_loading
from care_mm.checkpoint.reading import read_checkpoint, trusting
from care_mm.checkpoint.writing import write_checkpoint
from care_mm.errors import InputError
from care_mm.files import sha256_of


@pytest.mark.parametrize("place", crafted.PLACES)
def test_resumed_file(place: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "epoch_1.pth", tmp_path / "marker"
    crafted.save(crafted.PLACES[place]({"w": torch.ones(2)}, marker), path, marker)
    assert finish(tmp_path / "run", str(path)) == 2
    assert "refused" in (tmp_path / "run.error").read_text()
    assert not marker.exists()


def test_trusted_file_is_read_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path, marker = tmp_path / "epoch_1.pth", tmp_path / "marker"
    crafted.save({"state_dict": {"w": torch.ones(2)}, "x": crafted.touch(marker)}, path, marker)
    with pytest.raises(InputError, match="refused"), safe_loading():
        read_checkpoint(path)
    assert not marker.exists()
    with safe_loading(), trusting():
        content = read_checkpoint(path)
    assert torch.equal(content["state_dict"]["w"], torch.ones(2)) and marker.exists()
    printed = capsys.readouterr()
    assert "can run any program with your rights" in printed.out + printed.err
    with pytest.raises(InputError, match="refused"):
        read_checkpoint(path)


def test_trust_is_not_used_for_a_safe_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_checkpoint({"state_dict": {"w": torch.ones(2)}}, tmp_path / "good.pth")
    with trusting():
        read_checkpoint(tmp_path / "good.pth")
    printed = capsys.readouterr()
    assert "trust" not in printed.out + printed.err


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_sha256_next_to_a_file_is_compared(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"care{suffix}"
    digest = write_checkpoint({"state_dict": {"w": torch.ones(2)}}, path)
    assert digest == sha256_of(path)
    note = path.with_name(path.name + ".sha256")
    note.write_text(f"{digest}  {path.name}\n")
    read_checkpoint(path)
    for wrong in ("0" * 64, "", "not a sum"):
        note.write_text(wrong)
        with pytest.raises(InputError, match="its SHA-256 is"):
            read_checkpoint(path)


def test_import_changes_no_state_of_other_packages() -> None:
    """Loaders, torch's switches, signal handlers and the environment stay the same."""
    program = """
import os, signal, torch, mmengine.runner, mmengine.fileio
from mmengine.runner import CheckpointLoader
safe_globals = getattr(torch.serialization, "get_safe_globals", list)  # torch before 2.6 has none
def state():
    return (list(CheckpointLoader._schemes.items()), dict(os.environ), torch.load,
            [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
            torch.are_deterministic_algorithms_enabled(), safe_globals(),
            type(mmengine.fileio.get_file_backend('x')), torch.get_rng_state().tolist())
before = state()
import care_mm, care_mm.engine.run, care_mm.report.summary, care_mm.checkpoint.reading
after = state()
assert before == after, [a for a, b in zip(before, after) if a != b]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_checkpoints_with_random_damage(tmp_path: Path) -> None:
    """Each of 300 files is read correctly or refused in one line; none crashes or hangs."""
    draw, path = random.Random(2), tmp_path / "damaged.pth"
    state = {f"layer{i}.weight": torch.randn(17, generator=torch.manual_seed(i)) for i in range(5)}
    torch.save({"state_dict": state, "meta": {"epoch": 1}, "optimizer": {"state": {}}}, path)
    intact, refused = path.read_bytes(), 0
    for number in range(300):
        data = bytearray(intact)
        if number % 3 == 0:
            del data[draw.randrange(len(data)) :]
        elif number % 3 == 1:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        else:
            start = draw.randrange(len(data) - 100)
            data[start : start + 100] = bytes(draw.randrange(256) for _ in range(100))
        path.write_bytes(data)
        try:
            content = read_checkpoint(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
            continue
        # Bytes between the entries of a zip file are never read.
        assert all(torch.equal(content["state_dict"][key], state[key]) for key in state)
    print(f"{refused} of 300 refused")
    assert refused > 200
