"""Check images and masks against what mmseg's ``BaseSegDataset`` needs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from care_mm.config import find, type_name
from care_mm.datasets.check.coverage import Coverage
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.folders import number_of
from care_mm.datasets.check.images import (
    Loader,
    check_images,
    check_missing,
    decode,
    files_below,
    loader_of,
    missing_files,
    sample,
)

NO_MASK = Kind(
    "image without a mask",
    "the mask has the image's name with seg_map_suffix in place of img_suffix",
)
NO_IMAGE = Kind(
    "mask without an image",
    "the image has the mask's name with img_suffix in place of seg_map_suffix",
)
NOTHING = Kind(
    "folder without an image of the data set",
    "set img_suffix to the suffix of the files, or data_prefix to their folder",
)
OTHER_FILE = note("file with another suffix than img_suffix", "ignored")
BAD_MASK = Kind("unreadable mask", "get it again, or remove it")
MANY_CHANNELS = Kind(
    "mask that is not one channel of 8 bits", "write class numbers as a grayscale or palette PNG"
)
OTHER_SIZE = Kind(
    "mask of another size than its image",
    "masks are neither resized for you nor rotated by the EXIF data of the image",
)
BEYOND = Kind(
    "mask with values beyond the classes",
    "values count the classes from 0, or from 1 with reduce_zero_label=True, where 0 is "
    "unlabelled; ignore_index is ignored, 255 by default",
)
BLANK = note("mask that is ignored completely", "nothing is learned from it")
ALL_BLANK = Kind(
    "mask that is ignored completely, like all others",
    "check reduce_zero_label: is 0 one of your classes, or unlabelled?",
)
ONLY_ENDS = Kind(
    "folder with mask values 0 and 255 only", "255 is ignored: write 1 for the second class"
)
OTHER_REDUCTION = Kind(
    "pipeline step with another reduce_zero_label than the data set",
    "set it on the data set only, from which LoadAnnotations reads it",
)
NO_PIXEL = note("class without a pixel", "it cannot be learned or evaluated")
NO_TRUTH = Kind(
    "data set without masks",
    "set data_prefix.seg_map_path and LoadAnnotations in the pipeline; to write predictions only, "
    "set format_only=True and output_dir on the evaluator",
)
NOT_255 = Kind(
    "ignore_index other than 255 with labels that mmseg sets to 255",
    "reduce_zero_label and a selection of classes write 255: set every ignore_index to 255",
)
_WRITTEN = 255  # mmseg's label for 0 with reduce_zero_label, and for classes that are not selected


def check_masks(dataset: Any, settings: Mapping, coverage: Coverage) -> Findings:
    """Pair images with masks, and decode a sample of the pairs.

    Args:
        dataset: A ``BaseSegDataset`` that has not loaded anything yet.
        settings: Its config.
        coverage: What to check; its limit is a number of pairs.
    """
    classes = dataset.metainfo.get("classes") or ()
    findings = Findings(labels=tuple(classes), num_classes=len(classes) or None)
    _check_pipeline(dataset, settings, findings)
    folder, masks = (dataset.data_prefix.get(key) or "" for key in ("img_path", "seg_map_path"))
    names = _names(dataset, folder, findings)
    findings.num_samples = number_of(len(names), dataset._indices)
    loads_masks = any(_loading(settings))
    formats_only = bool(coverage.metrics) and not coverage.scored
    if not (masks and loads_masks) and not formats_only:
        findings.add(NO_TRUTH, folder if not masks else f"{folder}: no LoadAnnotations")
    ignored = dataset.ignore_index if coverage.ignored is None else coverage.ignored
    if (dataset.reduce_zero_label or dataset.label_map) and ignored != _WRITTEN:
        findings.add(NOT_255, f"ignore_index={ignored}")
    content = "images with masks" if names and masks else "images"
    findings.summary = f"{len(names):,} {content}, {len(classes)} classes"
    if not names:
        missing = f"no *{dataset.img_suffix}"
        findings.add(NOTHING, dataset.ann_file if _is_listed(dataset) else f"{folder}: {missing}")
        return findings
    if not coverage.files:
        return findings
    pairs = _existing_pairs(dataset, folder, masks, names, findings)
    chosen = sample(pairs, coverage.limit)
    images = check_images([image for image, _ in chosen], findings, loader_of(settings))
    if masks and chosen:
        sizes = [None if image.error else image.size for image in images]
        files = [mask for _, mask in chosen]
        complete = len(chosen) == len(names)
        _check_values(files, sizes, dataset, _mask_loader(settings), ignored, findings, complete)
    return findings


def _mask_loader(settings: Mapping) -> Loader:
    """Return how the pipeline decodes masks."""
    backends = [step.get("imdecode_backend") for step in _loading(settings)]
    return Loader("unchanged", next(filter(None, backends), "pillow"))


def _loading(settings: Mapping) -> Iterator[Mapping]:
    """Yield the steps of a pipeline that load masks, also those inside test-time augmentation."""
    yield from find(
        settings.get("pipeline") or (), lambda step: type_name(step) == "LoadAnnotations"
    )


def _check_pipeline(dataset: Any, settings: Mapping, findings: Findings) -> None:
    """Compare reduce_zero_label, for which mmseg has an assertion in the middle of a batch."""
    expected = dataset.reduce_zero_label
    for step in _loading(settings):
        actual = step.get("reduce_zero_label")
        if actual is not None and actual != expected:
            findings.add(
                OTHER_REDUCTION, f"LoadAnnotations: {actual}, and {expected} in the data set"
            )


def _is_listed(dataset: Any) -> bool:
    """Whether a file lists the images, rather than a folder."""
    return bool(dataset.ann_file) and not os.path.isdir(dataset.ann_file)


def _names(dataset: Any, folder: str, findings: Findings) -> list[str]:
    """Return the images without their suffix, as mmseg finds them."""
    if _is_listed(dataset):
        with open(dataset.ann_file, encoding="utf-8") as file:
            return [line.strip() for line in file]
    files = files_below(folder)
    suffix = dataset.img_suffix
    findings.add(OTHER_FILE, (os.path.join(folder, f) for f in files if not f.endswith(suffix)))
    return [file.removesuffix(suffix) for file in files if file.endswith(suffix)]


def _existing_pairs(
    dataset: Any, folder: str, masks: str, names: Sequence[str], findings: Findings
) -> list[tuple[str, str]]:
    """Return the images that exist with their masks; the mask is empty without a mask folder."""
    suffix = dataset.seg_map_suffix
    pairs = [
        (
            os.path.join(folder, name + dataset.img_suffix),
            os.path.join(masks, name + suffix) if masks else "",
        )
        for name in names
    ]
    if masks:
        missing = missing_files(mask for _, mask in pairs)
        findings.add(NO_MASK, (image for image, mask in pairs if mask in missing))
        pairs = [pair for pair in pairs if pair[1] not in missing]
    if masks and not _is_listed(dataset):
        known = {name + suffix for name in names}
        findings.add(
            NO_IMAGE,
            (
                os.path.join(masks, file)
                for file in files_below(masks)
                if file.endswith(suffix) and file not in known
            ),
        )
    missing = check_missing([image for image, _ in pairs], folder, findings)
    return [pair for pair in pairs if pair[0] not in missing]


def label_table(dataset: Any) -> np.ndarray:
    """Return mmseg's label for each mask value, (256,)."""
    labels = np.arange(256)
    if dataset.reduce_zero_label:
        labels = np.where(np.isin(labels, (0, 255)), _WRITTEN, labels - 1)
    mapped = labels.copy()
    for old, new in (dataset.label_map or {}).items():
        mapped[labels == old] = new
    return mapped


