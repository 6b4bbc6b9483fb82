"""Whether class folders, or a list of files, hold what mmpretrain's ``CustomDataset`` needs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.images import (
    MISSING,
    are_there,
    check_pictures,
    files_below,
    is_turned_by_exif,
    sample,
)

OTHER_NUMBER = Kind(
    "folder has another number of class folders than there are classes",
    "folders have another number of class folders than there are classes",
    "every class has its folder, and nothing else is one",
)
UNSORTED = Kind(
    "folder has its pictures beside the class folders",
    "folders have their pictures beside the class folders",
    "sort them into a folder per class: docs/data.md says how for ImageNet",
)
OTHER_ORDER = Kind(
    "class is not at its folder's place",
    "classes are not at their folders' places",
    "labels follow the sorted folders: give the classes in that order",
)
EMPTY = note(
    "class folder is without an image", "class folders are without an image", "it cannot be learnt"
)
NO_IMAGE = Kind(
    "folder has no image", "folders have no image", "the endings that count are in extensions"
)
OTHER_FILE = note(
    "file is not an image by its ending", "files are not images by their ending", "left out"
)
BAD_LINE = Kind(
    "line of the list is not a file and a label",
    "lines of the list are not a file and a label",
    "a line is the file, a space, and the number of the class",
)
BAD_LABEL = Kind(
    "label is beyond the classes", "labels are beyond the classes", "labels count from 0"
)
NO_EXAMPLE = note("class has no example", "classes have no example", "it cannot be learnt or rated")


def check_folders(dataset: Any, settings: Mapping, findings: Findings, limit: int | None) -> None:
    """Check folders or list, and open a sample of the pictures.

    Args:
        dataset: A ``CustomDataset`` that has not loaded anything yet.
        settings: Its config.
        findings: Added to.
        limit: Pictures to open, evenly spaced; ``None`` for all.
    """
    classes = dataset.CLASSES
    findings.num_classes = len(classes) if classes is not None else None
    paths = (_listed if dataset.ann_file else _in_folders)(dataset, findings)
    findings.num_samples = len(paths)
    number = f"{findings.num_classes:,}" if findings.num_classes else "unnamed"
    findings.summary = f"{len(paths):,} images, {number} classes"
    chosen = sample(paths, limit)
    check_pictures(chosen, findings, is_turned_by_exif(settings))


def _in_folders(dataset: Any, findings: Findings) -> list[str]:
    """The images in the class folders."""
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
        findings.add(UNSORTED, f"{root} ({len(loose):,} of them, as {loose[0]})")
    if classes is not None and len(folders) != len(classes):
        findings.add(
            OTHER_NUMBER,
            f"{root} ({len(folders):,} folders, {len(classes):,} classes; the first folders are "
            f"{', '.join(folders[:3]) or 'none'})",
        )
    elif classes is not None and set(folders) == set(classes):
        findings.add(
            OTHER_ORDER,
            (
                f"{name!r} (number {i} of the classes, {folders.index(name)} of the folders)"
                for i, name in enumerate(classes)
                if folders[i] != name
            ),
        )
    findings.add(EMPTY, (os.path.join(root, name) for name in folders if not filled[name]))
    if not filled:
        findings.add(NO_IMAGE, root)
    findings.labels, findings.num_classes = tuple(folders), findings.num_classes or len(folders)
    return [os.path.join(root, file) for file in images if os.sep in file]


def _listed(dataset: Any, findings: Findings) -> list[str]:
    """The images that a list names."""
    with open(dataset.ann_file, encoding="utf-8") as file:
        lines = [line.rstrip("\n\r") for line in file]
    names: Sequence[str] = lines
    if dataset.with_label:
        names, labels = [], []
        for number, line in enumerate(lines, 1):
            name, _, label = line.strip().rpartition(" ")
            if not name or not label.isdecimal():
                findings.add(BAD_LINE, f"{dataset.ann_file}:{number} ({line[:80]!r})")
                continue
            names.append(name)
            labels.append(int(label))
        if findings.num_classes:
            findings.add(
                BAD_LABEL,
                (
                    f"{label} of {name} ({findings.num_classes:,} classes)"
                    for name, label in zip(names, labels, strict=True)
                    if label >= findings.num_classes
                ),
            )
            counts = Counter(labels)
            classes = dataset.CLASSES
            findings.add(
                NO_EXAMPLE, (repr(name) for i, name in enumerate(classes) if not counts[i])
            )
    paths = [os.path.join(dataset.img_prefix, name) for name in names]
    there = are_there(paths)
    findings.add(MISSING, (path for path, found in zip(paths, there, strict=True) if not found))
    return [path for path, found in zip(paths, there, strict=True) if found]
