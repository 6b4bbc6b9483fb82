"""Whether pictures and masks fit together as mmseg's ``BaseSegDataset`` needs them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.images import (
    MISSING,
    are_there,
    check_pictures,
    files_below,
    is_turned_by_exif,
    open_picture,
    sample,
)

NO_MASK = Kind(
    "image has no mask",
    "images have no mask",
    "the mask has the image's name with seg_map_suffix in place of img_suffix",
)
NO_IMAGE = Kind(
    "mask has no image",
    "masks have no image",
    "the image has the mask's name with img_suffix in place of seg_map_suffix",
)
NOTHING = Kind(
    "folder has no image of the data set",
    "folders have no image of the data set",
    "set img_suffix to the ending of the files, or data_prefix to their folder",
)
BAD_MASK = Kind("mask cannot be read", "masks cannot be read", "get it again, or take it out")
MANY_CHANNELS = Kind(
    "mask is not a picture of one channel with 8 bits",
    "masks are not pictures of one channel with 8 bits",
    "write class numbers as a grayscale or palette PNG",
)
OTHER_SIZE = Kind(
    "mask is not of its picture's size",
    "masks are not of their pictures' size",
    "masks are not resized for you, and not turned by the EXIF data of the picture",
)
BEYOND = Kind(
    "mask has values beyond the classes",
    "masks have values beyond the classes",
    "values count the classes from 0, or from 1 with reduce_zero_label=True, where 0 is "
    "unlabelled; 255 is ignored",
)
BLANK = note("mask is ignored altogether", "masks are ignored altogether", "nothing is learnt")
ALL_BLANK = Kind(
    "mask is ignored altogether, as are all others",
    "masks are ignored altogether, which are all",
    "look at reduce_zero_label: is 0 a class of yours, or unlabelled?",
)
ONLY_ENDS = Kind(
    "folder has masks of nothing but 0 and 255",
    "folders have masks of nothing but 0 and 255",
    "255 is ignored: write 1 for the second class",
)
LOADED_OTHERWISE = Kind(
    "step of the pipeline has another reduce_zero_label than the data set",
    "steps of the pipeline have another reduce_zero_label than the data set",
    "set it on the data set alone: LoadAnnotations takes it from there",
)
NO_PIXEL = note("class has no pixel", "classes have no pixel", "it cannot be learnt or rated")
OTHER_FILE = note(
    "file has another ending than img_suffix",
    "files have another ending than img_suffix",
    "not among the images",
)
_IGNORED = 255  # what mmseg writes over labels that are left out


def check_masks(dataset: Any, settings: Mapping, findings: Findings, limit: int | None) -> None:
    """Pair images with masks, and open a sample of both.

    Args:
        dataset: A ``BaseSegDataset`` that has not loaded anything yet.
        settings: Its config.
        findings: Added to.
        limit: Pairs to open, evenly spaced; ``None`` for all.
    """
    classes = dataset.metainfo.get("classes") or ()
    findings.labels, findings.num_classes = tuple(classes), len(classes) or None
    _pipeline(dataset, settings, findings)
    folder, masks = (dataset.data_prefix.get(key) or "" for key in ("img_path", "seg_map_path"))
    names = _names(dataset, folder, findings)
    findings.num_samples = len(names)
    findings.summary = f"{len(names):,} images, {len(classes)} classes"
    if not names:
        findings.add(NOTHING, f"{folder} (*{dataset.img_suffix})")
        return
    images = [os.path.join(folder, name + dataset.img_suffix) for name in names]
    pairs = [(image, "") for image in images]
    if masks:
        there = [os.path.join(masks, name + dataset.seg_map_suffix) for name in names]
        found = are_there(there)
        pairs = [(i, m) for i, m, ok in zip(images, there, found, strict=True) if ok]
        findings.add(NO_MASK, (i for i, ok in zip(images, found, strict=True) if not ok))
        findings.summary = f"{len(names):,} images with masks, {len(classes)} classes"
    if masks and not _is_listed(dataset):
        whole = set(names)
        ending = dataset.seg_map_suffix
        findings.add(
            NO_IMAGE,
            (
                os.path.join(masks, file)
                for file in files_below(masks)
                if file.endswith(ending) and file[: -len(ending)] not in whole
            ),
        )
    found = are_there([image for image, _ in pairs])
    findings.add(MISSING, (i for (i, _), ok in zip(pairs, found, strict=True) if not ok))
    pairs = [pair for pair, ok in zip(pairs, found, strict=True) if ok]
    chosen = sample(pairs, limit)
    paths = [image for image, _ in chosen]
    pictures = check_pictures(paths, findings, is_turned_by_exif(settings))
    if masks and chosen:
        sizes = [None if picture.error else picture.size for picture in pictures]
        files = [mask for _, mask in chosen]
        _values(files, sizes, dataset, findings, complete=len(chosen) == len(names))


def _is_listed(dataset: Any) -> bool:
    """Whether a file names the images, in place of all those in a folder."""
    return bool(dataset.ann_file) and not os.path.isdir(dataset.ann_file)


def _names(dataset: Any, folder: str, findings: Findings) -> list[str]:
    """The images without their ending, as mmseg finds them."""
    if _is_listed(dataset):
        with open(dataset.ann_file, encoding="utf-8") as file:
            return [line.strip() for line in file]
    files = files_below(folder)
    ending = dataset.img_suffix
    findings.add(OTHER_FILE, (os.path.join(folder, f) for f in files if not f.endswith(ending)))
    return [file[: -len(ending)] for file in files if file.endswith(ending)]


def _pipeline(dataset: Any, settings: Mapping, findings: Findings) -> None:
    """mmseg asserts that both say the same, in the middle of the first batch."""
    for step in settings.get("pipeline") or ():
        if isinstance(step, Mapping) and step.get("type") == "LoadAnnotations":
            said = step.get("reduce_zero_label")
            if said is not None and said != dataset.reduce_zero_label:
                findings.add(
                    LOADED_OTHERWISE,
                    f"LoadAnnotations ({said}, and {dataset.reduce_zero_label} in the data set)",
                )


def label_table(dataset: Any) -> np.ndarray:
    """The label that mmseg makes of each value of a mask, (256,), 255 where it ignores it."""
    labels = np.arange(256)
    if dataset.reduce_zero_label:
        labels = np.where(np.isin(labels, (0, 255)), _IGNORED, labels - 1)
    mapped = labels.copy()
    for old, new in (dataset.label_map or {}).items():
        mapped[labels == old] = new
    return mapped


def _values(
    paths: Sequence[str],
    sizes: Sequence[tuple[int, int] | None],
    dataset: Any,
    findings: Findings,
    complete: bool,
) -> None:
    """Open masks, and look at their values.

    Args:
        paths: The masks.
        sizes: Width and height of their pictures, ``None`` for one that cannot be read.
        dataset: Their data set.
        findings: Added to.
        complete: Whether these are all masks.
    """
    num_classes = findings.num_classes or 256
    labels = label_table(dataset)
    ignored = (labels == _IGNORED) | (labels == dataset.ignore_index)
    beyond = (labels >= num_classes) & ~ignored
    total, blank, opened = np.zeros(256, dtype=np.int64), [], 0
    for path, size in zip(paths, sizes, strict=True):
        mask = open_picture(path, orient=False, keep=True)
        if mask.error:
            findings.add(BAD_MASK, mask.error)
            continue
        if mask.pixels.ndim != 2 or mask.pixels.dtype not in (np.uint8, bool):
            findings.add(MANY_CHANNELS, f"{path} ({mask.mode})")
            continue
        if size is not None and size != mask.size:
            both = " and ".join(f"{w} x {h}" for w, h in (mask.size, size))
            findings.add(OTHER_SIZE, f"{path} ({both})")
        counts = np.bincount(mask.pixels.ravel(), minlength=256)
        opened += 1
        total += counts
        if counts[beyond].any():
            values = ", ".join(map(str, np.flatnonzero(counts * beyond)[:5]))
            findings.add(BEYOND, f"{path} (value {values}; {num_classes} classes)")
        if not counts[~ignored].any():
            blank.append(path)
    if set(np.flatnonzero(total)) == {0, 255} and num_classes > 1:
        findings.add(ONLY_ENDS, os.path.dirname(paths[0]))
    elif blank:
        findings.add(ALL_BLANK if len(blank) == opened else BLANK, blank)
    if complete and findings.num_classes:
        seen = Counter(int(labels[value]) for value in np.flatnonzero(total))
        classes = findings.labels or ()
        findings.add(NO_PIXEL, (repr(name) for i, name in enumerate(classes) if not seen[i]))
