"""Whether the data that a config needs are in place, readable, and agree with its model.

Every data set below the config's dataloaders is built without loading anything, which resolves its
paths, classes and defaults as training would, and then looked at by the check for its format.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from care_mm.datasets.check.coco import check_coco
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.check.folders import check_folders
from care_mm.datasets.check.masks import check_masks
from care_mm.datasets.paths import is_url, paths_of
from care_mm.errors import InputError

SPLITS = ("train", "val", "test")
DEFAULT_LIMIT = 200  # pictures that are opened in each data set

Check = Callable[[Any, Mapping, Findings, int | None], None]
# The package and class that finds the files -> what checks them. Of a class derived from it, too,
# unless that finds its files in its own way.
CHECKS: dict[tuple[str, str], Check] = {
    ("mmdet", "CocoDataset"): check_coco,
    ("mmseg", "BaseSegDataset"): check_masks,
    ("mmpretrain", "CustomDataset"): check_folders,
}

ABSENT = Kind(
    "path does not exist",
    "paths do not exist",
    "lay the data out as docs/data.md says, or set data_root",
)
UNBUILT = Kind(
    "data set cannot be built", "data sets cannot be built", "mend its part of the config"
)
ONE_STRING = Kind(
    "string is given for a list of classes",
    "strings are given for a list of classes",
    "a tuple of one has a comma: ('nut',)",
)
UNKNOWN = note(
    "data set is of a type that is not known here",
    "data sets are of types that are not known here",
    "only its paths were looked at",
)
REMOTE = note("path is a URL", "paths are URLs", "not looked at")
OTHER_CLASSES = Kind(
    "data set has other classes than the training's",
    "data sets have other classes than the training's",
    "labels would mean other things: give all splits the same ones, in the same order",
)
HEAD = Kind(
    "num_classes of the model is not the number of classes",
    "num_classes of the model are not the number of classes",
    "set it in the config",
)
TOP_K = Kind("topk is beyond the classes", "topk are beyond the classes", "give smaller ones")
NO_BATCH = Kind(
    "dataloader has no full batch",
    "dataloaders have no full batch",
    "an epoch would be empty: take a smaller batch_size, or drop_last=False",
)
OTHER_TRUTH = Kind(
    "evaluator has another ann_file than its data",
    "evaluators have another ann_file than their data",
    "set it to the same file",
)
# Parts of a model whose num_classes is not that of the data.
_APART = ("backbone", "rpn_head", "neck")


def check_config(
    config: Config, splits: Sequence[str] | None = None, limit: int | None = DEFAULT_LIMIT
) -> Iterator[Findings]:
    """Check the data of a config, and its model against them; yields each part as it is done.

    Args:
        config: Its custom imports are done, its scope is made the default one.
        splits: Of ``'train'``, ``'val'`` and ``'test'``; all that the config has when not given.
        limit: Pictures to open in each data set, evenly spaced; ``None`` for all.

    Raises:
        InputError: The config has no data for a split that was asked for.
    """
    init_default_scope(config.get("default_scope", "mmengine"))
    done: dict[str, str] = {}
    all_findings = []
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
            if key in done:
                yield Findings(title, summary=f"the same data as {done[key]}")
                continue
            done[key] = title
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Pillow, about files that are reported here
                findings = _check(title, settings, limit)
            _against_training(findings, all_findings)
            if settings is loader["dataset"]:
                _against_loader(findings, loader)
                _against_evaluator(findings, settings, config.get(f"{split}_evaluator"))
            all_findings.append(findings)
            yield findings
    known = [findings for findings in all_findings if findings.num_classes]
    if known:
        yield _model(config, known[0])


def _leaves(node: Mapping) -> Iterator[Mapping]:
    """The data sets within wrappers (RepeatDataset, ConcatDataset, ...)."""
    inner = [node[key] for key in ("dataset", "datasets") if key in node]
    for item in inner:
        for part in item if isinstance(item, list | tuple) else [item]:
            yield from _leaves(part)
    if not inner:
        yield node


def _check(title: str, settings: Mapping, limit: int | None) -> Findings:
    """Check one data set that is no wrapper."""
    root = str(settings.get("data_root") or "")
    findings = Findings(title, place=root.rstrip("/") or str(settings.get("ann_file", "")))
    if settings.get("type") == "Shapes" and not Path(root).expanduser().exists():
        findings.summary = f"will be drawn into {root} on first use"
        return findings
    if any(isinstance(value, str) and is_url(value) for value in settings.values()):
        findings.add(REMOTE, findings.place)
        return findings
    absent = [str(path) for path in paths_of(settings) if not path.exists()]
    if absent:
        findings.summary = "not there"
        findings.add(ABSENT, absent)
        return findings
    classes = (settings.get("metainfo") or {}).get("classes")
    if isinstance(classes, str) and not Path(classes).is_file():
        findings.add(ONE_STRING, repr(classes))
        return findings
    try:
        dataset = DATASETS.build({**settings, "pipeline": [], "lazy_init": True})
    except Exception as error:  # whatever a data set raises on arguments that it does not like
        reason = " ".join(str(error).split())
        findings.add(UNBUILT, f"{settings.get('type')} ({type(error).__name__}: {reason[:300]})")
        return findings
    check = _check_of(type(dataset))
    if check is None:
        findings.add(UNKNOWN, type(dataset).__name__)
    else:
        check(dataset, settings, findings, limit)
    return findings


def _check_of(kind: type) -> Check | None:
    """The check for a class of data sets."""
    for base in kind.__mro__:
        check = CHECKS.get((base.__module__.split(".")[0], base.__name__))
        if check is not None:
            return check if kind.load_data_list is base.load_data_list else None
    return None


def _against_training(findings: Findings, others: Sequence[Findings]) -> None:
    """The same labels everywhere, in the same order."""
    labelled = [other for other in others if other.labels]
    if not (labelled and findings.labels) or findings.labels == labelled[0].labels:
        return
    mine, first = findings.labels, labelled[0].labels
    lacks = [name for name in first if name not in mine]
    has = [name for name in mine if name not in first]
    differences = [f"lacks {lacks[0]!r}"] if lacks else []
    differences += [f"has {has[0]!r} besides"] if has else []
    reason = " and ".join(differences) or "has them in another order"
    findings.add(
        OTHER_CLASSES,
        f"{findings.title} ({len(mine):,} classes against {len(first):,}; it {reason})",
    )


def _against_loader(findings: Findings, loader: Mapping) -> None:
    batch, number = loader.get("batch_size") or 1, findings.num_samples
    if loader.get("drop_last") and number is not None and number < batch:
        findings.add(NO_BATCH, f"{findings.title} ({number} images, batch_size {batch})")


def _against_evaluator(findings: Findings, settings: Mapping, evaluators: Any) -> None:
    """An evaluator that reads annotations of its own reads those of its data."""
    if not settings.get("ann_file"):
        return
    mine = Path(settings.get("data_root") or "", settings["ann_file"])
    for evaluator in evaluators if isinstance(evaluators, list | tuple) else [evaluators or {}]:
        theirs = evaluator.get("ann_file")
        if theirs and not is_url(theirs) and Path(theirs).resolve() != mine.resolve():
            findings.add(OTHER_TRUTH, f"{theirs} ({mine} in the data)")


def _model(config: Config, data: Findings) -> Findings:
    """The model's heads and the evaluators against the number of classes."""
    number = data.num_classes
    found = list(_values(config.get("model") or {}, "num_classes", "model"))
    findings = Findings("model", place=str(config.filename))
    findings.summary = f"num_classes in {len(found)} place{'' if len(found) == 1 else 's'}"
    findings.add(
        HEAD, (f"{path}={value} ({number} classes)" for path, value in found if value != number)
    )
    for split in SPLITS[1:]:
        for path, value in _values(
            config.get(f"{split}_evaluator") or {}, "topk", f"{split}_evaluator"
        ):
            largest = max(value) if isinstance(value, list | tuple) else value
            if isinstance(largest, int) and largest > number:
                findings.add(TOP_K, f"{path}={value} ({number} classes)")
    return findings


def _values(node: Any, key: str, path: str) -> Iterator[tuple[str, Any]]:
    """Every value of ``key`` below a part of a config, with its full name."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            if name == key:
                yield f"{path}.{name}", value
            elif name not in _APART:
                yield from _values(value, key, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _values(value, key, f"{path}.{index}")
