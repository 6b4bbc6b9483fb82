"""One self-contained HTML page about a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from care_mm.environment import __version__
from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.report.curves import PROPERTIES, charts_of, number, short_names, to_svg
from care_mm.report.history import Run, is_by_size
from care_mm.report.settings import settings
from care_mm.report.worst import Judgement

REPORT = "report.html"
MARK = '<meta name="generator" content="care_mm'
MAX_SIDE = 640  # pixels of an image's longer side
MAX_CLASSES = 20


def write_report(run: Run, judgement: Judgement, file: Path) -> None:
    """Write the page; replace an older report, but no other file.

    Raises:
        InputError: The file exists and is not a report, or the disk is full.
    """
    refuse_other_file(file)
    write_bytes(render(run, judgement).encode(), file)


def refuse_other_file(file: Path) -> None:
    """Refuse to write over a file that is not a report.

    Raises:
        InputError: The file exists and is not a report.
    """
    if file.exists() and (file.is_dir() or MARK not in file.read_text(errors="replace")[:1000]):
        raise InputError(f"{file}: exists and is not a report of care_mm, choose another --out")


def render(run: Run, judgement: Judgement) -> str:
    """Return the HTML of the page."""
    environment = Environment(
        loader=PackageLoader("care_mm.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["data_url"] = _data_url
    return environment.get_template("page.html").render(
        run=run,
        version=__version__,
        title=_title(run),
        busy=_duration(run.busy),
        tiles=_tiles(run),
        colours=PROPERTIES,
        charts=map(to_svg, charts_of(run.train, run.val, run.unit, run.main_metric)),
        validations=_validations(run),
        judgement=judgement,
        classes=judgement.classes[:MAX_CLASSES],
        settings=settings(run),
        config=Path(run.config.filename).read_text(),
    )


def _title(run: Run) -> str:
    """Return the name of the config, which mmengine copies to the work dir."""
    copies = sorted(run.work_dir.glob("*.py"))
    return copies[0].stem if len(copies) == 1 else run.work_dir.resolve().name


def _duration(time: timedelta) -> str:
    """Format as ``1 h 2 min``, ``3 min 4 s`` or ``5 s``."""
    minutes, seconds = divmod(int(time.total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _tiles(run: Run) -> list[tuple[str, str, str]]:
    """Return the numbers at the top: name, value, and when. The best main metric comes first."""
    main = run.main_metric
    if main is None:
        steps = [(name, run.train[name][-1]) for name in ("loss",) if name in run.train]
        return [(name, number(value), f"at the end ({step})") for name, (step, value) in steps]
    step, _ = run.best(main)
    names = [main, *(name for name in run.val if name != main and not is_by_size(name))]
    values = {name: dict(run.val[name]).get(step) for name in names}
    short = short_names(run.val)
    tiles = [(short[name], number(v), "") for name, v in values.items() if v is not None][:4]
    file = run.checkpoint(step)
    when = f"{run.unit} {step}: {file.name if file else 'not kept'}"
    return [(*tiles[0][:2], when), *tiles[1:]]


def _validations(run: Run) -> tuple[Sequence[str], list[tuple[int, list[str]]]]:
    """Return a table: the names of the metrics, and a row of their values for each step."""
    names = list(run.val)
    curves = [dict(run.val[name]) for name in names]
    steps = sorted(set().union(*curves)) if curves else []
    rows = [(s, [number(c[s]) if s in c else "" for c in curves]) for s in steps]
    return list(short_names(names).values()), rows


def _data_url(pixels: np.ndarray) -> str:
    image = Image.fromarray(pixels)
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=85, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
