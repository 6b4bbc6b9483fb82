"""Check the boxes and segmentations of COCO annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
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
FRACTION_BOX = Kind(
    "file with boxes as fractions of the image", "the format is [x, y, width, height] in pixels"
)
PERCENT_BOX = Kind(
    "file with boxes as percent of the image", "the format is [x, y, width, height] in pixels"
)
EMPTY_BOX = note("object without width, height or area", "mmdet ignores it")
NO_MASK = Kind(
    "annotation without segmentation",
    "the pipeline loads masks (with_mask=True) or the evaluator scores them (metric='segm'); for "
    "boxes alone use a model without a mask head",
)
BAD_POLYGON = Kind(
    "segmentation that is not polygons",
    "the format is a list of polygons [x1, y1, x2, y2, ...] of three points or more",
)
FAR_POLYGON = Kind(
    "polygon far outside its image", "the format is pixels of the image: x from 0 to its width"
)
BAD_RLE = Kind(
    "invalid RLE", "size is [height, width] of the image, and the counts add up to its pixels"
)
RLE_AS_POLYGON = Kind(
    "RLE in a pipeline of polygons", "mmdet ignores the object: remove poly2mask=False"
)
APART = Kind(
    "segmentation that does not overlap its bbox",
    "both are in pixels of the image: fix one of them",
)
OTHER_UNIT = Kind(
    "file whose segmentations and boxes differ", "both are in pixels of the image: fix one of them"
)
NO_PIXEL = "segmentation without a pixel"
_SLACK = 2  # pixels that a box may extend outside: annotators round, and mmdet clips
_MAX_RLES = 20_000  # larger numbers are sampled: each RLE needs some ten microseconds
_MIN_OVERLAP = 0.25  # median IoU of boxes and segmentations, which may be of visible parts
_ENOUGH = 5  # objects that tell the unit of a file
_SMALL = 4  # pixels of a side of polygons that may cover no pixel

Row = Mapping[str, Any]


def is_number(value: object) -> bool:
    """Whether NumPy accepts a value as a coordinate; NaN is not accepted."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def name_of(row: Row) -> str:
    """Return the name of an annotation in reports; ids that are text are quoted."""
    return f"annotation {row.get('id')!r} of image {row.get('image_id')!r}"


