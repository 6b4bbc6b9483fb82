"""Curves of a run, drawn by matplotlib: as SVG for the report page, as PNG for the work dir."""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import matplotlib
import numpy as np
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from care_mm.report.history import Curve, is_by_size

MAX_POINTS = 240  # per line
CHARACTERS = 54  # of the legend in one row
SIZE = (5.4, 3.5)  # inches of one chart; at 72 points per inch about the width of a card
LINES = ["#1d5fd1", "#c9510c", "#25803a", "#8a37a8", "#0a7386", "#bd2458", "#7d5a3c", "#515a64"]
INK, SOFT, RULE = "#1b1f24", "#5c6570", "#dde1e6"
# The page's custom property for each colour: in dark mode it has another value.
PROPERTIES = {
    INK: "--ink",
    SOFT: "--soft",
    RULE: "--line",
    **{colour: f"--c{i}" for i, colour in enumerate(LINES)},
}
STYLE = {
    "axes.edgecolor": RULE,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": SOFT,
    "axes.prop_cycle": matplotlib.cycler(color=LINES),
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": RULE,
    "legend.columnspacing": 1.2,
    "legend.fontsize": 9.5,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "lines.markersize": 4,
    "svg.fonttype": "none",  # text, in the page's font
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "ytick.left": False,
}


@dataclass(frozen=True)
class Chart:
    """Curves that share their axes.

    Attributes:
        title: Its heading.
        x_label: Unit of the steps.
        curves: Curves by name.
        ranked: Whether the first curve is the most important one, which is drawn thick.
    """

    title: str
    x_label: str
    curves: Mapping[str, Curve]
    ranked: bool = True


def charts_of(
    train: Mapping[str, Curve], val: Mapping[str, Curve], unit: str, main: str | None
) -> list[Chart]:
    """Return the charts of a run: losses, metrics, learning rate, gradient norm.

    Values that are not finite are left out, and so are charts without any value.

    Args:
        train: Curves logged while training, over iterations.
        val: Curves of the validation metrics.
        unit: Unit of the steps of ``val``.
        main: The most important metric.
    """
    losses = {name: curve for name, curve in train.items() if "loss" in name}
    metrics = {name: curve for name, curve in val.items() if not is_by_size(name)}
    groups = [
        ("Losses", "iteration", _with_first(losses, "loss")),
        ("Validation", unit, _with_first(metrics, main)),
        ("Learning rate", "iteration", {"lr": train.get("lr", [])}),
        ("Gradient norm", "iteration", {"grad_norm": train.get("grad_norm", [])}),
    ]
    charts = []
    for title, x_label, curves in groups:
        finite = {name: [p for p in curve if isfinite(p[1])] for name, curve in curves.items()}
        charts.append(Chart(title, x_label, {name: c for name, c in finite.items() if c}))
    return [chart for chart in charts if chart.curves]


def _with_first(curves: Mapping[str, Curve], first: str | None) -> dict[str, Curve]:
    return {name: curves[name] for name in sorted(curves, key=lambda name: name != first)}


def short_names(metrics: Iterable[str]) -> dict[str, str]:
    """Return each metric's name without its prefix, where no two would become the same.

    Example:
        ``coco/bbox_mAP`` becomes ``bbox_mAP``, ``accuracy/top1`` becomes ``top1``.
    """
    short = {name: name.rpartition("/")[2] for name in metrics}
    times = Counter(short.values())
    return {name: part if times[part] == 1 else name for name, part in short.items()}


def number(value: float) -> str:
    """Format a value with four significant digits."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def draw_charts(charts: Sequence[Chart], title: str = "") -> Figure:
    """Draw charts in a grid with two columns; a single chart fills the figure.

    The legend gives the last value of each line. The highest 2 % of a long curve, typically the
    start of a loss, may lie above the chart.
    """
    with matplotlib.rc_context(STYLE):
        columns = min(2, len(charts))
        rows = -(-len(charts) // columns)
        figure = Figure((SIZE[0] * columns, SIZE[1] * rows), layout="constrained")
        figure.suptitle(title)
        parts = figure.subfigures(rows, columns, squeeze=False)
        for chart, part in zip(charts, parts.flat, strict=False):
            _draw(chart, part)
    return figure


def _draw(chart: Chart, part: SubFigure) -> None:
    axes = part.subplots()
    names, lows, highs = short_names(chart.curves), [0.0], []
    for i, (name, points) in enumerate(chart.curves.items()):
        steps, values = _thinned(np.asarray(points, dtype=float)).T
        axes.plot(
            steps,
            values,
            label=f"{names[name]}  {number(points[-1][1])}",
            linewidth=2.2 if i == 0 and chart.ranked else 1.3,
            marker="o" if len(steps) <= 40 else None,
            zorder=3 - i / 100,  # the first one on top
        )
        lows.append(values.min())
        highs.append(np.percentile(values, 98) if len(values) > 20 else values.max())
    low, high = min(lows), max(highs)
    axes.set(title=chart.title, xlabel=chart.x_label)
    axes.set_ylim(low, low + 1.05 * (high - low) if high > low else low + 1)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    longest = max(map(len, axes.get_legend_handles_labels()[1]))
    part.legend(loc="outside lower center", ncols=max(1, min(3, CHARACTERS // longest)))


def _thinned(curve: np.ndarray) -> np.ndarray:
    """Return at most ``MAX_POINTS`` rows of an (N, 2) curve, each the mean of its neighbours."""
    if len(curve) <= MAX_POINTS:
        return curve
    return np.stack([part.mean(0) for part in np.array_split(curve, MAX_POINTS)])


def to_svg(chart: Chart) -> str:
    """Return a chart as an inline ``<svg>`` for the page; the same bytes for the same curves.

    Colours become the page's, which differ in dark mode. Identifiers differ between charts, and
    those that nothing refers to are dropped.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": chart.title}):
        draw_charts([chart]).savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    view = re.search(r'viewBox="[^"]*"', svg)[0]
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", body)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), body)
    for colour, name in PROPERTIES.items():
        body = body.replace(colour, f"var({name})")
    label = html.escape(f"{chart.title} by {chart.x_label}")
    return f'<svg {view} role="img" aria-label="{label}">{body}'