def _check_values(
    paths: Sequence[str],
    sizes: Sequence[tuple[int, int] | None],
    dataset: Any,
    loader: Loader,
    ignore_index: int,
    findings: Findings,
    complete: bool,
) -> None:
    """Decode masks, and check their sizes and values.

    Args:
        paths: The masks.
        sizes: Width and height of their images; ``None`` for an unreadable image.
        dataset: Their data set.
        loader: How the pipeline decodes them.
        ignore_index: The label that the model and the metrics ignore.
        findings: Receives the problems and notes.
        complete: Whether these are all masks of the data set.
    """
    num_classes = findings.num_classes or 256
    labels = label_table(dataset)
    ignored = labels == ignore_index
    beyond = (labels >= num_classes) & ~ignored
    total, blank, decoded = np.zeros(256, dtype=np.int64), [], 0
    for path, size in zip(paths, sizes, strict=True):
        mask = decode(path, loader, keep=True)
        if mask.error:
            findings.add(BAD_MASK, mask.error)
            continue
        if mask.pixels.squeeze().ndim != 2 or mask.pixels.dtype not in (np.uint8, bool):
            findings.add(MANY_CHANNELS, f"{path}: {mask.mode}")
            continue
        if size is not None and size != mask.size:
            both = " and ".join(f"{w} x {h}" for w, h in (mask.size, size))
            findings.add(OTHER_SIZE, f"{path}: {both}")
        counts = np.bincount(mask.pixels.ravel(), minlength=256)
        decoded += 1
        total += counts
        if counts[beyond].any():
            values = ", ".join(map(str, np.flatnonzero(counts * beyond)[:5]))
            findings.add(BEYOND, f"{path}: value {values}; {num_classes} classes")
        if not counts[~ignored].any():
            blank.append(path)
    if set(np.flatnonzero(total)) == {0, 255} and num_classes > 1 and ignored[255]:
        findings.add(ONLY_ENDS, os.path.dirname(paths[0]))
    elif blank:
        findings.add(ALL_BLANK if len(blank) == decoded else BLANK, blank)
    if complete and findings.num_classes:
        seen = Counter(int(labels[value]) for value in np.flatnonzero(total))
        classes = findings.labels or ()
        findings.add(NO_PIXEL, (repr(name) for i, name in enumerate(classes) if not seen[i]))
