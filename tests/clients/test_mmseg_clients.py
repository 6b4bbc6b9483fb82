"""mmseg's own commands and its inferencer on our config, as a user calls them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mmseg
import numpy as np
import pytest
import torch
from clients.conftest import CONFIGS, OURS, SMALL, Call, metrics_of, theirs
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
PICTURES = "data/shapes/ade/ADEChallengeData2016/images/validation"
TRAIN = ("job.py", "--work-dir", "run")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of mmseg's train.py, resumed once."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "job.py").write_text(CONFIG)
    train = theirs("mmseg", "train.py")
    call_script(train, *TRAIN, "--cfg-options", "custom_hooks=[]", cwd=folder)
    more = ("--resume", "--cfg-options", "train_cfg.max_iters=4")
    said = call_script(train, *TRAIN, *more, cwd=folder)
    assert "Iter(train) [3/4]" in said and "Iter(train) [1/4]" not in said
    return folder


def test_train_writes_what_ours_does(folder: Path) -> None:
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"iter_4.pth", "last_checkpoint", "curves.png", "predictions.png"} <= names


def test_test_agrees_with_ours(folder: Path, call: Call) -> None:
    args = ("job.py", "run/iter_4.pth", "--work-dir")
    shown = ("--show-dir", "shown", "--cfg-options", "default_hooks.visualization.interval=1")
    call(theirs("mmseg", "test.py"), *args, "tested", "--out", "out", *shown)
    call(OURS / "test.py", *args, "ours")
    metrics = metrics_of(folder / "tested")
    assert metrics == metrics_of(folder / "ours") and "mIoU" in metrics
    assert len(list((folder / "out").glob("*.png"))) == 2
    assert len(list((folder / "shown").rglob("*.png"))) == 2
    # It wants the classes in the data set's class; these are in the config.
    with pytest.raises(KeyError, match="classes"):
        call(theirs("mmseg", "analysis_tools/confusion_matrix.py"), "job.py", "out", "confused")


@pytest.mark.skipif(ORIGINAL, reason="mmseg 1.2.2 draws into an array that OpenCV refuses")
def test_browse_dataset(folder: Path, call: Call) -> None:
    args = ("job.py", "--not-show", "--output-dir", "browsed")
    call(theirs("mmseg", "analysis_tools/browse_dataset.py"), *args)
    assert len(list((folder / "browsed").iterdir())) == 8


@pytest.mark.skipif(ORIGINAL, reason="mmseg 1.2.2 gives mmengine a shape and inputs at once")
def test_get_flops(folder: Path, call: Call) -> None:
    args = ("job.py", "--shape", 64, 96)
    said = call(theirs("mmseg", "analysis_tools/get_flops.py"), *args)
    state = torch.load(folder / "run" / "iter_4.pth", weights_only=False)["state_dict"]
    total = sum(v.numel() for k, v in state.items() if k.endswith(("weight", "bias", "gamma")))
    assert float(re.search(r"Params: ([\d.]+)M", said)[1]) == pytest.approx(total / 1e6, abs=0.01)
    assert "Flops:" in said


def test_analyze_logs(folder: Path, call: Call, seaborn: None) -> None:
    log = max((folder / "run").glob("*/vis_data/2*.json"))
    options = ("--keys", "loss", "mIoU", "--out", "curve.png")
    call(theirs("mmseg", "analysis_tools/analyze_logs.py"), log, *options)
    assert (folder / "curve.png").stat().st_size > 0


def test_inferencer_sees_what_ours_does(folder: Path, call: Call, alone: None) -> None:
    inferencer = MMSegInferencer("job.py", "run/iter_4.pth", device="cpu")
    pictures = sorted(map(str, Path(PICTURES).iterdir()))
    found = inferencer(pictures, out_dir="inferred")["predictions"]
    call(OURS / "infer.py", "job.py", "run/iter_4.pth", PICTURES, "--out-dir", "seen")
    ours = json.loads((folder / "seen" / "predictions.json").read_text())
    assert len(found) == len(ours) == 2
    assert len(list((folder / "inferred" / "vis").iterdir())) == 2
    for name, prediction in zip(sorted(ours), found, strict=True):
        labels, counts = np.unique(prediction, return_counts=True)
        shares = ours[name]["classes"]
        assert len(shares) == len(labels)
        assert sorted(shares.values()) == pytest.approx(sorted(counts / counts.sum()), abs=1e-3)
