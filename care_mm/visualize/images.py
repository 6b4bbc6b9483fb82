"""Maps drawn over their picture, one file each, and a sheet with all of them."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.predict.files import write_png
from care_mm.visualize.view import View

SHEET = "sheet.png"


def overlay(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A map in colours over the picture in grey, (H, W, 3) uint8 RGB; dark is ``low``."""
    strength = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colours = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    return (0.35 * grey + 0.65 * colours).round().astype(np.uint8)


def _relative(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Between the map's own ends, without the outermost hundredths."""
    return overlay(image, values, *np.percentile(values, (1, 99)))


def _mark(picture: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """A circle around a position, column and row."""
    rows, columns = np.ogrid[: picture.shape[0], : picture.shape[1]]
    radius = max(picture.shape[:2]) / 60
    distance = np.hypot(rows - point[1], columns - point[0])
    marked = picture.copy()
    marked[abs(distance - radius) < radius / 2] = 0
    marked[abs(distance - radius) < radius / 4] = 255
    return marked


def pictures(view: View) -> dict[str, tuple[str, np.ndarray]]:
    """By the name of the file: a caption and (H, W, 3) uint8 RGB."""
    image = view.image
    drawn = {
        "prediction": ("prediction", view.prediction),
        "input": ("what the network sees", image),
    }
    for number, values in view.energy.items():
        drawn[f"energy_stage{number}"] = (f"energy, stage {number}", _relative(image, values))
    for number, values in view.attention.items():
        caption = f"attention, stage {number}, mean"
        drawn[f"attention_stage{number}"] = (caption, _relative(image, values))
        picture = _mark(_relative(image, view.attention_from[number]), view.point)
        caption = f"attention, stage {number}, from the circle"
        drawn[f"attention_from_stage{number}"] = (caption, picture)
    for number, values in view.cam.items():
        caption = f"Grad-CAM of {view.target}, stage {number}"
        drawn[f"gradcam_stage{number}"] = (caption, overlay(image, values, 0, 1))
    return drawn


def write_view(view: View, folder: Path) -> list[Path]:
    """Write every picture and ``sheet.png`` with all of them, in a folder that is made if need be.

    Raises:
        InputError: One of the files exists, or cannot be written.
    """
    drawn = pictures(view)
    files = {name: folder / f"{name}.png" for name in drawn}
    for file in (*files.values(), folder / SHEET):
        if file.exists():
            raise InputError(f"{file} exists: choose another --out-dir")
    for name, (_, picture) in drawn.items():
        write_png(picture, files[name])
    buffer = io.BytesIO()
    _sheet(drawn, len(view.energy)).savefig(buffer, format="png", dpi=110)
    write_bytes(buffer.getvalue(), folder / SHEET, overwrite=False)
    return [*files.values(), folder / SHEET]


def _sheet(drawn: dict[str, tuple[str, np.ndarray]], columns: int) -> Figure:
    rows = [
        [part for name, part in drawn.items() if name.startswith(start)]
        for start in (("prediction", "input"), ("energy",), ("attention",), ("gradcam",))
    ]
    rows = [row for row in rows if row]
    columns = max(columns, *map(len, rows))
    height, width = drawn["input"][1].shape[:2]
    figure = Figure(
        figsize=(3.2 * columns, (3.2 * height / width + 0.3) * len(rows)), layout="constrained"
    )
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for row, line in zip(rows, grid, strict=True):
        for (caption, picture), axes in zip(row, line, strict=False):
            axes.imshow(picture)
            axes.set_title(caption, fontsize="medium")
    return figure
