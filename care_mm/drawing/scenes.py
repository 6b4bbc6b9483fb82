"""Draw instances and class maps over an image."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from care_mm.drawing.labels import MAX_COVERED, Label, font_sizes, place_labels, text_size
from care_mm.drawing.labels import write_labels as write

Colour = Sequence[int]
_FILL = 0.45  # the strongest fill through which one sees the object


def draw_instances(
    image: np.ndarray,
    colours: Sequence[Colour],
    boxes: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    texts: Sequence[str] = (),
    alpha: float = _FILL,
    line_width: float = 3,
) -> np.ndarray:
    """Draw masks with their outlines, boxes, and labels where there is room for them.

    Args:
        image: (H, W, 3) uint8 RGB.
        colours: The RGB colour of each object.
        boxes: (N, 4) left, top, right and bottom in pixels.
        masks: (N, H, W) bool.
        texts: The label of each object; empty for no labels.
        alpha: Strength of the fill of masks; at most 0.45 of it is used.
        line_width: The thickest line; lines in small images and around small objects are thinner.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    image = image.copy()
    height, width = image.shape[:2]
    number = len(colours)
    extents = np.zeros((number, 4)) if boxes is None else np.asarray(boxes, float).round()
    extents = np.clip(extents, 0, (width, height) * 2).astype(int)
    areas = (extents[:, 2] - extents[:, 0]) * (extents[:, 3] - extents[:, 1])
    owners = np.zeros((height, width), np.int32)
    outlines = []
    for i in np.argsort(-areas, kind="stable"):
        colour = tuple(map(int, colours[i]))
        mask = None if masks is None else np.ascontiguousarray(masks[i], np.uint8)
        if mask is not None and mask.any():
            x, y, w, h = cv2.boundingRect(mask)
            part, inside = image[y : y + h, x : x + w], mask[y : y + h, x : x + w].astype(bool)
            tint = min(alpha, _FILL)
            part[inside] = (part[inside] * (1 - tint) + np.asarray(colour) * tint).round()
            owners[y : y + h, x : x + w] += inside
            areas[i] = inside.sum()
            if not (extents[i, 2:] > extents[i, :2]).all():
                extents[i] = x, y, x + w, y + h
            lines = cv2.findContours(
                mask[y : y + h, x : x + w], cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y)
            )[0]
            outlines.append((lines, colour))
        else:
            left, top, right, bottom = extents[i]
            owners[top:bottom, left:right] += 1
    for lines, colour in outlines:
        cv2.drawContours(image, lines, -1, colour, 1)
    if boxes is not None:
        for (left, top, right, bottom), colour in zip(extents.tolist(), colours, strict=True):
            if right > left and bottom > top:
                side = min(right - left, bottom - top)
                line = _line(line_width, max(height, width), side)
                corners = (left, top), (right - 1, bottom - 1)
                cv2.rectangle(image, *corners, tuple(map(int, colour)), line)
    if not texts:
        return image
    return write(image, place_labels(texts, extents, owners, areas), colours)


def draw_class_map(
    image: np.ndarray,
    class_map: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Colour],
    alpha: float = 0.5,
    with_labels: bool = True,
) -> np.ndarray:
    """Draw a map of classes, with names in regions that have room for them.

    Args:
        image: (H, W, 3) uint8 RGB.
        class_map: (H, W) numbers of classes; others, such as 255, are left as they are.
        classes: The names.
        palette: The colours.
        alpha: Strength of the colours; at most 0.6 of it is used.
        with_labels: Write names, if there is more than one class.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    labels = [int(v) for v in np.unique(class_map) if 0 <= v < len(classes)]
    table = np.zeros((len(classes), 3))
    table[labels] = [palette[label] for label in labels]
    known = (class_map >= 0) & (class_map < len(classes))
    image, tint = image.copy(), min(alpha, 0.6)
    image[known] = (image[known] * (1 - tint) + table[class_map[known]] * tint).round()
    if not with_labels or len(classes) < 2:
        return image
    placed = [_in_region(class_map == label, str(classes[label])) for label in labels]
    return write(image, placed, [palette[label] for label in labels])


def _line(line_width: float, side: int, object_side: int) -> int:
    """Return a thickness that suits the image and the object."""
    return max(1, round(min(line_width, side / 400, object_side / 16)))


def _in_region(region: np.ndarray, text: str) -> Label | None:
    """Return a label at the widest place of a region, ``None`` if it would cover too much of it."""
    depth = cv2.distanceTransform(np.pad(region, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(depth.argmax(), depth.shape)
    for size in font_sizes(*region.shape):
        w, h = text_size(text, size)
        left = min(max(int(x) - w // 2, 0), region.shape[1] - w)
        top = min(max(int(y) - h // 2, 0), region.shape[0] - h)
        if left < 0 or top < 0 or w * h > MAX_COVERED * region.sum():
            continue
        if region[top : top + h, left : left + w].all():
            return Label(text, size, (left, top, left + w, top + h))
    return None
