"""Draw the maps of a view over their image: one file each, and a sheet with all of them."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from care_mm.errors import refuse_existing
from care_mm.files import save_figure
from care_mm.palette import literal
from care_mm.predict.files import write_png
from care_mm.visualize.view import View

SHEET = "sheet.png"


def overlay(image: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Draw a map in colour over the grey image, (H, W, 3) uint8 RGB; ``low`` is dark."""
    strength = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    colours = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    grey = np.repeat(image.mean(-1, keepdims=True), 3, axis=-1)
    return (0.35 * grey + 0.65 * colours).round().astype(np.uint8)


def _relative(image: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Draw a map between its own 1st and 99th percentile."""
    return overlay(image, values, *np.percentile(values, (1, 99)))


def _mark(image: np.ndarray, point: tuple[int, int]) -> np.ndarray:
    """Draw a circle around a position, given as column and row."""
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    radius = max(image.shape[:2]) / 60
    distance = np.hypot(rows - point[1], columns - point[0])
    marked = image.copy()
    marked[abs(distance - radius) < radius / 2] = 0
    marked[abs(distance - radius) < radius / 4] = 255
    return marked


def draw_view(view: View) -> dict[str, tuple[str, np.ndarray]]:
    """Return a caption and an (H, W, 3) uint8 RGB image for each file name without suffix."""
    image = view.image
    drawn = {
        "prediction": ("prediction", view.prediction),
        "input": ("network input", image),
    }
    for stage, values in view.energy.items():
        drawn[f"energy_stage{stage}"] = (f"energy, stage {stage}", _relative(image, values))
    for stage, values in view.attention.items():
        caption = f"attention, stage {stage}, mean"
        drawn[f"attention_stage{stage}"] = (caption, _relative(image, values))
        marked = _mark(_relative(image, view.attention_from[stage]), view.point)
        caption = f"attention, stage {stage}, from the circle"
        drawn[f"attention_from_stage{stage}"] = (caption, marked)
    for stage, values in view.cam.items():
        caption = f"Grad-CAM of {view.target}, stage {stage}"
        drawn[f"gradcam_stage{stage}"] = (caption, overlay(image, values, 0, 1))
    return drawn


def write_view(view: View, folder: Path) -> list[Path]:
    """Write all images of a view, and ``sheet.png`` last; create the folder if missing.

    Raises:
        InputError: One of the files exists or cannot be written.
    """
    drawn = draw_view(view)
    files = [folder / f"{name}.png" for name in drawn]
    sheet = folder / SHEET
    for file in (*files, sheet):
        refuse_existing(file, "--out-dir")
    for file, (_, image) in zip(files, drawn.values(), strict=True):
        write_png(image, file)
    save_figure(_sheet(drawn, len(view.energy)), sheet, overwrite=False, dpi=110)
    return [*files, sheet]


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
        for (caption, image), axes in zip(row, line, strict=False):
            axes.imshow(image)
            axes.set_title(literal(caption), fontsize="medium")
    return figure
