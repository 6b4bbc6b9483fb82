"""Check the boxes and segmentations of COCO annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.images import sample

BAD_BOX = Kind(
    "bbox that is not four finite numbers", "the format is [x, y, width, height] in pixels"
)
NEGATIVE_BOX = Kind(
    "bbox with a negative side", "the format is [x, y, width, height], not two corners"
)
OUTSIDE_BOX = Kind(
    "bbox that extends outside its image",
    "the format is [x, y, width, height] in pixels of the image, not two corners",
)
EMPTY_BOX = note("object without width, height or area", "mmdet ignores it")
NO_MASK = Kind(
    "annotation without segmentation",
    "the pipeline loads masks (with_mask=True); for boxes alone use a model without a mask head",
)
BAD_POLYGON = Kind(
    "segmentation that is not polygons",
    "the format is a list of polygons [x1, y1, x2, y2, ...] of three points or more",
)
BAD_RLE = Kind(
    "invalid RLE", "size is [height, width] of the image, and the counts add up to its pixels"
)
_SLACK = 2  # pixels that a box may extend outside: annotators round, and mmdet clips
_MAX_RLES = 50_000  # larger numbers are sampled: each RLE needs some ten microseconds

Row = Mapping[str, Any]


def is_number(value: object) -> bool:
    """Whether NumPy accepts a value as a coordinate; NaN is not accepted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def name_of(row: Row) -> str:
    """Return the name of an annotation in reports."""
    return f"annotation {row.get('id')} of image {row.get('image_id')}"


def check_boxes(rows: Sequence[Row], images: Mapping, findings: Findings) -> np.ndarray:
    """Check the boxes of complete annotations.

    Args:
        rows: The annotations.
        images: The images by their id.
        findings: Receives the problems and notes.

    Returns:
        Whether mmdet keeps each annotation, (N,) bool.
    """
    boxes = _as_array([row["bbox"] for row in rows])
    sizes = {i: (image["width"], image["height"]) for i, image in images.items()}
    sides = np.array([sizes[row["image_id"]] for row in rows], dtype=float).reshape(-1, 2)
    area = np.array([row["area"] for row in rows], dtype=float)
    start, size = boxes[:, :2], boxes[:, 2:]

    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):  # `& finite` removes the other boxes
        negative = (size < 0).any(axis=1) & finite
        past = (start < -_SLACK) | (start + size > sides + _SLACK)
        disjoint = (start >= sides) | (start + size <= 0)
        outside = (past | (disjoint & (size > 0))).any(axis=1) & finite & ~negative
        empty = ((size < 1).any(axis=1) | ~(area > 0)) & finite & ~negative & ~outside
    for kind, selected in (
        (BAD_BOX, ~finite),
        (NEGATIVE_BOX, negative),
        (OUTSIDE_BOX, outside),
        (EMPTY_BOX, empty),
    ):
        findings.add(
            kind,
            (
                f"{name_of(rows[i])}: {json.dumps(rows[i]['bbox'])[:80]}"
                + (f" in {sides[i, 0]:g} x {sides[i, 1]:g}" if kind is OUTSIDE_BOX else "")
                for i in np.flatnonzero(selected)
            ),
        )
    return finite & ~negative & ~outside & ~empty


def _as_array(boxes: Sequence[object]) -> np.ndarray:
    """Return boxes as (N, 4), NaN for each one that is not four numbers."""
    try:
        array = np.array(boxes)
        if array.shape == (len(boxes), 4) and array.dtype.kind in "iuf":
            return array.astype(float)
    except ValueError:  # boxes of different lengths
        pass
    array = np.full((len(boxes), 4), np.nan)
    for index, box in enumerate(boxes):
        if isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
            array[index] = box
    return array


def check_segmentations(
    rows: Sequence[Row], images: Mapping, findings: Findings, limit: int | None
) -> None:
    """Check the segmentations of annotations that mmdet keeps.

    Args:
        rows: The annotations.
        images: The images by their id.
        findings: Receives the problems.
        limit: ``None`` to check every RLE, even of very large data sets.
    """
    rles = []
    for row in rows:
        segmentation = row.get("segmentation")
        if not segmentation:
            findings.add(NO_MASK, name_of(row))
        elif isinstance(segmentation, dict):
            rles.append(row)
        elif not _are_polygons(segmentation):
            findings.add(BAD_POLYGON, f"{name_of(row)}: {json.dumps(segmentation)[:80]}")
    for row in sample(rles, None if limit is None else _MAX_RLES):
        image = images[row["image_id"]]
        if reason := rle_error(row["segmentation"], image["height"], image["width"]):
            findings.add(BAD_RLE, f"{name_of(row)}: {reason}")


def _are_polygons(segmentation: object) -> bool:
    try:
        return isinstance(segmentation, list) and all(
            len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
            for polygon in segmentation
        )
    except (TypeError, OverflowError):  # not a number, or a huge one
        return False


def rle_error(rle: Row, height: int, width: int) -> str:
    """Return the error in run lengths, compressed or not; an empty string if they are valid.

    pycocotools writes past its memory for counts that add up to more than the image.
    """
    if rle.get("size") != [height, width]:
        return f"size {rle.get('size')}, the image has [{height}, {width}]"
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = decompress(counts)
    elif not (isinstance(counts, list) and all(isinstance(n, int) for n in counts)):
        counts = None
    if counts is None or min(counts, default=0) < 0:
        return "counts that cannot be decoded"
    total = int(sum(counts))
    return "" if total == height * width else f"counts of {total} pixels, not {height * width}"


def decompress(counts: str) -> np.ndarray | None:
    """Decode COCO's compressed run lengths; return ``None`` if that is impossible.

    A character holds five bits. From the fourth run on, a number is the difference to the run
    before the last.
    """
    codes = np.frombuffer(counts.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int64) - 48
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        return None
    ends = np.flatnonzero((codes & 32) == 0)  # the other characters of a number have bit 5 set
    starts = np.concatenate(([0], ends[:-1] + 1))
    lengths = ends - starts + 1
    if lengths.max() > 12:  # 60 bits
        return None
    shifts = 5 * (np.arange(len(codes)) - np.repeat(starts, lengths))
    values = np.add.reduceat((codes & 31) << shifts, starts)
    values -= np.where(codes[ends] & 16, 1 << (5 * lengths), 0)  # sign
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
