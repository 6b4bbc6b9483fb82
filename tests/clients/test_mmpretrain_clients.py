"""The commands and the inferencer of mmpretrain on our config, as a user calls them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from clients.conftest import CONFIGS, SMALL, TOOLS, Call, metrics_of, shipped_tool
from mmpretrain import ImageClassificationInferencer
from scripts import call as call_script

CONFIG = f"""
_base_ = {str(CONFIGS / "shapes" / "care_s0_shapes.py")!r}
{SMALL}
train_dataloader = dict(batch_size=8, dataset=dict(draw=draw, indices=16), **loading)
model = dict(teacher=None)
train_cfg = dict(max_epochs=1, val_interval=1)
"""
IMAGES = "data/shapes/imagenet/val"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a run of mmpretrain's train.py."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "job.py").write_text(CONFIG)
    call_script(shipped_tool("mmpretrain", "train.py"), "job.py", "--work-dir", "run", cwd=folder)
    return folder


def test_train_writes_the_same_files_as_our_tool(folder: Path) -> None:
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"epoch_1.pth", "last_checkpoint", "curves.png", "predictions.png"} <= names


def test_test_gives_the_same_metrics_as_our_tool(folder: Path, call: Call) -> None:
    args = ("job.py", "run/epoch_1.pth", "--work-dir")
    call(shipped_tool("mmpretrain", "test.py"), *args, "tested", "--out", "out.pkl")
    call(TOOLS / "test.py", *args, "ours")
    metrics = metrics_of(folder / "tested")
    assert metrics == metrics_of(folder / "ours") and "accuracy/top1" in metrics
    tool = shipped_tool("mmpretrain", "analysis_tools/confusion_matrix.py")
    call(tool, "job.py", "out.pkl", "--out", "confusion.pkl", "--show-path", "confusion.png")
    assert (folder / "confusion.pkl").is_file() and (folder / "confusion.png").is_file()


def test_browse_dataset(folder: Path, call: Call) -> None:
    args = ("job.py", "--not-show", "--output-dir", "browsed", "--show-number", 2)
    call(shipped_tool("mmpretrain", "visualization/browse_dataset.py"), *args, "--mode", "original")
    assert len(list((folder / "browsed").iterdir())) == 2


def test_get_flops(call: Call) -> None:
    config = CONFIGS / "care_s0_imagenet.py"
    output = call(shipped_tool("mmpretrain", "analysis_tools/get_flops.py"), config)
    assert "Params: 7.34M" in output
    assert float(re.search(r"Flops: ([\d.]+)G", output)[1]) == pytest.approx(0.719, abs=2e-3)


def test_analyze_logs(folder: Path, call: Call) -> None:
    (log,) = (folder / "run").glob("*/vis_data/2*.json")
    tool = shipped_tool("mmpretrain", "analysis_tools/analyze_logs.py")
    call(tool, "plot_curve", log, "--keys", "loss", "accuracy/top1", "--out", "curve.png")
    assert (folder / "curve.png").stat().st_size > 0
    assert "average iter time" in call(tool, "cal_train_time", log)


def test_the_inferencer_predicts_the_same_as_our_tool(
    folder: Path, call: Call, alone: None
) -> None:
    images = sorted(map(str, Path(IMAGES).rglob("*.JPEG")))
    inferencer = ImageClassificationInferencer("job.py", "run/epoch_1.pth", device="cpu")
    predictions = inferencer(images, show_dir="inferred")
    call(TOOLS / "infer.py", "job.py", "run/epoch_1.pth", *images, "--out-dir", "inferred_by_ours")
    own = json.loads((folder / "inferred_by_ours" / "predictions.json").read_text())
    assert len(list((folder / "inferred").iterdir())) == len(own) == len(predictions) > 1
    for name, result in zip(sorted(own), predictions, strict=True):
        assert result["pred_label"] == own[name]["label"]
        assert result["pred_class"] == own[name]["class"]
        assert result["pred_score"] == pytest.approx(own[name]["score"], abs=1e-4)
