"""The settings that a report shows."""

from __future__ import annotations

from pathlib import Path

from care_mm.report import read_run
from care_mm.report.settings import settings


def test_resumed_run_names_the_weights_of_its_first_start(work_dir: Path) -> None:
    """The config of a resumption names the checkpoint it resumes from."""
    first, last = sorted(work_dir.glob("*/vis_data/config.py"))
    first.write_text(first.read_text() + "load_from = 'coco.pth'\n")
    last.write_text(last.read_text() + "load_from = 'epoch_2.pth'\n")
    assert dict(settings(read_run(work_dir)))["starts from"] == "coco.pth"
