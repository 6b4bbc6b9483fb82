"""Check annotations in COCO format against what mmdet's ``CocoDataset`` needs."""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from care_mm.datasets.check.findings import NO_EXAMPLE, Findings, Kind, note
from care_mm.datasets.check.images import (
    MISSING,
    applies_exif,
    check_images,
    missing_files,
    sample,
)
from care_mm.datasets.check.instances import (
    Row,
    check_boxes,
    check_segmentations,
    is_number,
    name_of,
)

NOT_COCO = Kind("file that is not COCO JSON", "get it or write it again")
BAD_IMAGE = Kind(
    "incomplete image entry", "each needs id, file_name, and width and height in pixels"
)
BAD_ANNOTATION = Kind(
    "incomplete annotation", "each needs id, image_id, category_id, bbox and a finite area"
)
DUPLICATE = Kind("duplicate id", "ids must be unique within a table")
NO_IMAGE = Kind(
    "annotation of an unknown image", "add the image to the images, or remove the annotation"
)
NO_CATEGORY = Kind(
    "annotation of an unknown category",
    "add the category to the categories, or remove the annotation",
)
NO_CROWD_FLAG = Kind(
    "annotation without iscrowd", "COCO's evaluation requires it: 0 for an ordinary object"
)
LACKING = Kind(
    "class of the config that is not in the JSON",
    "set metainfo=dict(classes=...) to the names in the JSON, or labels and names disagree",
)
OTHER_ORDER = Kind(
    "class at another position in the JSON",
    "mmdet numbers labels as the JSON orders its categories: give the classes in that order",
)
LEFT_OUT = note("category of the JSON that is not a class of the config", "its objects are ignored")
NOTHING_LEFT = Kind(
    "data set without an image to train on",
    "filter_cfg excludes images that are small or without an object of the classes",
)
FILTERED = note("image excluded from training", "by filter_cfg")


