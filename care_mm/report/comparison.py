"""A table of runs that trained different backbones under one recipe."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from care_mm.errors import InputError
from care_mm.report.history import Run, read_run

# Metric -> its name in the table, and what it is multiplied by. COCO's run from 0 to 1.
METRICS = {
    "mIoU": ("mIoU", 1),
    "coco/bbox_mAP": ("box AP", 100),
    "coco/segm_mAP": ("mask AP", 100),
}


def finished_run(folder: Path, steps: int) -> Run | None:
    """Return the run in a folder if it has been validated after that number of steps."""
    try:
        run = read_run(folder)
    except InputError:  # not started yet
        return None
    done = any(curve[-1][0] == steps for name, curve in run.val.items() if name in METRICS)
    return run if done else None


def rows(runs: Mapping[str, Sequence[Run]], parameters: Mapping[str, int]) -> list[list[str]]:
    """Return a table, heading first: metrics of each seed with their mean, and seconds per step.

    The times are the lowest logged ones, each of which is a mean over up to 50 steps.

    Args:
        runs: Name of a backbone -> its finished runs, one for each seed.
        parameters: Name of a backbone -> parameters of the complete model.
    """
    metrics = [
        name for name in METRICS if any(name in run.val for seeds in runs.values() for run in seeds)
    ]
    heading = ["backbone", "parameters, complete model"]
    for name in metrics:
        heading += [METRICS[name][0], f"{METRICS[name][0]} by seed"]
    table = [[*heading, "CPU seconds per step", "seconds per step"]]
    for backbone, seeds in runs.items():
        row = [backbone, f"{parameters[backbone] / 1e6:.2f} M"]
        if not seeds:
            table.append([*row, "not finished", *[""] * (len(table[0]) - 3)])
            continue
        for name in metrics:
            values = [run.val[name][-1][1] * METRICS[name][1] for run in seeds]
            row += [f"{statistics.mean(values):.1f}", ", ".join(f"{v:.1f}" for v in values)]
        for clock in ("cpu_time", "step_time"):
            seconds = [value for run in seeds for _, value in run.train[clock]]
            row.append(f"{min(seconds):.2f}")  # other programs only add to it
        table.append(row)
    return table
