"""Check annotations in COCO format against what mmdet's ``CocoDataset`` needs."""

from __future__ import annotations

import gc
import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from care_mm.config import find, type_name
from care_mm.datasets.check.coverage import Coverage, coco_metrics
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.images import (
    check_images,
    check_missing,
    loader_of,
    sample,
)
from care_mm.datasets.check.instances import (
    Row,
    check_boxes,
    check_segmentations,
    is_number,
    name_of,
)
from care_mm.datasets.check.objects import (
    NO_OBJECT,
    check_ceiling,
    check_density,
    check_flags,
    count_objects,
    reasons_of,
)
from care_mm.errors import did_you_mean

NOT_COCO = Kind("file that is not COCO JSON", "get it or write it again")
BAD_IMAGE = Kind(
    "incomplete image entry", "each needs id, file_name, and width and height in pixels"
)
BAD_ANNOTATION = Kind(
    "incomplete annotation", "each needs id, image_id, category_id, bbox and a finite area"
)
DUPLICATE = Kind("duplicate id", "ids must be unique within a table")
NO_IMAGE = Kind(
    "annotation of an unknown image",
    "its image_id is the id of no image: quoted ids are text, others are numbers",
)
NO_CATEGORY = Kind(
    "annotation of an unknown category",
    "add the category to the categories, or remove the annotation",
)
BAD_AREA = Kind("area beyond 10,000,000,000 pixels", "COCO's evaluation leaves the object out")
BAD_ID = Kind(
    "id of an annotation that COCO's evaluation mistakes",
    "number the annotations from 1: an object with id 0 counts as missed, and text is an error",
)
MIXED_IDS = Kind(
    "file with ids that are text and ids that are numbers", "write all ids of the images alike"
)
SAME_FILE = note(
    "image file with several entries", "the objects of one entry are background in the others"
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
UNSORTED_IDS = Kind(
    "category ids that do not ascend",
    "mmdet exchanges the names in the table of classwise=True: remove it, or sort the categories",
)
NO_IMAGES = Kind("data set with no image", "the list of images is empty: choose another ann_file")
PARTIAL = Kind(
    "evaluation of a part of the images",
    "COCO's evaluation counts the objects of the others as missed: remove indices and filter_cfg "
    "from the data set and set test_mode=True, or write a file of these images",
)
NO_TRUTH = Kind(
    "file without annotations that is evaluated",
    "to write predictions only, set format_only=True and outfile_prefix on the evaluator",
)
NO_INSTANCES = Kind(
    "CocoMetric without ann_file",
    "set ann_file to that of the data, or add 'instances' to the meta_keys of PackDetInputs",
)
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
def check_coco(dataset: Any, settings: Mapping, coverage: Coverage) -> Findings:
    """Check annotations, and decode a sample of the images.

    Args:
        dataset: A ``CocoDataset`` that has not loaded anything yet.
        settings: Its config.
        coverage: What to check.
    """
    findings = Findings()
    metrics = coco_metrics(coverage)
    reads_file = any(metric.get("ann_file") for metric in metrics)
    if coverage.metrics is None:
        reads_file = dataset.test_mode  # no evaluator to ask: assume the usual one
    scored = reads_file or bool(metrics)
    formats_only = bool(coverage.metrics) and not coverage.scored
    tables = _read_tables(dataset.ann_file, findings, scored, formats_only)
    if tables is None:
        return findings
    classes = dataset.metainfo["classes"]
    findings.labels, findings.num_classes = tuple(classes), len(classes)
    findings.summary = (
        f"{len(tables['images']):,} images, {len(tables['annotations']):,} annotations, "
        f"{len(classes)} classes"
    )
    if not tables["images"]:
        findings.add(NO_IMAGES, str(dataset.ann_file))
        findings.num_samples = 0
        return findings
    images = _check_image_entries(tables["images"], scored, findings)
    categories = _check_categories(tables["categories"], classes, findings)
    rows = _check_annotations(tables["annotations"], images, tables["categories"], findings)
    if not formats_only:
        _check_objects(rows, images, categories, dataset, settings, coverage, findings)
    if reads_file:
        _check_evaluated_ids(rows, findings)
        findings.add(NO_CROWD_FLAG, (name_of(row) for row in rows if "iscrowd" not in row))
    elif metrics and not _packs_instances(settings):
        findings.add(NO_INSTANCES, type_name(metrics[0]))
    if any(metric.get("classwise") for metric in metrics):
        ids = list(categories)
        if any(a > b for a, b in pairwise(ids) if type(a) is type(b)):
            findings.add(UNSORTED_IDS, f"{dataset.ann_file}: {ids[:6]}")
    if coverage.files:
        _check_files(images, dataset, settings, findings, coverage.limit)
    return findings


def _check_objects(
    rows: Sequence[Row],
    images: Mapping,
    categories: Mapping,
    dataset: Any,
    settings: Mapping,
    coverage: Coverage,
    findings: Findings,
) -> None:
    """Check the boxes, masks and flags, and count the objects that are learned or scored."""
    metrics = coco_metrics(coverage)
    reads_file = any(metric.get("ann_file") for metric in metrics) or (
        coverage.metrics is None and dataset.test_mode
    )
    check_flags(rows, reads_file, findings)
    reasons = reasons_of(rows, check_boxes(rows, images, findings))
    order = _epoch(rows, images, categories, dataset, findings)
    findings.image_ids, yielded = order, set(order)
    pairs = [
        (row, reason)
        for row, reason in zip(rows, reasons, strict=True)
        if row["category_id"] in categories
    ]
    in_epoch = [(row, reason) for row, reason in pairs if row["image_id"] in yielded]
    rows_in_epoch, why = [row for row, _ in in_epoch], [reason for _, reason in in_epoch]
    count_objects(rows_in_epoch, why, categories, str(dataset.ann_file), findings)
    if not in_epoch and coverage.siblings == 1 and (coverage.metrics is None or coverage.scored):
        findings.add(NO_OBJECT, str(dataset.ann_file))
    scores_masks = any("segm" in (m.get("metric") or ()) for m in metrics)
    if _loads_masks(settings) or scores_masks:
        loaded = [index for index, reason in enumerate(why) if not reason]
        chosen = [rows_in_epoch[index] for index in loaded]
        lost = check_segmentations(
            chosen, images, findings, coverage.limit, _loads_masks(settings, poly2mask=False)
        )
    else:
        loaded, lost = [], []
    if metrics or reads_file:
        scores_map = any("mAP" in (m.get("metric_items") or ["mAP"]) for m in metrics)
        check_density(rows_in_epoch, why, scores_map or not metrics, findings)
    if not reads_file:
        return
    left = {row["image_id"] for row, _ in pairs if not row.get("iscrowd")} - yielded
    if left and len(yielded) < len(images):
        findings.add(
            PARTIAL,
            f"{len(yielded):,} of the {len(images):,} images of {dataset.ann_file} are evaluated",
        )
    check_ceiling(rows_in_epoch, why, findings)
    if scores_masks and any(lost):
        for index, reason in zip(loaded, lost, strict=True):
            why[index] = reason
        check_ceiling(rows_in_epoch, why, findings, "mask")


def _loads_masks(settings: Mapping, **values: Any) -> bool:
    """Whether a step of the pipeline loads masks, and has these values."""
    steps = find(settings.get("pipeline") or (), lambda step: bool(step.get("with_mask")))
    return any(all(step.get(key) == value for key, value in values.items()) for step in steps)


def _packs_instances(settings: Mapping) -> bool:
    """Whether the pipeline packs the annotations, for a metric without a file of its own."""
    steps = find(settings.get("pipeline") or (), lambda step: bool(step.get("meta_keys")))
    return any("instances" in step["meta_keys"] for step in steps)


def _check_evaluated_ids(rows: Sequence[Row], findings: Findings) -> None:
    """Check the ids of annotations, which COCO's evaluation keeps as numbers, 0 for no match."""
    findings.add(
        BAD_ID,
        (f"{name_of(row)}" for row in rows if isinstance(row["id"], str) or row["id"] == 0),
    )


def _read_tables(
    file: str, findings: Findings, scored: bool, formats_only: bool
) -> dict[str, list[Row]] | None:
    """Read the three tables; return ``None`` if the file has none to check.

    Args:
        file: The file.
        findings: Receives the problems.
        scored: Whether predictions are compared with the annotations.
        formats_only: Whether predictions are only written, for which no annotations are needed.
    """
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
    if content.get("annotations") is None and formats_only:
        content["annotations"] = []
    elif content.get("annotations") is None and scored:
        findings.add(NO_TRUTH, file)
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
    return isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))


