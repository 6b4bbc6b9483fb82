"""Class names and colours in the form that the visualizers of all MM packages accept."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Mapping
from numbers import Real
from typing import Any

UNNAMED = 1000  # colours for a data set without class names


def drawable(dataset_meta: Mapping[str, Any] | None, mathtext: bool = True) -> dict[str, Any]:
    """Return a data set's meta information with class names and colours that can be drawn.

    mmdet fails on colours that are lists, on a palette that is a tuple, and on fewer colours than
    classes; mmseg draws nothing without colours; matplotlib reads text between two dollar signs as
    a formula.

    Args:
        dataset_meta: As in a data set or a checkpoint.
        mathtext: Whether the names are drawn with matplotlib, in which a dollar sign is special.

    Returns:
        A copy with ``classes``, a tuple of texts or ``None``, and ``palette``, a list with an RGB
        tuple for each class.
    """
    meta = dict(dataset_meta or {})
    names = tuple(map(str, () if meta.get("classes") is None else meta["classes"]))
    if mathtext:
        names = tuple(map(literal, names))
    size = len(names) or UNNAMED
    colours = _colours(meta.get("palette"), size)
    meta["classes"] = names or None
    meta["palette"] = colours + palette_of(size)[len(colours) :]
    return meta


def literal(text: str) -> str:
    r"""Return a text that matplotlib draws as it is; ``$`` becomes ``\$``."""
    return re.sub(r"(?<!\\)\$", r"\\$", text)


def palette_of(size: int) -> list[tuple[int, int, int]]:
    """Return RGB colours whose hues are a golden section apart, so that neighbours differ."""
    hues = (0.618034 * i % 1 for i in range(size))
    return [tuple(int(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.65, 0.95)) for hue in hues]


def _colours(palette: Any, size: int) -> list[tuple[int, int, int]]:
    """Return the colours of a palette up to the first entry that is none."""
    if palette is None or isinstance(palette, str | Mapping):
        return []
    if _is_colour(palette):
        palette = [palette] * size  # mmdet: one colour for all classes
    colours = []
    for colour in palette:
        if not _is_colour(colour):
            break
        colours.append(tuple(min(max(int(value), 0), 255) for value in colour))
    return colours


def _is_colour(colour: Any) -> bool:
    try:
        return len(colour) == 3 and all(isinstance(value, Real) for value in colour)
    except TypeError:
        return False
