"""Count the objects of a COCO file that are learned or evaluated, and those that are left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from care_mm.datasets.check.findings import NO_EXAMPLE, Findings, Kind, note
from care_mm.datasets.check.instances import Row, name_of

BAD_FLAG = Kind(
    "iscrowd that is not 0 or 1", "write numbers: text such as '0' counts as true, and null fails"
)
CLASS_LEFT_OUT = note(
    "class whose objects are all left out", "it cannot be learned or evaluated: check the flags"
)
ALL_LEFT_OUT = Kind(
    "file whose objects are all left out",
    "mmdet loads none of them: iscrowd and ignore must be 0, area positive, boxes in pixels",
)
NO_OBJECT = Kind(
    "data set without an object of the classes",
    "a model cannot learn from it, and COCO's evaluation gives -1; to write predictions only, set "
    "format_only=True and outfile_prefix on the evaluator",
)
MANY_OBJECTS = note(
    "image with over 100 objects of a class",
    "COCO's mAP counts 100 detections of each class: training and testing here count as many as "
    "the densest image has objects",
)
MAX_COUNTED = 100  # detections of a class in an image, in COCO's mAP
_RECALLS = np.linspace(0, 1, 101)  # at which COCO's evaluation takes the precision

CROWD, IGNORE = "iscrowd", "ignore"


def check_flags(rows: Sequence[Row], scored: bool, findings: Findings) -> None:
    """Check the values of ``iscrowd``; mmdet accepts a missing one, COCO's evaluation does not."""
    values = {}
    for row in rows:
        if "iscrowd" in row and (type(row["iscrowd"]) is not int or row["iscrowd"] not in (0, 1)):
            values[id(row)] = row
    findings.add(
        BAD_FLAG,
        (
            f"{name_of(row)}: {row['iscrowd']!r}"
            for row in values.values()
            if not _is_flag(row["iscrowd"]) and (scored or row["iscrowd"] is not None)
        ),
    )


def _is_flag(value: object) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


def reasons_of(rows: Sequence[Row], reasons: Sequence[str]) -> list[str]:
    """Return why mmdet leaves out each object; an empty string for those that it loads.

    Args:
        rows: The annotations.
        reasons: What is wrong with the box or area of each; empty for a valid one.
    """
    return [
        IGNORE if row.get("ignore") else reason or (CROWD if row.get("iscrowd") else "")
        for row, reason in zip(rows, reasons, strict=True)
    ]


def count_objects(
    rows: Sequence[Row],
    reasons: Sequence[str],
    categories: Mapping[int | str, str],
    place: str,
    findings: Findings,
) -> None:
    """Count the objects of each class that are loaded and left out.

    Args:
        rows: The annotations of the images of an epoch, all of the classes.
        reasons: As from :func:`reasons_of`.
        categories: The names of the classes by the ids of their categories.
        place: The name of the file.
        findings: Receives the counts, problems and notes.
    """
    counts = Counter(zip((row["category_id"] for row in rows), reasons, strict=True))
    findings.objects = {name: counts[i, ""] for i, name in categories.items()}
    out = Counter(reason for reason in reasons if reason)
    findings.left_out = dict(out.most_common())
    by_class: dict[str, Counter] = {name: Counter() for name in categories.values()}
    for (i, reason), number in counts.items():
        if reason:
            by_class[categories[i]][reason] += number
    empty = [name for name, number in findings.objects.items() if not number]
    findings.add(NO_EXAMPLE, (repr(name) for name in empty if not by_class[name]))
    if out and not any(findings.objects.values()):
        findings.add(ALL_LEFT_OUT, f"{place}: {_listed(out)}")
    else:
        findings.add(
            CLASS_LEFT_OUT,
            (f"{name!r}: {_listed(by_class[name])}" for name in empty if by_class[name]),
        )


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} x {reason}" for reason, number in counts.items())


def check_ceiling(
    rows: Sequence[Row],
    reasons: Sequence[str],
    findings: Findings,
    noun: str = "object",
) -> None:
    """Refuse objects that COCO's evaluation counts and mmdet does not load.

    A model that finds all objects that mmdet loads has an mAP below 1 then. A loss that does not
    show in three decimals is a note: COCO has such objects.

    Args:
        rows: The annotations of the evaluated images, all of the classes.
        reasons: As from :func:`reasons_of`.
        findings: Receives the problem or note.
        noun: What is lost, for the message.
    """
    counted = [
        (row, reason) for row, reason in zip(rows, reasons, strict=True) if not row.get("iscrowd")
    ]
    lost = [(row, reason) for row, reason in counted if reason]
    number = Counter(row["category_id"] for row, _ in counted)
    if not lost:
        return
    found = Counter(row["category_id"] for row, reason in counted if not reason)
    precisions = [
        np.count_nonzero(found[category] / total >= _RECALLS) / len(_RECALLS)
        for category, total in number.items()
    ]
    highest = float(np.mean(precisions))
    is_lost = round(highest, 3) < 1
    score = f"a perfect detector would score {highest:.3f}"
    advice = f"{score}: fix or remove them, or set iscrowd to 1" if is_lost else "ignored"
    kind = Kind(f"{noun} that the evaluation counts and mmdet does not load", advice, not is_lost)
    findings.add(kind, (f"{name_of(row)}: {reason}" for row, reason in lost))


def check_density(
    rows: Sequence[Row], reasons: Sequence[str], limited: bool, findings: Findings
) -> None:
    """Count the objects of the densest images, and note those that COCO's mAP does not count.

    Args:
        rows: As for :func:`check_ceiling`.
        reasons: As from :func:`reasons_of`.
        limited: Whether a metric is COCO's mAP.
        findings: Receives the numbers and the note.
    """
    loaded = [row for row, reason in zip(rows, reasons, strict=True) if not reason]
    in_images = Counter(row["image_id"] for row in loaded)
    of_classes = Counter((row["image_id"], row["category_id"]) for row in loaded)
    findings.most_objects = max(in_images.values(), default=0)
    dense = {image: n for (image, _), n in of_classes.items() if n > MAX_COUNTED}
    findings.is_dense = limited and bool(dense)
    if findings.is_dense:
        findings.add(MANY_OBJECTS, (f"image {image!r}: {n:,}" for image, n in dense.items()))
