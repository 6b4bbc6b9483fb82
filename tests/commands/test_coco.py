"""Train, resume, test and infer with the config for COCO, on a miniature of COCO."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import pytest
import torch
from commands.conftest import REPOSITORY, Run, one_line
from miniature import make_coco
from pages import Page

from care_mm.report import read_run

CONFIG = REPOSITORY / "configs" / "maskrcnn_care_s1_coco.py"
SMALL = (
    "train_dataloader.dataset.pipeline.2.scale=(96, 96)",
    "val_dataloader.dataset.pipeline.1.scale=(96, 96)",
    "test_dataloader.dataset.pipeline.1.scale=(96, 96)",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "default_hooks.logger.interval=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder with data/coco and the authors' weights under the expected name."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "data").mkdir()
    make_coco(folder / "data" / "coco")
    (folder / "checkpoints").mkdir()
    weights = {k: v.float() for k, v in golden.state_dict("s1").items()}
    torch.save({"state_dict": weights}, folder / "checkpoints" / "care_s1_in1k.pth")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, run: Run):
    """Train an epoch, then resume for a second one."""
    options = ("--work-dir", "run", "--cfg-options", *SMALL)
    first = run("tools/train.py", CONFIG, *options, "train_cfg.max_epochs=1", cwd=folder)
    assert first.returncode == 0, first.stderr
    second = run(
        "tools/train.py", CONFIG, "--resume", *options, "train_cfg.max_epochs=2", cwd=folder
    )
    assert second.returncode == 0, second.stderr
    return first, second


def test_loaded_weights_are_counted(trained) -> None:
    first, _ = trained
    assert "768 of 768 tensors loaded from checkpoints/care_s1_in1k.pth" in first.stdout


def test_training_writes_checkpoints_predictions_and_curves(folder: Path, trained) -> None:
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"epoch_1.pth", "epoch_2.pth", "last_checkpoint"} <= names
    assert {"predictions.png", "curves.png", "maskrcnn_care_s1_coco.py"} <= names
    assert any((folder / "run").glob("*/vis_data/events*")), "no TensorBoard file"


def test_report_covers_the_run_before_and_after_resuming(folder: Path, trained) -> None:
    page = Page(folder / "run" / "report.html")
    assert "best bbox_mAP" in page.text and "3 validation images" in page.text
    assert len(page.images) == 6, "truth and prediction"
    for text in ("MaskRCNN", "arch s1", "checkpoints/care_s1_in1k.pth", "AdamW", "missed"):
        assert text in page.text, text
    run = read_run(folder / "run")
    assert len(run.val[run.main_metric]) == 2, "one validation before and one after resuming"


def test_resume_continues_where_the_run_stopped(folder: Path, trained) -> None:
    _, second = trained
    assert "Epoch(train) [2]" in second.stdout
    assert "Epoch(train) [1]" not in second.stdout
    iterations = [
        torch.load(folder / "run" / f"epoch_{i}.pth", weights_only=False)["meta"]["iter"]
        for i in (1, 2)
    ]
    assert iterations[1] == 2 * iterations[0] > 0


def test_a_second_run_does_not_overwrite_the_first(folder: Path, trained, run: Run) -> None:
    again = run("tools/train.py", CONFIG, "--work-dir", "run", cwd=folder)
    assert "already holds a run" in one_line(again)


def test_testing_prints_metrics_and_writes_predictions(folder: Path, trained, run: Run) -> None:
    args = ("--out", "out.pkl", "--show-dir", "shown", "--cfg-options", *SMALL)
    tested = run("tools/test.py", CONFIG, "run/epoch_2.pth", *args, cwd=folder)
    assert tested.returncode == 0, tested.stderr
    assert "coco/bbox_mAP" in tested.stdout and "coco/segm_mAP" in tested.stdout
    assert (folder / "out.pkl").stat().st_size > 0
    assert (
        len(list((folder / "shown").rglob("*.jpg"))) + len(list((folder / "shown").rglob("*.png")))
        == 3
    )


def test_inference_on_a_folder_names_the_file_that_is_not_an_image(
    folder: Path, trained, run: Run
) -> None:
    broken = folder / "data" / "coco" / "val2017" / "broken.jpg"
    broken.write_bytes(b"<html>")
    try:
        args = ("run/epoch_2.pth", "data/coco/val2017", "--out-dir", "results")
        result = run("tools/infer.py", CONFIG, *args, cwd=folder)
    finally:
        broken.unlink()
    assert "broken.jpg" in one_line(result)
    records = json.loads((folder / "results" / "predictions.json").read_text())
    assert len(records) == 3
    for name in records:
        assert (folder / "results" / "images" / f"{name}.png").is_file()
