"""Whether annotations in COCO's format say what mmdet's ``CocoDataset`` needs."""

from __future__ import annotations

import gc
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.images import (
    MISSING,
    are_there,
    check_pictures,
    is_turned_by_exif,
    sample,
)

NO_JSON = Kind("file is not COCO's JSON", "files are not COCO's JSON", "get it or write it again")
IMAGE_ENTRY = Kind(
    "entry of images is incomplete",
    "entries of images are incomplete",
    "each has an id, a file_name, and width and height in pixels",
)
ENTRY = Kind(
    "annotation is incomplete",
    "annotations are incomplete",
    "each has id, image_id, category_id, bbox and a finite area",
)
TWICE = Kind("id is there twice", "ids are there twice", "ids within a table have to differ")
NO_IMAGE = Kind(
    "annotation is of an unknown image",
    "annotations are of unknown images",
    "add the image to the images, or take the annotation out",
)
NO_CATEGORY = Kind(
    "annotation is of an unknown category",
    "annotations are of unknown categories",
    "add the category to the categories, or take the annotation out",
)
BAD_BOX = Kind(
    "bbox is not four finite numbers",
    "bboxes are not four finite numbers",
    "it is [x, y, width, height] in pixels",
)
NEGATIVE_BOX = Kind(
    "bbox has a negative side",
    "bboxes have a negative side",
    "it is [x, y, width, height], not two corners",
)
OUTSIDE_BOX = Kind(
    "bbox reaches outside its picture",
    "bboxes reach outside their pictures",
    "it is [x, y, width, height] in pixels of the picture, not two corners",
)
EMPTY_BOX = note(
    "object has no width, height or area",
    "objects have no width, height or area",
    "mmdet leaves them out",
)
NO_MASK = Kind(
    "annotation has no segmentation",
    "annotations have no segmentation",
    "the pipeline loads masks (with_mask=True); for boxes alone take a model without a mask head",
)
BAD_POLYGON = Kind(
    "segmentation is not polygons",
    "segmentations are not polygons",
    "it is a list of polygons [x1, y1, x2, y2, ...] of three points or more",
)
BAD_RLE = Kind(
    "segmentation is a bad RLE",
    "segmentations are bad RLEs",
    "size is [height, width] of the picture and the counts add up to its pixels",
)
NO_CROWD_FLAG = Kind(
    "annotation has no iscrowd",
    "annotations have no iscrowd",
    "COCO's evaluation asks for it: 0 for an ordinary object",
)
LACKING = Kind(
    "class of the config is not in the JSON",
    "classes of the config are not in the JSON",
    "set metainfo=dict(classes=...) to the names in the JSON, or labels and names get out of step",
)
OTHER_ORDER = Kind(
    "class stands elsewhere in the JSON",
    "classes stand elsewhere in the JSON",
    "mmdet numbers labels as the JSON orders its categories: give the classes in that order",
)
LEFT_OUT = note(
    "category of the JSON is not among the config's classes",
    "categories of the JSON are not among the config's classes",
    "its objects are left out",
)
NO_EXAMPLE = note("class has no example", "classes have no example", "it cannot be learnt or rated")
NOTHING_LEFT = Kind(
    "data set has no image to train on",
    "data sets have no image to train on",
    "filter_cfg leaves out images that are small or without an object of the classes",
)
FILTERED = note("image is left out of training", "images are left out of training", "by filter_cfg")
_SLACK = 2  # pixels that a box may reach outside: annotators round, and mmdet clips
_MAX_RLES = 50_000  # more are sampled: each takes some ten microseconds

Row = Mapping[str, Any]


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: it would go through millions of objects again and again."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_uncollected()
def check_coco(dataset: Any, settings: Mapping, findings: Findings, limit: int | None) -> None:
    """Check annotations, and open a sample of the pictures.

    Args:
        dataset: A ``CocoDataset`` that has not loaded anything yet.
        settings: Its config.
        findings: Added to.
        limit: Pictures to open, evenly spaced; ``None`` for all.
    """
    content = _read(dataset.ann_file, findings)
    if content is None:
        return
    images = _images(content["images"], findings)
    categories = _categories(content["categories"], dataset.metainfo["classes"], findings)
    rows = _annotations(content["annotations"], images, content["categories"], findings)
    boxes = _boxes(rows, images, findings)
    used = [row["category_id"] in categories for row in rows]
    kept = [row for row, whole, mine in zip(rows, boxes, used, strict=True) if whole and mine]
    loads_masks = any(
        isinstance(step, Mapping) and step.get("with_mask")
        for step in settings.get("pipeline") or ()
    )
    if loads_masks:
        _masks(kept, images, findings, limit)
    if dataset.test_mode:
        findings.add(NO_CROWD_FLAG, (_name(row) for row in rows if "iscrowd" not in row))
    counts = Counter(row["category_id"] for row in kept)
    findings.add(NO_EXAMPLE, (repr(name) for i, name in categories.items() if not counts[i]))
    # mmdet counts an image as filled by any object of the classes, be it one that it leaves out.
    _filtered(
        [row for row, mine in zip(rows, used, strict=True) if mine], images, dataset, findings
    )
    findings.summary = (
        f"{len(content['images']):,} images, {len(content['annotations']):,} annotations, "
        f"{len(dataset.metainfo['classes'])} classes"
    )
    _pictures(images, dataset, settings, findings, limit)


