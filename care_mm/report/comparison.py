"""Runs next to each other: curves of any, and a table of backbones under one recipe."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path

from care_mm.errors import InputError
from care_mm.report.curves import Chart
from care_mm.report.history import Run, read_run

# Metric -> its name in the table, and what it is multiplied by. COCO's run from 0 to 1.
METRICS = {
    "mIoU": ("mIoU", 1),
    "coco/bbox_mAP": ("box AP", 100),
    "coco/segm_mAP": ("mask AP", 100),
    "accuracy/top1": ("top-1", 1),
}


def charts(runs: Sequence[Run]) -> list[Chart]:
    """Return charts of the loss and of each metric of ``METRICS``, with a curve for each run.

    Raises:
        InputError: Two runs have folders of one name, or validation steps of different units.
    """
    names = [run.work_dir.resolve().name for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{twice.pop()}: two runs have this name, which would be that of a curve")
    units = {run.unit: run.work_dir for run in runs}
    if len(units) > 1:
        counted = ", ".join(f"{folder} counts in {unit}s" for unit, folder in units.items())
        raise InputError(f"the runs share no axis: {counted}")
    found = [("Training loss", "iteration", [run.train.get("loss", []) for run in runs])]
    for metric, (title, factor) in METRICS.items():
        curves = [[(s, v * factor) for s, v in run.val.get(metric, [])] for run in runs]
        found.append((f"Validation, {title}", runs[0].unit, curves))
    drawn = []
    for title, unit, curves in found:
        finite = [[point for point in curve if isfinite(point[1])] for curve in curves]
        named = {name: curve for name, curve in zip(names, finite, strict=True) if curve}
        if named:
            drawn.append(Chart(title, unit, named, ranked=False))
    return drawn


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
