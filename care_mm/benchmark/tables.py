"""Benchmark results as a table, JSON and a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from care_mm.benchmark.measure import Result, copy_rate, gemm_rate, growth, over_floor
from care_mm.benchmark.models import PUBLISHED_TOP1

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADING = [
    "model",
    "backend",
    "ms",
    "p10-p90",
    "images/s",
    "MiB",
    "/ baseline",
    "/ GEMM floor",
]


def summary(results: Sequence[Result], gemm: Result) -> list[dict[str, object]]:
    """Return a record for each result, with units in the names and ratios taken by round.

    Args:
        results: Results of models.
        gemm: Result of the matrix product in the same run.
    """
    records = []
    for result in results:
        job = result.job
        record = {
            "model": job.model,
            "task": job.task,
            "shape": list(job.shape),
            "batch": job.batch,
            **asdict(job.setting),
        }
        if result.error:
            records.append({**record, "error": result.error})
            continue
        baseline = _baseline_of(result, results)
        records.append(
            {
                **record,
                "median_ms": result.milliseconds(),
                "p10_ms": result.milliseconds(0.1),
                "p90_ms": result.milliseconds(0.9),
                "images_per_s": job.batch / result.milliseconds() * 1e3,
                "peak_mib": result.peak_bytes / 2**20,
                "over_baseline": None if baseline is None else result.ratio(baseline),
                "over_gemm_floor": None if gemm.error else over_floor(result, gemm),
                "published_top1": PUBLISHED_TOP1.get(job.model),
            }
        )
    return records


def limits(gemm: Result, copy: Result) -> dict[str, float]:
    """Return the limits of the machine: 1e9 multiply-adds and 1e9 bytes copied per second."""
    rates = {}
    if not gemm.error:
        rates["gemm_gmacs_per_s"] = gemm_rate(gemm) / 1e9
    if not copy.error:
        rates["copy_gb_per_s"] = copy_rate(copy) / 1e9
    return rates


def _baseline_of(result: Result, results: Sequence[Result]) -> Result | None:
    """Return the result of the same model and input in the backend ``baseline``."""
    for other in results:
        same = replace(other.job, setting=result.job.setting) == result.job
        if same and other.job.setting.backend == "baseline" and not other.error:
            return other
    return None


def rows(records: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """Format :func:`summary` as a table, heading first."""
    table = [list(HEADING)]
    several = len({tuple(record["shape"]) for record in records}) > 1
    for record in records:
        name = str(record["model"])
        if several:
            name += " {}x{}".format(*record["shape"])
        if "error" in record:
            table.append([name, str(record["backend"]), str(record["error"]), *[""] * 5])
            continue
        table.append(
            [
                name,
                str(record["backend"]),
                f"{record['median_ms']:.2f}",
                f"{record['p10_ms']:.2f}-{record['p90_ms']:.2f}",
                f"{record['images_per_s']:.1f}",
                f"{record['peak_mib']:.0f}",
                _ratio(record["over_baseline"]),
                _ratio(record["over_gemm_floor"]),
            ]
        )
    return table


def _ratio(value: object) -> str:
    return "" if value is None else f"{value:.3f}"


def against(results: Sequence[Result]) -> list[list[str]]:
    """Return a table of our times over those of peers, each in its fastest backend.

    It has a heading only if there are no peers, or several input sizes.
    """
    fastest: dict[str, Result] = {}
    for result in results:
        if result.error:
            continue
        best = fastest.setdefault(result.job.model, result)
        if result.milliseconds() < best.milliseconds():
            fastest[result.job.model] = result
    ours = [name for name in fastest if name.startswith("care_")]
    peers = [name for name in fastest if not name.startswith("care_")]
    table = [["over", *peers]]
    if peers and len({result.job.shape for result in results}) == 1:
        table += [
            [name, *(_ratio(fastest[name].ratio(fastest[peer])) for peer in peers)] for name in ours
        ]
    return table


def growths(results: Sequence[Result]) -> list[str]:
    """Return a line for each model and backend measured at four or more input sizes."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.job.model, result.job.setting.backend), []).append(result)
    lines = []
    for (name, backend), group in groups.items():
        if len(group) > 3 and not any(result.error for result in group):
            by = ", ".join(f"{what} {growth(group, what):.3f}" for what in ("time", "memory"))
            lines.append(f"{name} in {backend}: exponent against pixels: {by}")
    return lines


Point = tuple[float, float, str]


def points(
    records: Sequence[Mapping[str, object]],
) -> tuple[list[Point], list[tuple[float, float]]]:
    """Return (ms, top-1, name) of each model in its fastest folded backend, and the Pareto front.

    The front has (ms, top-1) of the models that no other model beats in both. Models without a
    published top-1 are left out.
    """
    fastest: dict[str, Mapping[str, object]] = {}
    for record in records:
        usable = "error" not in record and record["published_top1"] is not None
        if usable and record["backend"] not in ("baseline", "eager"):
            best = fastest.setdefault(str(record["model"]), record)
            if record["median_ms"] < best["median_ms"]:
                fastest[str(record["model"])] = record
    models = sorted((r["median_ms"], r["published_top1"], name) for name, r in fastest.items())
    front, best_top1 = [], 0.0
    for ms, top1, _ in models:
        if top1 > best_top1:
            front.append((ms, top1))
            best_top1 = top1
    return models, front


def plot(records: Sequence[Mapping[str, object]], title: str) -> Figure:
    """Draw :func:`points`, with the Pareto front as a line.

    Args:
        records: See :func:`summary`. Models without a published top-1 are left out.
        title: What was measured, and on which machine.

    Returns:
        The figure, to be saved.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models, front = points(records)
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(
        xscale="log", xlabel="latency (ms)", ylabel="published ImageNet-1K top-1 (%)", title=title
    )
    axes.plot(*zip(*front, strict=True), color="0.75", zorder=1, label="Pareto front")
    for ms, top1, name in models:
        ours = name.startswith("care_")
        axes.scatter(ms, top1, s=46, color="#c0392b" if ours else "#4a6fa5", zorder=2)
        axes.annotate(
            name.split("_patch")[0],
            (ms, top1),
            xytext=(5, -9),
            textcoords="offset points",
            fontsize=8,
            weight="bold" if ours else "normal",
        )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    _make_room_for_labels(axes)
    return figure


def _make_room_for_labels(axes: Axes) -> None:
    """Extend the x axis to the right, so that every label ends inside the frame."""
    axes.figure.draw_without_rendering()
    left, right = map(math.log, axes.get_xlim())
    width = axes.bbox.width
    for label in axes.texts:
        point, _ = axes.transData.transform(label.xy)
        room = label.get_window_extent().x1 - point + 6  # pixels
        # The point moves to the left as the axis gets longer; the label keeps its width.
        right = max(right, left + (math.log(label.xy[0]) - left) * width / (width - room))
    axes.set_xlim(right=math.exp(right))