def _read(file: str, findings: Findings) -> dict[str, list[Row]] | None:
    """The three tables, or ``None`` where there are none to check."""
    try:
        with open(file, encoding="utf-8") as handle:
            content = json.load(handle)
    except (ValueError, RecursionError) as error:
        reason = "it ends too early" if _is_cut_off(error) else str(error)
        findings.add(NO_JSON, f"{file} ({os.path.getsize(file):,} bytes; {reason})")
        return None
    except OSError as error:
        findings.add(NO_JSON, f"{file!r} ({error.strerror})")
        return None
    if not isinstance(content, dict):
        findings.add(NO_JSON, f"{file} (a {type(content).__name__}, not an object of tables)")
        return None
    for table in ("images", "annotations", "categories"):
        rows = content.get(table)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            findings.add(NO_JSON, f"{file} (it has no list {table!r} of objects)")
    return None if findings.problems else content


def _is_cut_off(error: Exception) -> bool:
    """Whether parsing failed where the file ends, or in a string that never does."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def _name(row: Row) -> str:
    """How a report calls an annotation."""
    return f"annotation {row.get('id')} of image {row.get('image_id')}"


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _is_number(value: object) -> bool:
    """Whether it is one that NumPy takes for a coordinate; NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _images(rows: Sequence[Row], findings: Findings) -> dict[int | str, Row]:
    """The images that are whole, by their id."""
    whole = {}
    for row in rows:
        sides = (row.get("width"), row.get("height"))
        named = _is_id(row.get("id")) and isinstance(row.get("file_name"), str)
        if not named or not all(_is_number(side) and side > 0 for side in sides):
            findings.add(IMAGE_ENTRY, f"{json.dumps(row)[:120]}")
        else:
            whole[row["id"]] = row
    counts = Counter(row["id"] for row in rows if _is_id(row.get("id")))
    findings.add(TWICE, (f"image id {i!r}" for i, count in counts.items() if count > 1))
    return whole


def _categories(rows: Sequence[Row], classes: Sequence[str], findings: Findings) -> dict:
    """The ids of the categories that are classes of the config, with their names."""
    for key in ("id", "name"):
        counts = Counter(str(row.get(key)) for row in rows)
        findings.add(TWICE, (f"category {key} {v}" for v, count in counts.items() if count > 1))
    names = [row.get("name") for row in rows]
    findings.add(LACKING, (repr(name) for name in classes if name not in names))
    findings.add(LEFT_OUT, (repr(name) for name in names if name not in classes))
    # mmdet takes the classes in the order of the JSON and calls the first of them classes[0].
    shared = [name for name in names if name in classes]
    expected = [name for name in classes if name in names]
    findings.add(
        OTHER_ORDER,
        (
            f"{name!r} (number {shared.index(name)} there, {place} in the config)"
            for place, name in enumerate(expected)
            if shared.index(name) != place
        ),
    )
    findings.labels, findings.num_classes = tuple(classes), len(classes)
    return {
        row["id"]: row["name"]
        for row in rows
        if _is_id(row.get("id")) and row.get("name") in classes
    }


def _annotations(
    rows: Sequence[Row], images: Mapping, categories: Sequence[Row], findings: Findings
) -> list[Row]:
    """The annotations that are whole and point to an image and a category."""
    known = {row.get("id") for row in categories if _is_id(row.get("id"))}
    whole = []
    for row in rows:
        ids = (row.get("id"), row.get("image_id"), row.get("category_id"))
        if not all(map(_is_id, ids)) or "bbox" not in row or not _is_number(row.get("area")):
            findings.add(ENTRY, f"{_name(row)} ({', '.join(row)[:80]})")
        elif ids[1] not in images:
            findings.add(NO_IMAGE, _name(row))
        elif ids[2] not in known:
            findings.add(NO_CATEGORY, f"{_name(row)} (category_id {ids[2]!r})")
        else:
            whole.append(row)
    counts = Counter(row["id"] for row in whole)
    if len(counts) < len(whole):
        findings.add(TWICE, (f"annotation id {i!r}" for i, count in counts.items() if count > 1))
    return whole