def _check_image_entries(
    rows: Sequence[Row], scored: bool, findings: Findings
) -> dict[int | str, Row]:
    """Return the complete entries by their id."""
    complete = {}
    for row in rows:
        sides = (row.get("width"), row.get("height"))
        is_named = _is_id(row.get("id")) and isinstance(row.get("file_name"), str)
        if not is_named or not all(_is_side(side) for side in sides):
            findings.add(BAD_IMAGE, json.dumps(row)[:120])
        else:
            complete[row["id"]] = row
    counts = Counter(row["id"] for row in rows if _is_id(row.get("id")))
    findings.add(DUPLICATE, (f"image id {i!r}" for i, count in counts.items() if count > 1))
    texts = [i for i in complete if isinstance(i, str)]
    if scored and 0 < len(texts) < len(complete):
        number = next(i for i in complete if not isinstance(i, str))
        findings.add(MIXED_IDS, f"image ids {texts[0]!r} and {number!r}")
    names = Counter(row["file_name"] for row in complete.values())
    if len(names) < len(complete):
        findings.add(SAME_FILE, (name for name, count in names.items() if count > 1))
    return complete


def _is_side(value: object) -> bool:
    """Whether a width or height is a positive whole number."""
    return is_number(value) and value > 0 and value == int(value)


