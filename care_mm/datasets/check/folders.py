"""Check class folders, or a list of files, against what mmpretrain's ``CustomDataset`` needs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from care_mm.config import type_name
from care_mm.datasets.check.coverage import Coverage
from care_mm.datasets.check.findings import NO_EXAMPLE, Findings, Kind, note
from care_mm.datasets.check.images import (
    check_images,
    check_missing,
    files_below,
    loader_of,
    sample,
)

OTHER_NUMBER = Kind(
    "folder with another number of class folders than classes",
    "each class needs its own folder, and other folders are not allowed",
)
UNSORTED = Kind(
    "folder with images next to its class folders",
    "sort them into one folder per class: docs/data.md shows how for ImageNet",
)
OTHER_ORDER = Kind(
    "class at another position than its folder",
    "labels follow the sorted folders: give the classes in that order",
)
EMPTY = note("class folder without an image", "the class cannot be learned")
NO_IMAGE = Kind("folder without an image", "the accepted suffixes are in extensions")
OTHER_FILE = note("file without an image suffix", "ignored")
NO_LINE = Kind("list with no image", "the file is empty: choose another ann_file")
NO_LABEL = Kind(
    "data set without labels that is evaluated", "remove with_label=False, or the evaluator"
)
MISSPELT = note(
    "class that is not the name of its folder",
    "labels follow the sorted folders; reports show the name of the class",
)
BAD_LINE = Kind(
    "line that is not a file and a label", "a line is the file, a space, and the class number"
)
BAD_LABEL = Kind("label beyond the classes", "labels count from 0")
TWO_LABELS = Kind("image listed with two labels", "no model can be right: remove one of the lines")
LISTED_TWICE = note("image listed twice", "it counts twice")


def check_folders(dataset: Any, settings: Mapping, coverage: Coverage) -> Findings:
    """Check folders or a list of files, and decode a sample of the images.

    Args:
        dataset: A ``CustomDataset`` that has not loaded anything yet.
        settings: Its config.
        coverage: What to check.
    """
    findings = Findings()
    classes = dataset.CLASSES
    findings.num_classes = len(classes) if classes is not None else None
    paths = (_listed if dataset.ann_file else _in_folders)(dataset, findings)
    findings.num_samples = number_of(len(paths), dataset._indices)
    if not dataset.with_label and coverage.scored:
        findings.add(NO_LABEL, type_name((coverage.metrics or ({},))[0]))
    number = f"{findings.num_classes:,}" if findings.num_classes else "unnamed"
    findings.summary = f"{len(paths):,} images, {number} classes"
    if coverage.files:
        missing = check_missing(paths, dataset.img_prefix, findings) if dataset.ann_file else set()
        chosen = sample([path for path in paths if path not in missing], coverage.limit)
        check_images(chosen, findings, loader_of(settings))
    return findings


def number_of(images: int, indices: int | Sequence[int] | None) -> int:
    """Return the number of samples that ``indices`` of a data set selects."""
    if indices is None:
        return images
    return min(images, abs(indices)) if isinstance(indices, int) else len(indices)


def _in_folders(dataset: Any, findings: Findings) -> list[str]:
    """Check the class folders, and return the images in them."""
    root, classes = dataset.img_prefix, dataset.CLASSES
    files = files_below(root)
    images = [file for file in files if dataset.is_valid_file(file)]
    findings.add(
        OTHER_FILE, (os.path.join(root, file) for file in files if not dataset.is_valid_file(file))
    )
    if not dataset.with_label:
        return [os.path.join(root, file) for file in images]
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    filled = Counter(file.split(os.sep)[0] for file in images if os.sep in file)
    loose = [file for file in images if os.sep not in file]
    if loose:
        findings.add(UNSORTED, f"{root}: {len(loose):,} images, the first is {loose[0]}")
    if classes is not None and len(folders) != len(classes):
        findings.add(
            OTHER_NUMBER,
            f"{root}: {len(folders):,} folders, {len(classes):,} classes; the first folders are "
            f"{', '.join(folders[:3]) or 'none'}",
        )
    elif classes is not None:
        _compare_names(folders, classes, findings)
    findings.add(EMPTY, (os.path.join(root, name) for name in folders if not filled[name]))
    if not filled:
        findings.add(NO_IMAGE, root)
    findings.labels, findings.num_classes = tuple(folders), findings.num_classes or len(folders)
    return [os.path.join(root, file) for file in images if os.sep in file]


def _compare_names(folders: Sequence[str], classes: Sequence[str], findings: Findings) -> None:
    """Compare classes with as many folders, which may have other names, as in ImageNet."""
    exact = {name: i for i, name in enumerate(folders)}
    similar = {_spelling(name): i for i, name in reversed(list(enumerate(folders)))}
    places = [exact.get(name, similar.get(_spelling(name))) for name in classes]
    moved = [
        f"{name!r}: number {i} of the classes, {place} of the folders"
        for i, (name, place) in enumerate(zip(classes, places, strict=True))
        if place not in (None, i)
    ]
    findings.add(OTHER_ORDER, moved)
    if not moved and any(place is not None for place in places):
        unknown = [i for i, place in enumerate(places) if place is None]
        findings.add(MISSPELT, (f"{classes[i]!r}: folder {folders[i]!r}" for i in unknown))


def _spelling(name: str) -> str:
    """Return a name without case, and with one kind of space."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _listed(dataset: Any, findings: Findings) -> list[str]:
    """Check a list of files, and return them."""
    with open(dataset.ann_file, encoding="utf-8") as file:
        lines = [line.rstrip("\n\r") for line in file]
    names: Sequence[str] = lines
    if dataset.with_label:
        names, labels = [], []
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(" ")
            if not name or not label.isdecimal():
                findings.add(BAD_LINE, f"{dataset.ann_file}:{number}: {line[:80]!r}")
                continue
            names.append(name)
            labels.append(int(label))
        if findings.num_classes:
            findings.add(
                BAD_LABEL,
                (
                    f"{label} of {name}: {findings.num_classes:,} classes"
                    for name, label in zip(names, labels, strict=True)
                    if label >= findings.num_classes
                ),
            )
            counts = Counter(labels)
            findings.add(
                NO_EXAMPLE, (repr(name) for i, name in enumerate(dataset.CLASSES) if not counts[i])
            )
        first: dict[str, int] = {}
        for name, label in zip(names, labels, strict=True):
            if first.setdefault(name, label) != label:
                findings.add(TWO_LABELS, f"{name}: {first[name]} and {label}")
        if len(first) < len(names):
            counts = Counter(names)
            findings.add(LISTED_TWICE, (name for name, count in counts.items() if count > 1))
    if not names:
        findings.add(NO_LINE, str(dataset.ann_file))
    return [os.path.join(dataset.img_prefix, name) for name in names]