def check_boxes(rows: Sequence[Row], images: Mapping, findings: Findings) -> list[str]:
    """Check the boxes of complete annotations.

    Args:
        rows: The annotations.
        images: The images by their id.
        findings: Receives the problems and notes.

    Returns:
        Why mmdet leaves out each object, or why it should be fixed; an empty string if its box and
        area are valid.
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
        usable = finite & ~negative & ~outside
        thin = (size < 1).any(axis=1) & usable
        flat = ~(area > 0) & usable & ~thin
        _check_units(boxes[usable], sides[usable], findings)
    reasons = np.full(len(rows), "", dtype=object)
    for kind, selected, reason in (
        (BAD_BOX, ~finite, "bbox"),
        (NEGATIVE_BOX, negative, "bbox"),
        (OUTSIDE_BOX, outside, "bbox"),
        (EMPTY_BOX, thin, "bbox below 1 pixel"),
        (EMPTY_BOX, flat, "area of 0"),
    ):
        reasons[selected] = reason
        findings.add(
            kind,
            (
                f"{name_of(rows[i])}: {json.dumps(rows[i]['bbox'])[:80]}"
                + (f" in {sides[i, 0]:g} x {sides[i, 1]:g}" if kind is OUTSIDE_BOX else "")
                + (f", area {area[i]:g}" if kind is EMPTY_BOX else "")
                for i in np.flatnonzero(selected)
            ),
        )
    return reasons.tolist()


def _check_units(boxes: np.ndarray, sides: np.ndarray, findings: Findings) -> None:
    """Recognise a file whose boxes are fractions or percent of the image, not pixels.

    Args:
        boxes: x, y, width and height, (N, 4).
        sides: Width and height of their images, (N, 2).
        findings: Receives the problem.
    """
    if not len(boxes):
        return
    ends = boxes[:, :2] + boxes[:, 2:]
    in_unit = (boxes >= 0).all(axis=1) & (ends <= 1).all(axis=1) & (boxes[:, 2:] > 0).all(axis=1)
    if in_unit.mean() > 0.5:
        findings.add(
            FRACTION_BOX, f"{int(in_unit.sum()):,} boxes, such as {boxes[in_unit][0].tolist()}"
        )
    elif (
        len(boxes) >= 4 * _ENOUGH
        and (ends <= 100.5).all()
        and (ends.max(axis=0) > 80).all()
        and (sides > 150).all()
    ):
        findings.add(
            PERCENT_BOX,
            f"none of {len(boxes):,} boxes ends beyond 100, in images of {_size(sides[0])}",
        )


def _size(side: np.ndarray) -> str:
    return f"{side[0]:g} x {side[1]:g}"


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
    rows: Sequence[Row],
    images: Mapping,
    findings: Findings,
    limit: int | None,
    as_polygons: bool = False,
) -> list[str]:
    """Check the segmentations of objects that mmdet loads.

    Args:
        rows: The annotations, with valid boxes.
        images: The images by their id.
        findings: Receives the problems.
        limit: ``None`` to check every RLE, even of very large data sets.
        as_polygons: Whether the pipeline has ``poly2mask=False``.

    Returns:
        Why a mask is lost in an evaluation, for each row; an empty string if it is not.
    """
    rles, polygons, lost = [], [], [""] * len(rows)
    for index, row in enumerate(rows):
        segmentation = row.get("segmentation")
        if not segmentation:
            findings.add(NO_MASK, name_of(row))
        elif isinstance(segmentation, dict):
            rles.append(index)
        elif not _are_polygons(segmentation):
            findings.add(BAD_POLYGON, f"{name_of(row)}: {json.dumps(segmentation)[:80]}")
        else:
            polygons.append(index)
    if as_polygons:
        findings.add(RLE_AS_POLYGON, (name_of(rows[i]) for i in rles))
    checked = []
    for index in sample(rles, None if limit is None else _MAX_RLES):
        row, image = rows[index], images[rows[index]["image_id"]]
        reason = rle_error(row["segmentation"], int(image["height"]), int(image["width"]))
        if reason:
            findings.add(BAD_RLE, f"{name_of(row)}: {reason}")
        else:
            checked.append(index)
    indices = np.array(polygons + checked, dtype=int)
    extents = np.concatenate(
        [
            _polygon_extents([rows[i]["segmentation"] for i in polygons]),
            _rle_extents([rows[i]["segmentation"] for i in checked]),
        ]
    )
    chosen = [rows[i] for i in indices]
    _check_overlap(chosen, extents, findings)
    sizes = np.array(
        [(images[row["image_id"]]["width"], images[row["image_id"]]["height"]) for row in chosen],
        dtype=float,
    ).reshape(-1, 2)
    start, end = extents[:, :2], extents[:, 2:]
    far = ((start < -sizes) | (end > 2 * sizes)).any(axis=1)
    findings.add(FAR_POLYGON, (name_of(chosen[i]) for i in np.flatnonzero(far)))
    doubtful = ((end - start < _SMALL) | (start < 0) | (end > sizes)).any(axis=1) & ~far
    for i in np.flatnonzero(doubtful):
        if not _has_pixel(chosen[i]["segmentation"], images[chosen[i]["image_id"]]):
            lost[indices[i]] = NO_PIXEL
    return lost


def _polygon_extents(segmentations: Sequence[list]) -> np.ndarray:
    """Return the smallest and largest x and y of polygons: x1, y1, x2, y2, (N, 4)."""
    if not segmentations:
        return np.zeros((0, 4))
    lengths = np.array([sum(map(len, polygons)) for polygons in segmentations])
    flat = chain.from_iterable(chain.from_iterable(segmentations))
    points = np.fromiter(flat, dtype=float, count=int(lengths.sum())).reshape(-1, 2)
    starts = np.concatenate(([0], np.cumsum(lengths // 2)[:-1]))
    return np.concatenate(
        [np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1
    )


def _rle_extents(rles: Sequence[dict]) -> np.ndarray:
    """Return the extents of valid run lengths: x1, y1, x2, y2, (N, 4)."""
    from pycocotools import mask as coco_mask

    if not rles:
        return np.zeros((0, 4))
    boxes = coco_mask.toBbox([_encoded(rle) for rle in rles]).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _encoded(rle: dict) -> dict:
    from pycocotools import mask as coco_mask

    if isinstance(rle["counts"], list):
        return coco_mask.frPyObjects(rle, *rle["size"])
    return {"size": rle["size"], "counts": rle["counts"].encode()}


def _has_pixel(segmentation: list | dict, image: Mapping) -> bool:
    """Whether a valid segmentation covers a pixel of its image."""
    from pycocotools import mask as coco_mask

    if isinstance(segmentation, dict):
        return coco_mask.area(_encoded(segmentation)) > 0
    rles = coco_mask.frPyObjects(segmentation, int(image["height"]), int(image["width"]))
    return coco_mask.area(coco_mask.merge(rles)) > 0


def _check_overlap(rows: Sequence[Row], extents: np.ndarray, findings: Findings) -> None:
    """Compare segmentations with their boxes.

    Args:
        rows: The annotations.
        extents: x1, y1, x2, y2 of their segmentations, (N, 4).
        findings: Receives the problems.
    """
    if not len(rows):
        return
    boxes = np.array([row["bbox"] for row in rows], dtype=float)
    boxes[:, 2:] += boxes[:, :2]
    # Polygons run through pixels or around them: allow for a pixel.
    sides = np.minimum(boxes[:, 2:], extents[:, 2:]) - np.maximum(boxes[:, :2], extents[:, :2])
    apart = (sides < -1).any(axis=1)
    common = np.clip(sides, 0, None).prod(axis=1)
    areas = [np.clip(e[:, 2:] - e[:, :2], 0, None).prod(axis=1) for e in (boxes, extents)]
    overlap = common / np.maximum(areas[0] + areas[1] - common, 1e-9)
    if len(rows) >= _ENOUGH and np.median(overlap) < _MIN_OVERLAP:
        worst = rows[int(np.argsort(overlap)[len(rows) // 2])]
        findings.add(
            OTHER_UNIT,
            f"half of {len(rows):,} overlap by less than {_MIN_OVERLAP:.0%}, such as "
            f"{name_of(worst)}",
        )
    else:
        findings.add(
            APART,
            (
                f"{name_of(rows[i])}: bbox {json.dumps(rows[i]['bbox'])[:60]}, segmentation from "
                f"({extents[i, 0]:g}, {extents[i, 1]:g}) to ({extents[i, 2]:g}, {extents[i, 3]:g})"
                for i in np.flatnonzero(apart)
            ),
        )


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
        values = decompress(counts)
    elif isinstance(counts, list) and all(isinstance(n, int) and n < 2**31 for n in counts):
        values = np.array(counts, dtype=np.int64)
    else:
        values = None
    if values is None or (len(values) and values.min() < 0):
        return "counts that cannot be decoded"
    total = int(values.sum())
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