def _check_categories(
    rows: Sequence[Row], classes: Sequence[str], findings: Findings
) -> dict[int | str, str]:
    """Return the names of the categories that are classes of the config, by their id."""
    for key in ("id", "name"):
        counts = Counter(str(row.get(key)) for row in rows)
        findings.add(DUPLICATE, (f"category {key} {v}" for v, count in counts.items() if count > 1))
    names = [row.get("name") for row in rows]
    findings.add(
        LACKING,
        (
            f"{name!r}{_similar(name, [n for n in names if n not in classes])}"
            for name in classes
            if name not in names
        ),
    )
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


def _similar(name: str, names: Sequence[object]) -> str:
    """Return a hint at the category that a class is meant to be; else at the categories."""
    texts = [str(n) for n in names]
    folded = {text.strip().casefold(): text for text in texts}
    if match := folded.get(name.strip().casefold()):
        return f"; did you mean {match!r}?"
    return did_you_mean(name, texts)


def _check_annotations(
    rows: Sequence[Row], images: Mapping, categories: Sequence[Row], findings: Findings
) -> list[Row]:
    """Return the annotations that are complete and have a known image and category."""
    known = {row.get("id") for row in categories if _is_id(row.get("id"))}
    complete = []
    for row in rows:
        ids = (row.get("id"), row.get("image_id"), row.get("category_id"))
        if not all(map(_is_id, ids)) or "bbox" not in row or not is_number(row.get("area")):
            findings.add(BAD_ANNOTATION, f"{name_of(row)}: {_lacks(row)}")
        elif ids[1] not in images:
            findings.add(NO_IMAGE, f"{name_of(row)}{_other_type(ids[1], images)}")
        elif ids[2] not in known:
            findings.add(NO_CATEGORY, f"{name_of(row)}: category_id {ids[2]!r}")
        elif row["area"] > 1e10:
            findings.add(BAD_AREA, f"{name_of(row)}: {row['area']:g}")
        else:
            complete.append(row)
    counts = Counter(row["id"] for row in complete)
    if len(counts) < len(complete):
        ids = (f"annotation id {i!r}" for i, count in counts.items() if count > 1)
        findings.add(DUPLICATE, ids)
    return complete


def _lacks(row: Row) -> str:
    """Name the missing or invalid values of an annotation."""
    valid = {key: _is_id(row.get(key)) for key in ("id", "image_id", "category_id")}
    valid |= {"bbox": "bbox" in row, "area": is_number(row.get("area"))}
    wrong = [f"{key} {repr(row[key])[:40]}" if key in row else f"no {key}" for key in valid]
    return ", ".join(text for text, ok in zip(wrong, valid.values(), strict=True) if not ok)


def _other_type(value: int | float | str, ids: Mapping) -> str:
    """Say that an id exists as text or as a number, if it does."""
    if isinstance(value, str):
        is_known = any(str(i) == value for i in ids)
        return f": {value!r} is text, and the image's id is a number" if is_known else ""
    return f": {value} is a number, and the image's id is text" if str(value) in ids else ""


def _epoch(
    rows: Sequence[Row], images: Mapping, categories: Mapping, dataset: Any, findings: Findings
) -> list[int | str]:
    """Return the ids of the images in an epoch, as mmdet filters and selects them."""
    filters = {} if dataset.test_mode else dataset.filter_cfg or {}
    smallest = filters.get("min_size", 0)
    kept = list(images)
    if filters:
        # mmdet's filter also counts the objects that mmdet leaves out.
        filled = {row["image_id"] for row in rows if row["category_id"] in categories}
        kept = [
            i
            for i, image in images.items()
            if (i in filled or not filters.get("filter_empty_gt"))
            and min(image["width"], image["height"]) >= smallest
        ]
        if kept:
            left = set(kept)
            findings.add(FILTERED, (images[i]["file_name"] for i in images if i not in left))
        else:
            findings.add(NOTHING_LEFT, f"{dataset.ann_file}: {len(images):,} images are excluded")
    indices = dataset._indices
    if isinstance(indices, int):
        kept = kept[:indices] if indices >= 0 else kept[indices:]
    elif indices is not None:
        kept = [kept[i] for i in indices if -len(kept) <= i < len(kept)]
    findings.num_samples = len(kept)
    return kept


def _check_files(
    images: Mapping, dataset: Any, settings: Mapping, findings: Findings, limit: int | None
) -> None:
    """Check that all images exist, and that a sample has the annotated sizes."""
    folder = dataset.data_prefix.get("img", "")
    entries = [(os.path.join(folder, row["file_name"]), row) for row in images.values()]
    missing = check_missing([path for path, _ in entries], folder, findings)
    chosen = sample([entry for entry in entries if entry[0] not in missing], limit)
    check_images(
        [path for path, _ in chosen],
        findings,
        loader_of(settings),
        [(row["width"], row["height"]) for _, row in chosen],
    )
