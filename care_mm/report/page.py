"""One self-contained HTML page about a run."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from care_mm.environment import __version__
from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.report.curves import Chart, line_chart, number
from care_mm.report.history import Run
from care_mm.report.settings import settings
from care_mm.report.worst import Judgement

REPORT = "report.html"
MARK = '<meta name="generator" content="care_mm'
LONGEST = 640  # pixels of a picture's longer side
MOST_CLASSES = 20


def write_report(run: Run, judgement: Judgement, file: Path) -> None:
    """Write the page; an older one of ours is replaced.

    Raises:
        InputError: There is a file that is no report, or the disk is full.
    """
    if file.exists() and MARK not in file.read_text(errors="replace")[:1000]:
        raise InputError(f"{file}: exists and is no report of ours, choose another --out")
    write_bytes(render(run, judgement).encode(), file)


def render(run: Run, judgement: Judgement) -> str:
    """The page's HTML."""
    environment = Environment(
        loader=PackageLoader("care_mm.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = number
    environment.filters["picture"] = _data_url
    return environment.get_template("page.html").render(
        run=run,
        version=__version__,
        title=_title(run),
        busy=_duration(run.busy),
        tiles=_tiles(run),
        charts=_charts(run),
        validations=_validations(run),
        judgement=judgement,
        classes=judgement.classes[:MOST_CLASSES],
        settings=settings(run),
        config=Path(run.config.filename).read_text(),
    )


def _title(run: Run) -> str:
    """The config's name, which mmengine copies to the work dir."""
    copies = sorted(run.work_dir.glob("*.py"))
    return copies[0].stem if len(copies) == 1 else run.work_dir.resolve().name


def _duration(time: timedelta) -> str:
    """1 h 2 min, 3 min 4 s, or 5 s."""
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Large numbers at the top: name, value, and when. The main metric's best comes first."""
    main = run.main_metric
    if main is None:
        steps = [(name, run.train[name][-1]) for name in ("loss",) if name in run.train]
        return [(name, number(value), f"at the end ({step})") for name, (step, value) in steps]
    step, _ = run.best(main)
    names = [main, *(n for n in run.val if n != main and not _is_minor(n))]
    values = [(name, dict(run.val[name]).get(step)) for name in names]
    tiles = [(name, number(value), "") for name, value in values if value is not None][:4]
    file = run.checkpoint(step)
    when = f"{run.unit} {step}: {file.name if file else 'not kept'}"
    return [(*tiles[0][:2], when), *tiles[1:]]


def _is_minor(metric: str) -> bool:
    return metric.endswith(("_s", "_m", "_l"))  # COCO's AP by size of the objects


def _charts(run: Run) -> list[Chart]:
    losses = {n: c for n, c in run.train.items() if "loss" in n}
    losses = {n: losses[n] for n in sorted(losses, key=lambda n: n != "loss")}
    main = run.main_metric
    metrics = {n: c for n, c in run.val.items() if not _is_minor(n)}
    metrics = {n: metrics[n] for n in sorted(metrics, key=lambda n: n != main)}
    rest = {
        title: {title: run.train[name]}
        for name, title in (("lr", "learning rate"), ("grad_norm", "norm of the gradient"))
        if name in run.train
    }
    charts = [
        line_chart("Losses", "iteration", losses),
        line_chart("Validation", run.unit, metrics),
        *(line_chart(title.capitalize(), "iteration", curves) for title, curves in rest.items()),
    ]
    return [chart for chart in charts if chart is not None]


def _validations(run: Run) -> tuple[Sequence[str], list[tuple[int, list[str]]]]:
    """A table: names of the metrics, and a row of their values for each step."""
    names = list(run.val)
    curves = [dict(run.val[name]) for name in names]
    steps = sorted(set().union(*curves)) if curves else []
    rows = [(s, [number(c[s]) if s in c else "" for c in curves]) for s in steps]
    return [re.sub(r"^coco/", "", name) for name in names], rows


def _data_url(picture: np.ndarray) -> str:
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST, LONGEST))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
