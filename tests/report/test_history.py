"""The history of a run: curves over resumptions, the main metric, and folders without a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
from mmengine.config import Config
from report.conftest import write_session

from care_mm import CARETransformer
from care_mm.errors import InputError
from care_mm.report import read_run
from care_mm.report.history import main_metric
from care_mm.report.settings import settings


def test_steps_that_a_resumed_run_repeats_count_once(work_dir: Path) -> None:
    run = read_run(work_dir)
    steps = [step for step, _ in run.train["loss"]]
    assert steps == list(range(1, 31))
    assert dict(run.train["loss"])[20] == pytest.approx(3 / 21)
    assert dict(run.train["loss"])[22] == pytest.approx(3 / 23 - 0.01), "not of the first session"
    assert [step for step, _ in run.val["coco/bbox_mAP"]] == [1, 2, 3]
    assert "time" not in run.train and "coco/bbox_mAP_l" not in run.val
    assert run.busy.total_seconds() == 2 * (20 * 60 + 30)
    assert run.environment["PyTorch"] == "2.11.0+cu130"


def test_best_checkpoint_is_that_of_the_main_metric(work_dir: Path) -> None:
    run = read_run(work_dir)
    assert run.main_metric == "coco/bbox_mAP"
    assert run.best(run.main_metric) == (2, pytest.approx(0.3))
    assert run.checkpoint(2).name == "epoch_2.pth"
    (work_dir / "best_coco_bbox_mAP_epoch_2.pth").write_bytes(b"weights")
    assert run.checkpoint(2).name == "best_coco_bbox_mAP_epoch_2.pth"
    assert run.checkpoint(3) is None


@pytest.mark.parametrize(
    ("save_best", "metrics", "main"),
    [
        (None, ["coco/segm_mAP", "coco/bbox_mAP"], "coco/bbox_mAP"),
        ("coco/segm_mAP", ["coco/bbox_mAP", "coco/segm_mAP"], "coco/segm_mAP"),
        (["mAcc", "aAcc"], ["aAcc", "mIoU"], "aAcc"),
        ("auto", ["aAcc", "mIoU"], "mIoU"),
        (None, ["accuracy/top5", "accuracy/top1"], "accuracy/top1"),
        (None, ["own/score", "own/other"], "own/score"),
        ("mIoU", [], None),
    ],
)
def test_main_metric_is_the_configs_or_the_usual_one(
    save_best: object, metrics: list[str], main: str | None
) -> None:
    hook = {} if save_best is None else dict(save_best=save_best)
    config = Config(dict(default_hooks=dict(checkpoint=hook)))
    assert main_metric(config, metrics) == main


@pytest.mark.parametrize("name", ["gone", "empty"])
def test_folder_without_a_run_is_refused(tmp_path: Path, capsys, name: str) -> None:
    (tmp_path / "empty").mkdir()
    reason = {"gone": "no such folder", "empty": "holds no run: no */vis_data/scalars.json"}[name]
    line = tool.refusal(capsys, "report", tmp_path / name)
    assert reason in line and str(tmp_path / name) in line


def test_config_that_does_not_parse_is_named(work_dir: Path) -> None:
    for file in work_dir.glob("*/vis_data/config.py"):
        file.write_text("model = dict(")
    with pytest.raises(InputError, match=r"config\.py"):
        read_run(work_dir)


def test_work_dir_without_training_is_refused(tmp_path: Path) -> None:
    write_session(tmp_path, 1, range(0), range(1, 3))
    with pytest.raises(InputError, match="no training was logged"):
        read_run(tmp_path)


def test_config_with_classes_as_types_is_read(work_dir: Path) -> None:
    """mmengine dumps a class as a name that it does not import."""
    (file,) = work_dir.glob("*02_*/vis_data/config.py")
    text = file.read_text().replace("type='CARETransformer'", "type=care_mm.\n  CARETransformer")
    text += "loss = dict(type='mmdet.models.losses.smooth_l1_loss.L1Loss')\n"
    file.write_text(text)
    run = read_run(work_dir)
    assert run.config.model.backbone.type is CARETransformer
    assert run.config.loss.type.__name__ == "L1Loss"
    assert Path(run.config.filename) == file
    assert dict(settings(run))["backbone"] == "CARETransformer arch s0"