@contextmanager
def _without_gc() -> Iterator[None]:
    """Suspend garbage collection, which would scan millions of objects again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@_without_gc()
def check_coco(dataset: Any, settings: Mapping, limit: int | None) -> Findings:
    """Check annotations, and decode a sample of the images.

    Args:
        dataset: A ``CocoDataset`` that has not loaded anything yet.
        settings: Its config.
        limit: Number of images to decode, evenly spaced; ``None`` for all.
    """
    findings = Findings()
    tables = _read_tables(dataset.ann_file, findings)
    if tables is None:
        return findings
    classes = dataset.metainfo["classes"]
    findings.labels, findings.num_classes = tuple(classes), len(classes)
    findings.summary = (
        f"{len(tables['images']):,} images, {len(tables['annotations']):,} annotations, "
        f"{len(classes)} classes"
    )
    images = _check_image_entries(tables["images"], findings)
    categories = _check_categories(tables["categories"], classes, findings)
    rows = _check_annotations(tables["annotations"], images, tables["categories"], findings)
    valid = check_boxes(rows, images, findings)
    kept = [
        row
        for row, is_valid in zip(rows, valid, strict=True)
        if is_valid and row["category_id"] in categories
    ]
    loads_masks = any(
        isinstance(step, Mapping) and step.get("with_mask")
        for step in settings.get("pipeline") or ()
    )
    if loads_masks:
        check_segmentations(kept, images, findings, limit)
    if dataset.test_mode:
        findings.add(NO_CROWD_FLAG, (name_of(row) for row in rows if "iscrowd" not in row))
    counts = Counter(row["category_id"] for row in kept)
    findings.add(NO_EXAMPLE, (repr(name) for i, name in categories.items() if not counts[i]))
    # mmdet's filter also counts the objects that mmdet ignores for their box.
    filled = {row["image_id"] for row in rows if row["category_id"] in categories}
    _check_filter(filled, images, dataset, findings)
    _check_files(images, dataset, settings, findings, limit)
    return findings


def _read_tables(file: str, findings: Findings) -> dict[str, list[Row]] | None:
    """Read the three tables; return ``None`` if the file has none to check."""
    try:
        with open(file, encoding="utf-8") as handle:
            content = json.load(handle)
    except (ValueError, RecursionError) as error:
        reason = "it ends too early" if _is_truncated(error) else str(error)
        findings.add(NOT_COCO, f"{file}: {os.path.getsize(file):,} bytes; {reason}")
        return None
    except OSError as error:
        findings.add(NOT_COCO, f"{file!r}: {error.strerror}")
        return None
    if not isinstance(content, dict):
        findings.add(NOT_COCO, f"{file}: a {type(content).__name__}, not an object of tables")
        return None
    for table in ("images", "annotations", "categories"):
        rows = content.get(table)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            findings.add(NOT_COCO, f"{file}: it has no list {table!r} of objects")
    return None if findings.problems else content


def _is_truncated(error: Exception) -> bool:
    """Whether parsing failed at the end of the file, or in a string without an end."""
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _check_image_entries(rows: Sequence[Row], findings: Findings) -> dict[int | str, Row]:
    """Return the complete entries by their id."""
    complete = {}
    for row in rows:
        sides = (row.get("width"), row.get("height"))
        is_named = _is_id(row.get("id")) and isinstance(row.get("file_name"), str)
        if not is_named or not all(is_number(side) and side > 0 for side in sides):
            findings.add(BAD_IMAGE, json.dumps(row)[:120])
        else:
            complete[row["id"]] = row
    counts = Counter(row["id"] for row in rows if _is_id(row.get("id")))
    findings.add(DUPLICATE, (f"image id {i!r}" for i, count in counts.items() if count > 1))
    return complete


def _check_categories(
    rows: Sequence[Row], classes: Sequence[str], findings: Findings
) -> dict[int | str, str]:
    """Return the names of the categories that are classes of the config, by their id."""
    for key in ("id", "name"):
        counts = Counter(str(row.get(key)) for row in rows)
        findings.add(DUPLICATE, (f"category {key} {v}" for v, count in counts.items() if count > 1))
    names = [row.get("name") for row in rows]
    findings.add(LACKING, (repr(name) for name in classes if name not in names))
    findings.add(LEFT_OUT, (repr(name) for name in names if name not in classes))
    # mmdet orders the categories as in the JSON, and names the first of them classes[0].
    actual = [name for name in names if name in classes]
    expected = [name for name in classes if name in names]
    findings.add(
        OTHER_ORDER,
        (
            f"{name!r}: number {actual.index(name)} in the JSON, {index} in the config"
            for index, name in enumerate(expected)
            if actual.index(name) != index
        ),
    )
    return {
        row["id"]: row["name"]
        for row in rows
        if _is_id(row.get("id")) and row.get("name") in classes
    }


def _check_annotations(
    rows: Sequence[Row], images: Mapping, categories: Sequence[Row], findings: Findings
) -> list[Row]:
    """Return the annotations that are complete and have a known image and category."""
    known = {row.get("id") for row in categories if _is_id(row.get("id"))}
    complete = []
    for row in rows:
        ids = (row.get("id"), row.get("image_id"), row.get("category_id"))
        if not all(map(_is_id, ids)) or "bbox" not in row or not is_number(row.get("area")):
            findings.add(BAD_ANNOTATION, f"{name_of(row)}: {', '.join(row)[:80]}")
        elif ids[1] not in images:
            findings.add(NO_IMAGE, name_of(row))
        elif ids[2] not in known:
            findings.add(NO_CATEGORY, f"{name_of(row)}: category_id {ids[2]!r}")
        else:
            complete.append(row)
    counts = Counter(row["id"] for row in complete)
    if len(counts) < len(complete):
        ids = (f"annotation id {i!r}" for i, count in counts.items() if count > 1)
        findings.add(DUPLICATE, ids)
    return complete


def _check_filter(filled: set, images: Mapping, dataset: Any, findings: Findings) -> None:
    """Report the images that ``filter_cfg`` excludes; ``filled`` are ids of images with objects."""
    findings.num_samples = len(images)
    filters = dataset.filter_cfg
    if dataset.test_mode or not filters:
        return
    smallest = filters.get("min_size", 0)
    excluded = [
        image["file_name"]
        for i, image in images.items()
        if (filters.get("filter_empty_gt") and i not in filled)
        or min(image["width"], image["height"]) < smallest
    ]
    findings.num_samples -= len(excluded)
    if findings.num_samples:
        findings.add(FILTERED, excluded)
    else:
        findings.add(NOTHING_LEFT, f"{dataset.ann_file}: {len(excluded):,} images are excluded")


def _check_files(
    images: Mapping, dataset: Any, settings: Mapping, findings: Findings, limit: int | None
) -> None:
    """Check that all images exist, and that a sample has the annotated sizes."""
    folder = dataset.data_prefix.get("img", "")
    entries = [(os.path.join(folder, row["file_name"]), row) for row in images.values()]
    missing = missing_files(path for path, _ in entries)
    findings.add(MISSING, (path for path, _ in entries if path in missing))
    chosen = sample([entry for entry in entries if entry[0] not in missing], limit)
    check_images(
        [path for path, _ in chosen],
        findings,
        applies_exif(settings),
        [(row["width"], row["height"]) for _, row in chosen],
    )
