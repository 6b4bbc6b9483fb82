"""Check the data of a config, and whether they agree with each other and with the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope

from care_mm.datasets.check.dataset import check_dataset
from care_mm.datasets.check.findings import Findings, Kind, count_problems
from care_mm.datasets.paths import is_url
from care_mm.errors import InputError

SPLITS = ("train", "val", "test")
DEFAULT_LIMIT = 200  # images to decode in each data set

OTHER_CLASSES = Kind(
    "data set with other classes than the training data",
    "labels would mean other things: give all splits the same classes, in the same order",
)
HEAD = Kind("num_classes that is not the number of classes", "set it in the config")
TOP_K = Kind("topk beyond the classes", "give smaller numbers")
NO_BATCH = Kind(
    "dataloader without a full batch",
    "an epoch would be empty: use a smaller batch_size, or drop_last=False",
)
OTHER_TRUTH = Kind("evaluator with another ann_file than its data", "set both to the same file")
# Parts of a model whose num_classes is independent of the data.
_INDEPENDENT = ("backbone", "rpn_head", "neck")


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
        for number, settings in enumerate(leaves, 1):
            title = split if len(leaves) == 1 else f"{split} ({number} of {len(leaves)})"
            key = json.dumps(settings, default=str, sort_keys=True)
            if key in titles:
                yield Findings(title, summary=f"the same data as {titles[key]}")
                continue
            titles[key] = title
            findings = check_dataset(settings, limit if files else 0)
            findings.title = title
            _compare_classes(findings, checked)
            if settings is loader["dataset"]:
                _check_batch(findings, loader)
                _check_evaluator(findings, settings, config.get(f"{split}_evaluator"))
            checked.append(findings)
            yield findings
    num_classes = next((f.num_classes for f in checked if f.num_classes), None)
    if num_classes:
        yield _check_model(config, num_classes)


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


def _leaves(node: Mapping) -> Iterator[Mapping]:
    """Yield the data sets inside wrappers (RepeatDataset, ConcatDataset, ...)."""
    inner = [node[key] for key in ("dataset", "datasets") if key in node]
    for item in inner:
        for part in item if isinstance(item, list | tuple) else [item]:
            yield from _leaves(part)
    if not inner:
        yield node


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


def _check_batch(findings: Findings, loader: Mapping) -> None:
    batch, number = loader.get("batch_size") or 1, findings.num_samples
    if loader.get("drop_last") and number is not None and number < batch:
        findings.add(NO_BATCH, f"{findings.title}: {number} images, batch_size {batch}")


def _check_evaluator(findings: Findings, settings: Mapping, evaluators: Any) -> None:
    """Check that evaluators with annotations of their own read those of the data."""
    if not settings.get("ann_file"):
        return
    expected = Path(settings.get("data_root") or "", settings["ann_file"])
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators or {}]:
        actual = evaluator.get("ann_file")
        if actual and not is_url(actual) and Path(actual).resolve() != expected.resolve():
            findings.add(OTHER_TRUTH, f"{actual}: the data have {expected}")


def _check_model(config: Config, num_classes: int) -> Findings:
    """Check the model's heads and the evaluators against the number of classes."""
    heads = list(_values(config.get("model") or {}, "num_classes", "model"))
    findings = Findings("model", place=str(config.filename), summary=f"{len(heads)} x num_classes")
    findings.add(
        HEAD,
        (f"{path}={value}: {num_classes} classes" for path, value in heads if value != num_classes),
    )
    for name in ("val_evaluator", "test_evaluator"):
        for path, value in _values(config.get(name) or {}, "topk", name):
            largest = max(value) if isinstance(value, list | tuple) else value
            if isinstance(largest, int) and largest > num_classes:
                findings.add(TOP_K, f"{path}={value}: {num_classes} classes")
    return findings


def _values(node: Any, key: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of ``key`` below a part of a config, with its full name."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key:
                yield f"{path}.{name}", value
            elif name not in _INDEPENDENT:
                yield from _values(value, key, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _values(value, key, f"{path}.{index}")
