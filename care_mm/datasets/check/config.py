"""Check the data of a config, and whether they agree with each other and with the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from care_mm.config import type_name
from care_mm.datasets.check.coverage import (
    Coverage,
    coco_metrics,
    has_many_sets,
    metrics_of,
)
from care_mm.datasets.check.dataset import check_dataset
from care_mm.datasets.check.findings import Findings, Kind, count_problems, note
from care_mm.datasets.check.model import check_model, ignored_label
from care_mm.datasets.paths import is_url
from care_mm.datasets.transforms import transforms_of, unfiltered_cut
from care_mm.errors import InputError

SPLITS = ("train", "val", "test")
DEFAULT_LIMIT = 200  # images to decode in each data set

OTHER_CLASSES = Kind(
    "data set with other classes than the training data",
    "labels would mean other things: give all splits the same classes, in the same order",
)
NO_BATCH = Kind(
    "dataloader without a full batch",
    "an epoch would be empty: use a smaller batch_size, or drop_last=False",
)
OTHER_TRUTH = Kind("evaluator with another ann_file than its data", "set both to the same file")
ONE_METRIC = Kind(
    "one CocoMetric for several data sets",
    "their image ids collide: give MultiDatasetsEvaluator a metric for each data set",
)
REPEATED = Kind("evaluation of repeated images", "remove RepeatDataset: a second result is wrong")
UNFILTERED = note(
    "transform that can leave objects without area, and no filter behind it",
    "the loss may become NaN: put FilterAnnotations behind it",
)
OTHER_NUMBER = Kind(
    "MultiDatasetsEvaluator with another number of metrics than data sets",
    "give it a metric and a prefix for each data set of the ConcatDataset, in the same order",
)


def check_config(
    config: Config,
    splits: Sequence[str] | None = None,
    limit: int | None = DEFAULT_LIMIT,
    files: bool = True,
) -> Iterator[Findings]:
    """Check the data of a config, and its model against them.

    Args:
        config: The config; its custom imports must be done. Its scope becomes the default scope.
        splits: Some of ``'train'``, ``'val'`` and ``'test'``; by default those of the config.
        limit: Number of images to decode in each data set, evenly spaced; ``None`` for all.
        files: Whether to look for the image files; if not, ``limit`` is 0.

    Yields:
        The findings on each data set as soon as it is checked, then those on the model.

    Raises:
        InputError: The config has no data for a requested split.
    """
    init_default_scope(config.get("default_scope", "mmengine"))
    titles: dict[str, str] = {}
    checked: list[Findings] = []
    for split in splits or SPLITS:
        loader = config.get(f"{split}_dataloader")
        if not (loader and loader.get("dataset")):
            if splits:
                raise InputError(f"the config has no {split}_dataloader")
            continue
        leaves = list(_leaves(loader["dataset"]))
        evaluator = config.get(f"{split}_evaluator") if split != "train" else None
        parts: list[Findings] = []
        for number, (settings, _) in enumerate(leaves, 1):
            title = split if len(leaves) == 1 else f"{split} ({number} of {len(leaves)})"
            metrics = _metrics_of_part(evaluator, number - 1)
            key = json.dumps([settings, metrics], default=str, sort_keys=True)
            if key in titles:
                same = next(f for f in checked if f.title == titles[key])
                parts.append(replace(same, title=title, offenders={}))
                parts[-1].summary, parts[-1].objects = f"the same data as {titles[key]}", {}
            else:
                titles[key] = title
                coverage = Coverage(
                    limit if files else 0, files, metrics, ignored_label(config), len(leaves)
                )
                findings = check_dataset(settings, coverage)
                findings.title = title
                _compare_classes(findings, checked)
                if len(leaves) == 1 or has_many_sets(evaluator):
                    _check_evaluator(split, findings, settings, metrics)
                checked.append(findings)
                parts.append(findings)
            if number == len(leaves):
                _check_batch(split, parts, leaves, loader)
                if split == "train":
                    _check_transforms(parts[-1], loader["dataset"])
                if evaluator:
                    _check_sets(split, parts, leaves, evaluator)
            yield parts[-1]
    num_classes = next((f.num_classes for f in checked if f.num_classes), None)
    if num_classes:
        evaluated = [f.most_objects for f in checked if not f.title.startswith("train")]
        yield check_model(config, num_classes, max(evaluated, default=0))


def annotation_findings(config: Config, splits: Sequence[str]) -> list[Findings]:
    """Check annotations and settings, without a look at image files.

    Args:
        config: The config; its custom imports must be done. Its scope becomes the default scope.
        splits: Some of ``'train'``, ``'val'`` and ``'test'``; those without data are skipped.

    Returns:
        The findings on each data set, then those on the model.
    """
    present = [
        split for split in splits if (config.get(f"{split}_dataloader") or {}).get("dataset")
    ]
    return list(check_config(config, present, limit=0, files=False)) if present else []


def refuse_bad_annotations(config: Config, splits: Sequence[str]) -> list[Findings]:
    """Refuse to start with data that ``tools/check_data.py`` would refuse for their annotations.

    Args:
        config: As for :func:`annotation_findings`.
        splits: As for :func:`annotation_findings`.

    Returns:
        The findings, all of them notes.

    Raises:
        InputError: Names the first problem and its fix.
    """
    found = annotation_findings(config, splits)
    problems = [
        line.strip()
        for findings in found
        for line in list(findings.lines())[1 : 1 + len(findings.problems)]
    ]
    if problems:
        titles = [findings.title for findings in found if findings.problems]
        rest = f" ({count_problems(len(problems))} in all)" if len(problems) > 1 else ""
        raise InputError(f"{titles[0]}: {problems[0]}; tools/check_data.py shows the details{rest}")
    return found


def _leaves(node: Mapping, times: int = 1) -> Iterator[tuple[Mapping, int | None]]:
    """Yield the data sets inside wrappers (RepeatDataset, ConcatDataset, ...).

    Yields:
        The dict of a data set, and how often an epoch repeats it; ``None`` if unknown.
    """
    inner = [node[key] for key in ("dataset", "datasets") if key in node]
    if type_name(node) == "RepeatDataset":
        times = times * node.get("times", 1) if times else times
    elif type_name(node) not in ("ConcatDataset", "MultiImageMixDataset") and inner:
        times = None
    for item in inner:
        for part in item if isinstance(item, list | tuple) else [item]:
            yield from _leaves(part, times)
    if not inner:
        yield node, times


def _metrics_of_part(evaluator: Any, index: int) -> tuple[Mapping, ...] | None:
    """Return the metrics of a data set of a loader; ``None`` without an evaluator."""
    if not evaluator:
        return None
    metrics = metrics_of(evaluator)
    return metrics[index : index + 1] if has_many_sets(evaluator) else metrics


def _compare_classes(findings: Findings, others: Sequence[Findings]) -> None:
    """Check that the labels are those of the first data set, in the same order."""
    expected = next((other.labels for other in others if other.labels), None)
    actual = findings.labels
    if not (expected and actual) or actual == expected:
        return
    missing = [name for name in expected if name not in actual]
    extra = [name for name in actual if name not in expected]
    differences = [f"{missing[0]!r} is missing"] if missing else []
    differences += [f"{extra[0]!r} is extra"] if extra else []
    reason = " and ".join(differences) or "they are in another order"
    findings.add(
        OTHER_CLASSES,
        f"{findings.title}: {len(actual):,} classes against {len(expected):,}; {reason}",
    )


def _check_batch(
    split: str, parts: Sequence[Findings], leaves: Sequence[tuple], loader: Mapping
) -> None:
    """Check that an epoch has a full batch, if it drops incomplete ones."""
    batch, number = loader.get("batch_size") or 1, 0
    for part, (_, times) in zip(parts, leaves, strict=True):
        if part.num_samples is None or times is None:
            return
        number += part.num_samples * times
    if loader.get("drop_last") and number < batch:
        parts[-1].add(NO_BATCH, f"{split}: {number} images, batch_size {batch}")


def _check_transforms(findings: Findings, dataset: Mapping) -> None:
    """Note a transform that can empty the boxes of a detector without a filter behind it."""
    cut = unfiltered_cut(dataset)
    if cut and any(type_name(node) == "PackDetInputs" for node in transforms_of(dataset)):
        findings.add(UNFILTERED, cut)


def _check_evaluator(
    split: str, findings: Findings, settings: Mapping, metrics: Sequence | None
) -> None:
    """Check that evaluators with annotations of their own read those of the data."""
    if not settings.get("ann_file"):
        return
    expected = Path(settings.get("data_root") or "", settings["ann_file"])
    for metric in metrics or ():
        actual = metric.get("ann_file")
        if metric.get("format_only") or not isinstance(actual, str) or not actual:
            continue
        if not is_url(actual) and Path(actual).resolve() != expected.resolve():
            findings.add(
                OTHER_TRUTH, f"{split}_evaluator.ann_file={actual}: the data have {expected}"
            )


def _check_sets(
    split: str, parts: Sequence[Findings], leaves: Sequence[tuple], evaluator: Any
) -> None:
    """Check the evaluation of several data sets, or of a repeated one."""
    last, metrics = parts[-1], metrics_of(evaluator)
    prefixes = evaluator.get("dataset_prefixes") if has_many_sets(evaluator) else None
    if has_many_sets(evaluator):
        numbers = (len(metrics), len(prefixes or ()), len(parts))
        if len(set(numbers)) > 1:
            last.add(
                OTHER_NUMBER,
                f"{split}_evaluator: {numbers[0]} metrics, {numbers[1]} prefixes, "
                f"{numbers[2]} data sets",
            )
    scoring = coco_metrics(Coverage(metrics=metrics))
    if not scoring:
        return
    if any(times is None or times > 1 for _, times in leaves):
        last.add(REPEATED, f"{split}_dataloader: {leaves[0][1]} times")
    if len(parts) == 1 or has_many_sets(evaluator):
        return
    ids = [i for part in parts for i in part.image_ids or ()]
    files = {metric.get("ann_file") for metric in scoring}
    if len(set(ids)) < len(ids) or not all(
        file is None or _has_images(file, ids) for file in files
    ):
        last.add(ONE_METRIC, f"{split}_evaluator: {type_name(scoring[0])}, {len(parts)} data sets")


def _has_images(file: str, ids: Sequence) -> bool:
    """Whether a COCO file has exactly these images."""
    try:
        images = json.loads(Path(file).read_text(encoding="utf-8"))["images"]
        return {image["id"] for image in images} == set(ids)
    except (OSError, ValueError, TypeError, KeyError):
        return False
