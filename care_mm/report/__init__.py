"""Report on a run: curves, the best checkpoint, settings, and the worst predictions."""

from care_mm.report.history import read_run
from care_mm.report.page import REPORT, refuse_other_file, write_report
from care_mm.report.worst import Judgement, judge, judge_checkpoint

__all__ = [
    "REPORT",
    "Judgement",
    "judge",
    "judge_checkpoint",
    "read_run",
    "refuse_other_file",
    "write_report",
]
