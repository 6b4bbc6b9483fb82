"""Place labels where they cover no object, and write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

# A label may cover this share of its own object, and nothing of others.
MAX_COVERED = 0.1
_PAD = 2
Box = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True)
class Label:
    """A text with a place.

    Attributes:
        text: The text.
        size: Height of the font in pixels.
        box: Left, top, right and bottom of its background.
    """

    text: str
    size: int
    box: Box


def font_sizes(height: int, width: int) -> tuple[int, int]:
    """Return the usual and the small size of labels in an image."""
    size = max(12, round(max(height, width) / 50))
    return size, max(9, round(0.75 * size))


def place_labels(
    texts: Sequence[str], boxes: np.ndarray, owners: np.ndarray, areas: np.ndarray
) -> list[Label | None]:
    """Find a place for the label of each object: at its box, where no object is, or none.

    A large object may hold its label, which covers at most ``MAX_COVERED`` of it.

    Args:
        texts: The text of each object, the most important first.
        boxes: (N, 4) left, top, right and bottom in pixels.
        owners: (H, W) number of objects at each pixel.
        areas: (N,) pixels of each object.

    Returns:
        The label of each object, ``None`` where there is no room.
    """
    height, width = owners.shape
    integral = np.pad(owners.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    taken = np.zeros((height, width), bool)
    labels: list[Label | None] = []
    for text, box, area in zip(texts, boxes.astype(int).tolist(), areas.tolist(), strict=True):
        label = None
        for size in font_sizes(height, width):
            for place, inside in _places(box, *text_size(text, size)):
                left, top, right, bottom = place
                if left < 0 or top < 0 or right > width or bottom > height:
                    continue
                if taken[top:bottom, left:right].any():
                    continue
                pixels = (right - left) * (bottom - top)
                covered = (
                    integral[bottom, right]
                    - integral[top, right]
                    - integral[bottom, left]
                    + integral[top, left]
                )
                # Inside of an object each pixel counts once, unless others are there.
                crowded = owners[top:bottom, left:right].max() > 1
                if covered == 0 or (inside and not crowded and pixels <= MAX_COVERED * area):
                    label = Label(text, size, place)
                    break
            if label:
                break
        if label:
            left, top, right, bottom = label.box
            taken[top:bottom, left:right] = True
        labels.append(label)
    return labels


def write_labels(
    image: np.ndarray, labels: Sequence[Label | None], colours: Sequence[Sequence[int]]
) -> np.ndarray:
    """Write labels in light colours on dark ground into an image, (H, W, 3) uint8 RGB."""
    if not any(labels):
        return image
    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    for label, colour in zip(labels, colours, strict=True):
        if label:
            left, top, right, bottom = label.box
            light = tuple(int(127 + value / 2) for value in colour)
            pen.rectangle((left, top, right - 1, bottom - 1), fill=(20, 20, 20))
            place = (left + _PAD, (top + bottom) // 2)
            pen.text(place, label.text, light, _font(label.size), anchor="lm")
    return np.array(canvas)


def text_size(text: str, size: int) -> tuple[int, int]:
    """Return width and height of a label with its margins."""
    return int(np.ceil(_font(size).getlength(text))) + 2 * _PAD, size + 2 * _PAD


def _places(box: Sequence[int], width: int, height: int) -> Iterator[tuple[Box, bool]]:
    """Yield places around a box, and at last in it, and whether they are in it."""
    left, top, right, bottom = box
    gap = 1
    corners = [
        (left, top - height - gap),
        (right - width, top - height - gap),
        (left, bottom + gap),
        (right - width, bottom + gap),
        (right + gap, top),
        (left - width - gap, top),
        (right + gap, bottom - height),
        (left - width - gap, bottom - height),
    ]
    for x, y in corners:
        yield (x, y, x + width, y + height), False
    if width <= right - left and height <= bottom - top:
        yield (left, top, left + width, top + height), True


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return matplotlib's own font, which is there on every machine."""
    file = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")
    return ImageFont.truetype(str(file), size)
