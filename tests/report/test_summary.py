"""The hook that summarises a run at its end."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from PIL import Image

from care_mm.report.summary import SummaryHook


@pytest.fixture
def runner(tmp_path: Path) -> SimpleNamespace:
    """Return what the hook uses of a runner without validation."""
    hub = MessageHub(f"summary-{tmp_path.name}")
    for i in range(60):
        hub.update_scalars({"train/loss": 1 / (i + 1), "train/lr": 0.1, "train/time": 0.5})
    return SimpleNamespace(
        work_dir=str(tmp_path),
        cfg=Config(),
        experiment_name="experiment",
        message_hub=hub,
        val_loop=None,
        logger=logging.getLogger("summary"),
    )


def table_of(caplog: pytest.LogCaptureFixture) -> dict[str, str]:
    text = next(text for text in caplog.messages if text.startswith("Training is done."))
    return dict(line.split(maxsplit=1) for line in text.splitlines()[1:])


def test_run_without_validation_has_its_curves(runner, caplog, tmp_path: Path) -> None:
    caplog.set_level("INFO")
    SummaryHook(report=False).after_train(runner)
    assert [file.name for file in tmp_path.iterdir()] == ["curves.png"]
    width, height = Image.open(tmp_path / "curves.png").size
    assert width > 2 * height, "loss and learning rate, side by side"
    assert table_of(caplog) == {
        "curves": str(tmp_path / "curves.png"),
        "checkpoints": str(tmp_path),
    }


def test_last_metrics_are_printed_without_absent_ones_and_times(runner, caplog) -> None:
    caplog.set_level("INFO")
    for value in (0.25, 0.375):
        runner.message_hub.update_scalars(
            {"val/coco/bbox_mAP": value, "val/coco/bbox_mAP_s": -1.0, "val/time": 0.1}
        )
    SummaryHook(report=False).after_train(runner)
    assert list(table_of(caplog).items())[:2] == [
        ("coco/bbox_mAP", "0.375"),
        ("curves", f"{runner.work_dir}/curves.png"),
    ]


def test_report_that_fails_is_logged_and_does_not_fail_the_run(runner, caplog) -> None:
    SummaryHook().after_train(runner)
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "report.html was not written: InputError: work dir" in warning


def test_metrics_without_a_value_are_said_with_their_cause(runner, caplog) -> None:
    caplog.set_level("INFO")
    values = {"val/coco/bbox_mAP": -1.0, "val/mIoU": float("nan"), "val/coco/bbox_mAP_l": -1.0}
    runner.message_hub.update_scalars(values)
    SummaryHook(report=False).after_train(runner)
    table = table_of(caplog)
    assert "no annotation" in table["coco/bbox_mAP"] and table["coco/bbox_mAP"].startswith("-1")
    assert "no annotation" in table["mIoU"] and table["mIoU"].startswith("nan")
    assert "coco/bbox_mAP_l" not in table


@pytest.mark.parametrize("part", ["draw_charts", "_predictions", "write_report", "read_run"])
def test_nothing_that_fails_at_the_end_fails_the_run(
    runner, caplog, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("no colour left")

    monkeypatch.setattr(f"care_mm.report.summary.{part}", fail)
    runner.val_loop = runner.val_dataloader = SimpleNamespace(dataset=[])
    caplog.set_level("INFO")
    SummaryHook(num_worst=0).after_train(runner)
    assert "was not written: " in caplog.text and "checkpoints" in table_of(caplog)
