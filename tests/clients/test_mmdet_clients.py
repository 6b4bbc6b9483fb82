"""The commands and the inferencer of mmdet on our config, as a user calls them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from clients.conftest import CONFIGS, SMALL, TOOLS, Call, metrics_of, shipped_tool
from mmdet.apis import DetInferencer
from scripts import call as call_script

# A low threshold, so that a model after so few steps detects something.
CONFIG = f"""
_base_ = {str(CONFIGS / "shapes" / "maskrcnn_care_s0_shapes.py")!r}
{SMALL}
train_dataloader = dict(dataset=dict(draw=draw, indices=8), **loading)
model = dict(test_cfg=dict(rcnn=dict(score_thr=0.0, max_per_img=10)))
train_cfg = dict(max_epochs=1, val_interval=1)
"""
IMAGES = "data/shapes/coco/val2017"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of mmdet's train.py."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "job.py").write_text(CONFIG)
    call_script(shipped_tool("mmdet", "train.py"), "job.py", "--work-dir", "run", cwd=folder)
    return folder


def log_of(folder: Path) -> Path:
    (file,) = (folder / "run").glob("*/vis_data/2*.json")
    return file


def test_train_writes_the_same_files_as_our_tool(folder: Path) -> None:
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"epoch_1.pth", "last_checkpoint", "curves.png", "predictions.png"} <= names
    assert "loss_mask" in log_of(folder).read_text()


def test_test_gives_the_same_metrics_as_our_tool(folder: Path, call: Call) -> None:
    args = ("job.py", "run/epoch_1.pth", "--work-dir")
    call(
        shipped_tool("mmdet", "test.py"), *args, "tested", "--out", "out.pkl", "--show-dir", "shown"
    )
    call(TOOLS / "test.py", *args, "ours")
    metrics = metrics_of(folder / "tested")
    assert metrics == metrics_of(folder / "ours") and "coco/segm_mAP" in metrics
    assert len(list((folder / "tested").rglob("shown/*.jpg"))) == 2

    args = ("job.py", "out.pkl", "confused", "--score-thr", "0")
    call(shipped_tool("mmdet", "analysis_tools/confusion_matrix.py"), *args)
    assert (folder / "confused" / "confusion_matrix.png").is_file()


def test_browse_dataset(folder: Path, call: Call) -> None:
    args = ("job.py", "--not-show", "--output-dir", "browsed")
    call(shipped_tool("mmdet", "analysis_tools/browse_dataset.py"), *args)
    assert len(list((folder / "browsed").iterdir())) == 8


def test_get_flops(folder: Path, call: Call) -> None:
    output = call(shipped_tool("mmdet", "analysis_tools/get_flops.py"), "job.py", "--num-images", 1)
    state = torch.load(folder / "run" / "epoch_1.pth", weights_only=False)["state_dict"]
    total = sum(v.numel() for k, v in state.items() if k.endswith(("weight", "bias", "gamma")))
    assert float(re.search(r"Params: ([\d.]+)M", output)[1]) == pytest.approx(total / 1e6, abs=0.01)
    assert float(re.search(r"Flops: ([\d.]+)G", output)[1]) > 1


def test_analyze_logs(folder: Path, call: Call, seaborn: None) -> None:
    tool, log = shipped_tool("mmdet", "analysis_tools/analyze_logs.py"), log_of(folder)
    # The tool's default style is one of seaborn, which matplotlib does not have.
    options = ("--style", "default", "--out", "curve.png", "--keys")
    call(tool, "plot_curve", log, *options, "loss", "loss_mask", "segm_mAP")
    assert (folder / "curve.png").stat().st_size > 0
    assert "average iter time" in call(tool, "cal_train_time", log)


def test_the_inferencer_predicts_the_same_as_our_tool(
    folder: Path, call: Call, alone: None
) -> None:
    inferencer = DetInferencer("job.py", "run/epoch_1.pth", device="cpu", show_progress=False)
    images = sorted(map(str, Path(IMAGES).iterdir()))
    predictions = inferencer(images, out_dir="inferred")["predictions"]
    call(TOOLS / "infer.py", "job.py", "run/epoch_1.pth", IMAGES, "--out-dir", "inferred_by_ours")
    own = json.loads((folder / "inferred_by_ours" / "predictions.json").read_text())
    assert len(predictions) == len(own) == 2
    assert len(list((folder / "inferred" / "vis").iterdir())) == 2
    for name, prediction in zip(sorted(own), predictions, strict=True):
        instances = own[name]["instances"]
        assert len(instances) == 10
        assert prediction["labels"] == [instance["label"] for instance in instances]
        scores = [instance["score"] for instance in instances]
        assert prediction["scores"] == pytest.approx(scores, abs=1e-3)
