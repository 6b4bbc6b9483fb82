"""Line charts as inline SVG that takes its colours from the page around it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from care_mm.report.history import Curve

WIDTH, HEIGHT = 480, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 38  # margins
MOST_POINTS = 240  # of a line: two pixels each


@dataclass(frozen=True)
class Line:
    """A line of a chart: ``points`` as SVG wants them, and the value it ends with."""

    name: str
    points: str
    last: str
    marked: bool


@dataclass(frozen=True)
class Chart:
    """What the page draws. Ticks are a position in the picture and a text.

    ``scale`` is what a script needs to go back from positions to values: the values at the left,
    right, bottom and top of the plot.
    """

    title: str
    x_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    scale: tuple[float, float, float, float]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def line_chart(title: str, x_label: str, curves: Mapping[str, Curve]) -> Chart | None:
    """A chart of the curves, the first of them as the main one.

    Values that are not finite are left out. The few highest values of a long curve,
    which is where a loss comes from, may end above the chart.

    Returns:
        ``None`` if there is nothing to draw.
    """
    arrays = {name: np.asarray(curve, dtype=float).reshape(-1, 2) for name, curve in curves.items()}
    finite = {name: curve[np.isfinite(curve[:, 1])] for name, curve in arrays.items()}
    drawn = {name: _thinned(curve) for name, curve in finite.items() if len(curve)}
    if not drawn:
        return None
    every = np.concatenate(list(drawn.values()))
    x_low, x_high = every[:, 0].min(), every[:, 0].max()
    if x_low == x_high:
        x_low, x_high = x_low - 1, x_high + 1
    tops = [np.percentile(c[:, 1], 98) if len(c) > 20 else c[:, 1].max() for c in drawn.values()]
    low, high = min(0.0, every[:, 1].min()), max(tops)
    y_low, *_, y_high = y_ticks = _ticks(low, high if high > low else low + 1)
    x_ticks = MaxNLocator(6, integer=True).tick_values(x_low, x_high)
    x_ticks = [t for t in x_ticks if x_low <= t <= x_high]

    def across(x: np.ndarray | float) -> np.ndarray | float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - RIGHT - LEFT)

    def up(y: np.ndarray | float) -> np.ndarray | float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP)

    digits = max((len(f"{t:.10g}".partition(".")[2]) for t in y_ticks), default=0)
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=[(round(float(across(t)), 1), f"{t:,.0f}".replace(",", " ")) for t in x_ticks],
        y_ticks=[(round(float(up(t)), 1), _tick(t, digits)) for t in y_ticks],
        lines=[
            Line(
                name,
                " ".join(
                    f"{x:.1f},{y:.1f}"
                    for x, y in zip(across(curve[:, 0]), up(curve[:, 1]), strict=True)
                ),
                number(curve[-1, 1]),
                len(curve) <= 40,
            )
            for name, curve in drawn.items()
        ],
        scale=(float(x_low), float(x_high), float(y_low), float(y_high)),
    )


def number(value: float) -> str:
    """Four significant digits."""
    return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def _tick(value: float, digits: int) -> str:
    if value == 0:
        return "0"
    return f"{value:.1e}" if abs(value) < 1e-4 else f"{value:.{digits}f}"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers that enclose the values."""
    return list(MaxNLocator(5).tick_values(low, high))


def _thinned(curve: np.ndarray) -> np.ndarray:
    """(n, 2) -> at most ``MOST_POINTS`` rows, each the mean of its neighbours."""
    if len(curve) <= MOST_POINTS:
        return curve
    return np.stack([part.mean(0) for part in np.array_split(curve, MOST_POINTS)])
