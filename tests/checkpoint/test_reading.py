"""Reading a checkpoint runs no code in it and detects damage."""

from __future__ import annotations

import argparse
import io
import random
import tarfile
from collections import Counter, OrderedDict
from pathlib import Path

import crafted
import numpy as np
import pytest
import torch
from crafted import Call, equal, weights
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner import CheckpointLoader
from torch import nn
from torch.optim.lr_scheduler import MultiStepLR

from care_mm.checkpoint.loaders import safe_loading
from care_mm.checkpoint.reading import read_checkpoint
from care_mm.checkpoint.writing import write_checkpoint
from care_mm.errors import InputError

pytestmark = pytest.mark.usefixtures("reader")


def check_refused(path: Path, match: str) -> None:
    """Check for one line that names the file, without torch's advice to read it unsafely."""
    with pytest.raises(InputError, match=match) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert str(path) in message
    assert message.isprintable()
    assert "set to `False`" not in message


# Code in files


@pytest.mark.parametrize("payload", crafted.PAYLOADS)
def test_code_in_a_checkpoint_is_never_run(payload: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "crafted.pth", tmp_path / "marker"
    content = {"state_dict": weights(), "args": crafted.PAYLOADS[payload](marker)}
    crafted.save(content, path, marker)
    check_refused(path, "refused, it is damaged or holds more than weights")
    with safe_loading(), pytest.raises(InputError, match="refused"):
        CheckpointLoader.load_checkpoint(str(path), "cpu")
    assert not marker.exists()


@pytest.mark.parametrize("place", crafted.PLACES)
def test_code_is_refused_wherever_it_hides(place: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "crafted.pth", tmp_path / "marker"
    crafted.save(crafted.PLACES[place](weights(), marker), path, marker)
    check_refused(path, "refused")
    assert not marker.exists()


@pytest.mark.parametrize(
    "call",
    [
        Call(getattr, HistoryBuffer, "__init__"),
        Call(getattr, HistoryBuffer, "register_statistics"),
        Call(getattr, np.ndarray, "tofile"),
        Call(getattr, argparse.Namespace, "__init__"),
        Call(Call(getattr, HistoryBuffer, "mean"), HistoryBuffer([1.0], [1])),
    ],
)
def test_getattr_returns_the_statistics_of_log_buffers_only(call: Call, tmp_path: Path) -> None:
    torch.save({"x": call}, tmp_path / "crafted.pth")
    check_refused(tmp_path / "crafted.pth", "refused")


def test_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Conv2d(1, 1, 1), tmp_path / "model.pth")
    check_refused(tmp_path / "model.pth", "Unsupported global")


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_archives_that_torch_before_2_6_does_not_check_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would run the pickle in a tar file, and load a TorchScript program."""
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("torch reads it"))
    with tarfile.open(tmp_path / "old.pth.tar", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.addfile(tarfile.TarInfo(name), io.BytesIO())
    check_refused(tmp_path / "old.pth.tar", "not a zip file or pickle")
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "script.pth")
    check_refused(tmp_path / "script.pth", "TorchScript")


@pytest.mark.skipif(not hasattr(torch.serialization, "get_safe_globals"), reason="torch before 2.6")
def test_reading_does_not_change_torchs_allow_list(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())
    torch.save({"args": argparse.Namespace(lr=1), "n": np.float64(1)}, tmp_path / "care.pth")
    assert read_checkpoint(tmp_path / "care.pth")["args"].lr == 1
    assert set(torch.serialization.get_safe_globals()) == before


def test_the_milestones_of_a_scheduler_are_readable(tmp_path: Path) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    schedule = MultiStepLR(optimizer, milestones=[8, 11])
    torch.save({"param_schedulers": [schedule.state_dict()]}, tmp_path / "schedule.pth")
    (state,) = read_checkpoint(tmp_path / "schedule.pth")["param_schedulers"]
    assert state["milestones"] == Counter({8: 1, 11: 1})


def test_message_hub_with_every_kind_of_number_is_readable(tmp_path: Path) -> None:
    hub = MessageHub("numbers")
    for value in (1, 2.5, np.float32(0.5), np.int64(3), torch.tensor(0.25)):
        hub.update_scalar("train/loss", value)
    for dtype in ("?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8"):
        hub.update_info(dtype, np.ones(2, dtype))
    hub.update_info("scalar", np.float16(2))
    hub.update_info("order", OrderedDict(a=slice(1, 2)))
    torch.save({"state_dict": {}, "message_hub": hub.state_dict()}, tmp_path / "hub.pth")
    content = read_checkpoint(tmp_path / "hub.pth")["message_hub"]
    assert content["log_scalars"]["train/loss"].mean() == pytest.approx(7.25 / 5)
    for dtype in ("?", "i1", "u1", "i4", "i8", "u8", "f2", "f4", "f8"):
        array = content["runtime_info"][dtype]
        assert (array.dtype, array.tolist()) == (np.dtype(dtype), [1, 1])
    assert content["runtime_info"]["scalar"] == 2
    assert content["runtime_info"]["order"] == OrderedDict(a=slice(1, 2))


def test_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, path: str) -> None:
        raise OSError("HTTP Error 404: Not Found")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with pytest.raises(InputError, match=r"https://example\.com/x\.pth: could not be downloaded"):
        read_checkpoint("https://example.com/x.pth")


# Damage


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", crafted.damaged(b""))
def test_damaged_files_are_refused(damage: str, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"care{suffix}"
    write_checkpoint({"state_dict": weights()}, path)
    path.write_bytes(crafted.damaged(path.read_bytes())[damage])
    reasons = {"empty": "the file is empty", "page": "it is a web page"}
    check_refused(path, f"refused, it is damaged.*{reasons.get(damage, '')}")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_flipped_bits_are_refused_or_change_nothing(suffix: str, tmp_path: Path) -> None:
    """A .pth file has checksums for all bytes; safetensors has none for the numbers."""
    path, content = tmp_path / f"care{suffix}", {"state_dict": weights()}
    write_checkpoint(content, path)
    intact, draw, refused = path.read_bytes(), random.Random(0), 0
    end = len(intact) if suffix == ".pth" else int.from_bytes(intact[:8], "little") // 2
    for _ in range(200):
        broken = bytearray(intact)
        broken[draw.randrange(end)] ^= 1 << draw.randrange(8)
        path.write_bytes(broken)
        try:
            state = read_checkpoint(path)["state_dict"]
        except InputError as error:
            assert str(path) in str(error) and str(error).isprintable()
            refused += 1
        else:
            if suffix == ".pth":
                assert equal(state, content["state_dict"])
    assert refused > 100


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    for suffix in (".pth", ".safetensors"):
        path = tmp_path / f"care{suffix}"
        write_checkpoint({"state_dict": weights()}, path)
        intact = path.read_bytes()
        for length in range(0, len(intact), len(intact) // 60):
            path.write_bytes(intact[:length])
            check_refused(path, "refused, it is damaged")


def test_compressed_archive_is_refused(tmp_path: Path) -> None:
    """The archive may unpack to more than any disk holds."""
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    check_refused(tmp_path / "bomb.pth", "torch.save did not write")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    check_refused(tmp_path / "nowhere.pth", "no such file")
    check_refused(tmp_path, "no such file")
