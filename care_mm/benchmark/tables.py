"""Benchmark results as a table, JSON and a plot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from care_mm.benchmark.backends import Setting
from care_mm.benchmark.measure import Result, copy_rate, gemm_rate, growth, macs_of, over_floor
from care_mm.benchmark.models import PUBLISHED_TOP1, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, PEERS = "#c0392b", "#4a6fa5"  # colours
HEADING = [
    "model",
    "backend",
    "threads",
    "ms",
    "p10-p90",
    "images/s",
    "MiB",
    "GMACs",
    "/ baseline",
    "/ GEMM floor",
]


def summary(results: Sequence[Result], gemms: Sequence[Result]) -> list[dict[str, object]]:
    """Return a record for each result, with units in the names and ratios taken by round.

    Args:
        results: Results of models.
        gemms: Results of the matrix product in the same run, for each number of threads.
    """
    gemm_of = {gemm.job.setting.threads: gemm for gemm in gemms if not gemm.error}
    records = []
    for result in results:
        job = result.job
        record = {
            "model": label(job.model),
            "source": job.model,
            "what": job.what,
            "shape": list(job.shape),
            "batch": job.batch,
            "classes": job.classes,
            **asdict(job.setting),
        }
        if result.error:
            records.append({**record, "error": result.error})
            continue
        baseline, gemm = _baseline_of(result, results), gemm_of.get(job.setting.threads)
        macs = None if gemm is None else macs_of(job)
        records.append(
            {
                **record,
                "median_ms": result.milliseconds(),
                "p10_ms": result.milliseconds(0.1),
                "p90_ms": result.milliseconds(0.9),
                "images_per_s": job.batch / result.milliseconds() * 1e3,
                "peak_mib": result.peak_bytes / 2**20,
                "gmacs": None if macs is None else macs / 1e9,
                "over_baseline": None if baseline is None else result.ratio(baseline),
                "over_gemm_floor": None if macs is None else over_floor(result, gemm, macs),
                "published_top1": PUBLISHED_TOP1.get(job.model),
            }
        )
    return records


def limits(gemms: Sequence[Result], copies: Sequence[Result]) -> list[dict[str, float]]:
    """Return the limits of the machine for each number of threads.

    They are 1e9 multiply-adds and 1e9 bytes copied per second.
    """
    limits = []
    for gemm, copy in zip(gemms, copies, strict=True):
        rates: dict[str, float] = {"threads": gemm.job.setting.threads}
        if not gemm.error:
            rates["gemm_gmacs_per_s"] = gemm_rate(gemm) / 1e9
        if not copy.error:
            rates["copy_gb_per_s"] = copy_rate(copy) / 1e9
        limits.append(rates)
    return limits


def about(host: Mapping[str, object]) -> str:
    """Return :func:`care_mm.benchmark.measure.machine` with the limits as text."""
    lines = [", ".join(f"{key}: {value}" for key, value in host.items() if key != "limits")]
    for rates in host["limits"]:
        lines.append(", ".join(f"{key}: {value:.4g}" for key, value in rates.items()))
    return "\n".join(lines)


def _baseline_of(result: Result, results: Sequence[Result]) -> Result | None:
    """Return the result of the same model and input in the backend ``baseline``."""
    as_baseline = replace(result.job, setting=replace(result.job.setting, backend="baseline"))
    for other in results:
        if other.job == as_baseline and not other.error:
            return other
    return None


def rows(records: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """Format :func:`summary` as a table, heading first."""
    table = [list(HEADING)]
    several_shapes = len({tuple(record["shape"]) for record in records}) > 1
    several_threads = len({record["threads"] for record in records}) > 1
    for record in records:
        name = str(record["model"])
        if several_shapes:
            name += " {}x{}".format(*record["shape"])
        threads = str(record["threads"]) if several_threads else ""
        start = [name, str(record["backend"]), threads]
        if "error" in record:
            table.append([*start, str(record["error"]), *[""] * (len(HEADING) - 4)])
            continue
        table.append(
            [
                *start,
                f"{record['median_ms']:.2f}",
                f"{record['p10_ms']:.2f}-{record['p90_ms']:.2f}",
                f"{record['images_per_s']:.1f}",
                f"{record['peak_mib']:.0f}",
                "" if record["gmacs"] is None else f"{record['gmacs']:.2f}",
                _ratio(record["over_baseline"]),
                _ratio(record["over_gemm_floor"]),
            ]
        )
    return table


def _ratio(value: object) -> str:
    return "" if value is None else f"{value:.3f}"


def ratios(results: Sequence[Result], peers: Collection[str]) -> list[dict[str, object]]:
    """Return our times over those of peers, each in its fastest backend.

    Args:
        results: Results of models.
        peers: Names of the models that all others are compared with.

    Returns:
        A record for each number of threads, model and peer; none for several input sizes.
    """
    if len({result.job.shape for result in results}) > 1:
        return []
    fastest: dict[tuple[int, str], Result] = {}
    for result in results:
        if result.error:
            continue
        key = result.job.setting.threads, result.job.model
        best = fastest.setdefault(key, result)
        if result.milliseconds() < best.milliseconds():
            fastest[key] = result
    return [
        {
            "threads": threads,
            "model": label(name),
            "backend": ours.job.setting.backend,
            "peer": label(peer),
            "peer_backend": other.job.setting.backend,
            "ratio": ours.ratio(other),
        }
        for (threads, name), ours in fastest.items()
        for (same_threads, peer), other in fastest.items()
        if same_threads == threads and name not in peers and peer in peers
    ]


def against(records: Sequence[Mapping[str, object]]) -> list[list[str]]:
    """Format :func:`ratios` as a table with a column for each peer; a heading alone if empty."""
    peers = list(dict.fromkeys(str(record["peer"]) for record in records))
    several = len({record["threads"] for record in records}) > 1
    lines: dict[tuple[object, object], dict[object, str]] = {}
    for record in records:
        line = lines.setdefault((record["threads"], record["model"]), {})
        line[record["peer"]] = _ratio(record["ratio"])
    table = [["over", "threads", *peers]]
    for (threads, model), line in lines.items():
        start = [str(model), str(threads) if several else ""]
        table.append([*start, *(line.get(peer, "") for peer in peers)])
    return table


def growths(results: Sequence[Result]) -> list[str]:
    """Return a line for each model and setting measured at four or more input sizes."""
    groups: dict[tuple[str, Setting], list[Result]] = {}
    for result in results:
        groups.setdefault((result.job.model, result.job.setting), []).append(result)
    lines = []
    for (name, setting), group in groups.items():
        if len(group) > 3 and not any(result.error for result in group):
            by = ", ".join(f"{what} {growth(group, what):.3f}" for what in ("time", "memory"))
            where = f"{label(name)} in {setting.backend}, threads {setting.threads}"
            lines.append(f"{where}: exponent against pixels: {by}")
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


def plot(
    records: Sequence[Mapping[str, object]], title: str, peers: Collection[str] = ()
) -> Figure:
    """Draw latency against published top-1, or bars of latency if no model has a published one.

    Args:
        records: See :func:`summary`. Next to models with a published top-1, others are left out.
        title: What was measured, and on which machine.
        peers: Names of the models that bars show in another colour than ours.

    Returns:
        The figure, to be saved.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    models, front = points(records)
    if models:
        _draw_points(figure, models, front, title)
    else:
        _draw_bars(figure, records, title, peers)
    return figure


