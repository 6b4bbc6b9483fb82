"""mmengine's own loading is as safe as ours, and finds the weights in every form."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import crafted
import pytest
import torch
from crafted import equal
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from care_mm.checkpoint import loaders
from care_mm.checkpoint.loaders import safe_loading
from care_mm.errors import InputError

pytestmark = pytest.mark.usefixtures("reader")


def test_safe_loading_reads_good_files_and_restores_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "before")
    schemes = list(CheckpointLoader._schemes.items())
    model = nn.Conv2d(2, 3, 1)
    torch.save({"state_dict": model.state_dict(), "meta": {"epoch": 1}}, tmp_path / "good.pth")
    with pytest.raises(KeyError, match="inside"), safe_loading():
        other = nn.Conv2d(2, 3, 1)
        content = load_checkpoint(other, str(tmp_path / "good.pth"), strict=True)
        assert content["meta"]["epoch"] == 1
        assert equal(other.state_dict(), model.state_dict())
        with safe_loading():
            pass
        assert CheckpointLoader._schemes[""] is loaders.load_from_care_mm
        raise KeyError("inside")
    assert list(CheckpointLoader._schemes.items()) == schemes
    assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "before"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {f"module.module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict_ema": state},
    ],
    ids=["bare", "model", "module", "module twice", "ema"],
)
def test_mmengine_finds_the_weights_in_every_form(wrap: Callable, tmp_path: Path) -> None:
    """Its loading is not strict, so it would silently continue with random weights."""
    model, other = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
    torch.save(wrap(model.state_dict()), tmp_path / "good.pth")
    with safe_loading():
        load_checkpoint(other, str(tmp_path / "good.pth"))
    assert equal(other.state_dict(), model.state_dict())


def test_versions_of_modules_reach_mmengine(tmp_path: Path) -> None:
    """Modules use their version to rename keys and to add num_batches_tracked."""
    torch.save({"state_dict": nn.BatchNorm2d(2).state_dict()}, tmp_path / "good.pth")
    with safe_loading():
        state = CheckpointLoader.load_checkpoint(str(tmp_path / "good.pth"))["state_dict"]
    assert state._metadata[""] == {"version": 2}


def test_every_call_of_torch_load_uses_weights_only(tmp_path: Path) -> None:
    path, marker = tmp_path / "crafted.pth", tmp_path / "marker"
    crafted.save({"x": crafted.touch(marker)}, path, marker)
    with safe_loading(), pytest.raises(Exception, match="Weights only"):
        torch.load(path, weights_only=False)
    assert not marker.exists()
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_all_loaders_of_mmengine_are_replaced(tmp_path: Path) -> None:
    def other(path: str, map_location: str | None = None) -> dict:
        return {"path": path}

    schemes = CheckpointLoader._schemes.copy()
    CheckpointLoader.register_scheme("other://", other)
    try:
        with safe_loading():
            modules = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
            assert modules == {"care_mm.checkpoint.loaders", __name__}
            assert CheckpointLoader.load_checkpoint("other://x") == {"path": "other://x"}
            for name in (
                "s3://bucket/x.pth",
                "pavi://x",
                "open-mmlab://nothing",
                "torchvision://x",
            ):
                with pytest.raises(InputError, match=name):
                    CheckpointLoader.load_checkpoint(name)
    finally:
        CheckpointLoader._schemes.clear()
        CheckpointLoader._schemes.update(schemes)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("torchvision://resnet50", "resnet50-"),
        ("open-mmlab://resnet50_v1c", "resnet50_v1c-"),
        ("open-mmlab://resnet50_caffe", "resnet50_"),
        ("mmcls://mobilenet_v2", "mobilenet_v2_"),
    ],
)
def test_names_of_mmengines_tables_are_read_from_their_urls(
    name: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, path: str) -> None:
        assert url.startswith("https://") and Path(path).name.startswith(file)
        state = {"backbone.x": torch.ones(1), "head.x": torch.ones(1)}
        torch.save({"state_dict": state}, path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    with safe_loading():
        state = CheckpointLoader.load_checkpoint(name)["state_dict"]
    assert set(state) == ({"x"} if name.startswith("mmcls") else {"backbone.x", "head.x"})