def _boxes(rows: Sequence[Row], images: Mapping, findings: Findings) -> np.ndarray:
    """Check the boxes of annotations that are whole; those that mmdet keeps are True, (N,)."""
    boxes = _as_array([row["bbox"] for row in rows])
    pictures = {i: (image["width"], image["height"]) for i, image in images.items()}
    sides = np.array([pictures[row["image_id"]] for row in rows], dtype=float).reshape(-1, 2)
    area = np.array([row["area"] for row in rows], dtype=float)
    start, size = boxes[:, :2], boxes[:, 2:]

    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore"):  # what is not finite is left out below
        negative = (size < 0).any(axis=1) & finite
        past = (start < -_SLACK) | (start + size > sides + _SLACK)
        beside = (start >= sides) | (start + size <= 0)
        outside = (past | (beside & (size > 0))).any(axis=1) & finite & ~negative
        empty = ((size < 1).any(axis=1) | ~(area > 0)) & finite & ~negative & ~outside
    for kind, which in (
        (BAD_BOX, ~finite),
        (NEGATIVE_BOX, negative),
        (OUTSIDE_BOX, outside),
        (EMPTY_BOX, empty),
    ):
        findings.add(
            kind,
            (
                f"{_name(rows[i])}: {json.dumps(rows[i]['bbox'])[:80]}"
                + (f" in {sides[i, 0]:g} x {sides[i, 1]:g}" if kind is OUTSIDE_BOX else "")
                for i in np.flatnonzero(which)
            ),
        )
    return finite & ~negative & ~outside & ~empty


def _as_array(boxes: Sequence[object]) -> np.ndarray:
    """(N, 4), NaN for what is not four numbers."""
    try:
        array = np.array(boxes)
        if array.shape == (len(boxes), 4) and array.dtype.kind in "iuf":
            return array.astype(float)
    except ValueError:  # of several lengths
        pass
    array = np.full((len(boxes), 4), np.nan)
    for index, box in enumerate(boxes):
        if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)):
            array[index] = box
    return array


def _masks(rows: Sequence[Row], images: Mapping, findings: Findings, limit: int | None) -> None:
    """Check the segmentations of annotations that mmdet keeps."""
    rles = []
    for row in rows:
        segmentation = row.get("segmentation")
        if not segmentation:
            findings.add(NO_MASK, _name(row))
        elif isinstance(segmentation, dict):
            rles.append(row)
        elif not _are_polygons(segmentation):
            findings.add(BAD_POLYGON, f"{_name(row)}: {json.dumps(segmentation)[:80]}")
    for row in sample(rles, None if limit is None else _MAX_RLES):
        image = images[row["image_id"]]
        if reason := _rle_error(row["segmentation"], image["height"], image["width"]):
            findings.add(BAD_RLE, f"{_name(row)} ({reason})")


def _are_polygons(segmentation: object) -> bool:
    try:
        return isinstance(segmentation, list) and all(
            len(polygon) >= 6 and len(polygon) % 2 == 0 and math.isfinite(sum(polygon))
            for polygon in segmentation
        )
    except (TypeError, OverflowError):  # something in it is not a number, or a huge one
        return False


def _rle_error(rle: Row, height: int, width: int) -> str:
    """What is wrong with run lengths, compressed or not; empty when nothing is.

    pycocotools writes past its memory for counts that add up to more than the picture.
    """
    if rle.get("size") != [height, width]:
        return f"size {rle.get('size')}, the picture has [{height}, {width}]"
    counts = rle.get("counts")
    if isinstance(counts, str):
        counts = _decompressed(counts)
    elif not (isinstance(counts, list) and all(isinstance(n, int) for n in counts)):
        counts = None
    if counts is None or min(counts, default=0) < 0:
        return "counts that cannot be decoded"
    total = int(sum(counts))
    return "" if total == height * width else f"counts of {total} pixels, not {height * width}"


def _decompressed(counts: str) -> np.ndarray | None:
    """Run lengths from COCO's text: five bits a character, differences to the last but one."""
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


def _filtered(rows: Sequence[Row], images: Mapping, dataset: Any, findings: Findings) -> None:
    """Images that training leaves out; ``rows`` are the annotations of the config's classes."""
    findings.num_samples = len(images)
    filters = dataset.filter_cfg
    if dataset.test_mode or not filters:
        return
    filled = {row["image_id"] for row in rows}
    smallest = filters.get("min_size", 0)
    left_out = [
        f"{image['file_name']}"
        for i, image in images.items()
        if (filters.get("filter_empty_gt") and i not in filled)
        or min(image["width"], image["height"]) < smallest
    ]
    findings.num_samples -= len(left_out)
    if findings.num_samples:
        findings.add(FILTERED, left_out)
    else:
        findings.add(NOTHING_LEFT, f"{dataset.ann_file} ({len(left_out):,} are left out)")


def _pictures(
    images: Mapping, dataset: Any, settings: Mapping, findings: Findings, limit: int | None
) -> None:
    """Whether all are there, and whether a sample of them opens at the size that is annotated."""
    rows = list(images.values())
    paths = [os.path.join(dataset.data_prefix.get("img", ""), row["file_name"]) for row in rows]
    there = are_there(paths)
    findings.add(MISSING, (path for path, found in zip(paths, there, strict=True) if not found))
    present = [(p, r) for p, r, found in zip(paths, rows, there, strict=True) if found]
    chosen = sample(present, limit)
    check_pictures(
        [path for path, _ in chosen],
        findings,
        is_turned_by_exif(settings),
        [(row["width"], row["height"]) for _, row in chosen],
    )