def _draw_bars(
    figure: Figure, records: Sequence[Mapping[str, object]], title: str, peers: Collection[str]
) -> None:
    """Draw a bar for each model, backend and number of threads, the fastest on top."""
    bars = sorted(
        (record for record in records if "error" not in record),
        key=lambda record: -record["median_ms"],
    )
    names = [f"{r['model']}\n{r['backend']}, threads {r['threads']}" for r in bars]
    times = [record["median_ms"] for record in bars]
    colors = [PEERS if record["source"] in peers else OURS for record in bars]
    figure.set_size_inches(8, max(5, 0.42 * len(bars)))
    axes = figure.add_subplot(xlabel="latency (ms)", title=title)
    axes.bar_label(axes.barh(range(len(bars)), times, color=colors), fmt=" {:.1f}", fontsize=8)
    axes.set_yticks(range(len(bars)), names, fontsize=7)
    axes.margins(x=0.12, y=0.01)
    axes.grid(alpha=0.3, axis="x")


def _draw_points(
    figure: Figure, models: Sequence[Point], front: Sequence[tuple[float, float]], title: str
) -> None:
    """Draw :func:`points`, with the Pareto front as a line."""
    axes = figure.add_subplot(
        xscale="log", xlabel="latency (ms)", ylabel="published ImageNet-1K top-1 (%)", title=title
    )
    axes.plot(*zip(*front, strict=True), color="0.75", zorder=1, label="Pareto front")
    for ms, top1, name in models:
        ours = name.lower().startswith("care")
        axes.scatter(ms, top1, s=46, color=OURS if ours else PEERS, zorder=2)
        axes.annotate(
            name.split("_patch")[0],
            (ms, top1),
            xytext=(5, -9),
            textcoords="offset points",
            fontsize=8,
            weight="bold" if ours else "normal",
            arrowprops=dict(arrowstyle="-", color="0.5", linewidth=0.5, shrinkA=0, shrinkB=0),
        )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.tick_params(axis="x", which="minor", labelsize=7)
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    _make_room_for_labels(axes)
    _spread_labels(axes)


def _make_room_for_labels(axes: Axes) -> None:
    """Extend the x axis to the right, so that every label ends inside the frame."""
    from matplotlib.text import Text

    axes.figure.draw_without_rendering()
    left, right = map(math.log, axes.get_xlim())
    width = axes.bbox.width
    for text in axes.texts:
        point, _ = axes.transData.transform(text.xy)
        room = Text.get_window_extent(text).x1 - point + 6  # pixels; without the line
        # The point moves to the left as the axis gets longer; the label keeps its width.
        right = max(right, left + (math.log(text.xy[0]) - left) * width / (width - room))
    axes.set_xlim(right=math.exp(right))


def _spread_labels(axes: Axes) -> None:
    """Move each label next to its point to the first place where it covers nothing, if any."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    axes.figure.draw_without_rendering()
    radius = 4  # points
    scale, frame = axes.figure.dpi / 72, axes.bbox
    centres = [axes.transData.transform(text.xy) for text in axes.texts]
    taken = [Bbox.from_extents(*(c - radius * scale), *(c + radius * scale)) for c in centres]
    for text in axes.texts:
        usual = text.xyann
        sides, near, far = (usual[0], -usual[0]), (usual[1], 4, -20, 15), (-31, 26, -42, 37)
        for x, y in (*itertools.product(sides, near), *itertools.product(sides, far)):
            text.xyann = (x, y)
            text.set_horizontalalignment("left" if x > 0 else "right")
            box = Text.get_window_extent(text)
            inside = frame.containsx(box.x0) and frame.containsx(box.x1)
            if inside and not any(box.overlaps(other) for other in taken):
                break
        else:
            text.xyann = usual
            text.set_horizontalalignment("left")
        taken.append(Text.get_window_extent(text).padded(scale))
