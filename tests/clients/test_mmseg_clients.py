"""The commands and the inferencer of mmseg on our config, as a user calls them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from clients.conftest import CONFIGS, SMALL, TOOLS, Call, metrics_of, shipped_tool
from mmseg.apis import MMSegInferencer
from scripts import call as call_script

CONFIG = f"""
_base_ = {str(CONFIGS / "shapes" / "semfpn_care_s0_shapes.py")!r}
{SMALL}
train_dataloader = dict(batch_size=2, dataset=dict(draw=draw), **loading)
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
"""
ORIGINAL = mmseg.__version__ == "1.2.2"
IMAGES = "data/shapes/ade/ADEChallengeData2016/images/validation"
TRAIN = ("job.py", "--work-dir", "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of mmseg's train.py, resumed once."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "job.py").write_text(CONFIG)
    train = shipped_tool("mmseg", "train.py")
    call_script(train, *TRAIN, "--cfg-options", "custom_hooks=[]", cwd=folder)
    more = ("--resume", "--cfg-options", "train_cfg.max_iters=4")
    output = call_script(train, *TRAIN, *more, cwd=folder)
    assert "Iter(train) [3/4]" in output and "Iter(train) [1/4]" not in output
    return folder


def test_train_writes_the_same_files_as_our_tool(folder: Path) -> None:
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"iter_4.pth", "last_checkpoint", "curves.png", "predictions.png"} <= names


def test_test_gives_the_same_metrics_as_our_tool(folder: Path, call: Call) -> None:
    args = ("job.py", "run/iter_4.pth", "--work-dir")
    shown = ("--show-dir", "shown", "--cfg-options", "default_hooks.visualization.interval=1")
    call(shipped_tool("mmseg", "test.py"), *args, "tested", "--out", "out", *shown)
    call(TOOLS / "test.py", *args, "ours")
    metrics = metrics_of(folder / "tested")
    assert metrics == metrics_of(folder / "ours") and "mIoU" in metrics
    assert len(list((folder / "out").glob("*.png"))) == 2
    assert len(list((folder / "shown").rglob("*.png"))) == 2
    # The tool reads the classes from the class of the data set, but ours are in the config.
    with pytest.raises(KeyError, match="classes"):
        call(
            shipped_tool("mmseg", "analysis_tools/confusion_matrix.py"), "job.py", "out", "confused"
        )


@pytest.mark.skipif(ORIGINAL, reason="mmseg 1.2.2 draws into an array that OpenCV refuses")
def test_browse_dataset(folder: Path, call: Call) -> None:
    args = ("job.py", "--not-show", "--output-dir", "browsed")
    call(shipped_tool("mmseg", "analysis_tools/browse_dataset.py"), *args)
    assert len(list((folder / "browsed").iterdir())) == 8


@pytest.mark.skipif(ORIGINAL, reason="mmseg 1.2.2 gives mmengine a shape and inputs at once")
def test_get_flops(folder: Path, call: Call) -> None:
    args = ("job.py", "--shape", 64, 96)
    output = call(shipped_tool("mmseg", "analysis_tools/get_flops.py"), *args)
    state = torch.load(folder / "run" / "iter_4.pth", weights_only=False)["state_dict"]
    total = sum(v.numel() for k, v in state.items() if k.endswith(("weight", "bias", "gamma")))
    assert float(re.search(r"Params: ([\d.]+)M", output)[1]) == pytest.approx(total / 1e6, abs=0.01)
    assert "Flops:" in output


def test_analyze_logs(folder: Path, call: Call, seaborn: None) -> None:
    log = max((folder / "run").glob("*/vis_data/2*.json"))
    options = ("--keys", "loss", "mIoU", "--out", "curve.png")
    call(shipped_tool("mmseg", "analysis_tools/analyze_logs.py"), log, *options)
    assert (folder / "curve.png").stat().st_size > 0


def test_the_inferencer_predicts_the_same_as_our_tool(
    folder: Path, call: Call, alone: None
) -> None:
    inferencer = MMSegInferencer("job.py", "run/iter_4.pth", device="cpu")
    images = sorted(map(str, Path(IMAGES).iterdir()))
    predictions = inferencer(images, out_dir="inferred")["predictions"]
    call(TOOLS / "infer.py", "job.py", "run/iter_4.pth", IMAGES, "--out-dir", "inferred_by_ours")
    own = json.loads((folder / "inferred_by_ours" / "predictions.json").read_text())
    assert len(predictions) == len(own) == 2
    assert len(list((folder / "inferred" / "vis").iterdir())) == 2
    for name, prediction in zip(sorted(own), predictions, strict=True):
        labels, counts = np.unique(prediction, return_counts=True)
        shares = own[name]["classes"]
        assert len(shares) == len(labels)
        assert sorted(shares.values()) == pytest.approx(sorted(counts / counts.sum()), abs=1e-3)
