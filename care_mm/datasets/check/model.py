"""Check that the model and its metrics fit the classes and the ignored label of the data."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import MODELS

from care_mm.config import find, type_name
from care_mm.datasets.check.coverage import COCO_METRICS, metrics_of
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.errors import did_you_mean

HEAD = Kind("num_classes that is not the number of classes", "set it in the config")
FEW_DETECTIONS = note(
    "detector that returns fewer detections than an image has objects", "the others are missed"
)
PROPOSALS = Kind(
    "CocoMetric with unusual proposal_nums",
    "give three numbers in ascending order, one of them 100: mAP is -1 without it",
)
THRESHOLDS = Kind(
    "CocoMetric with iou_thrs that its metrics do not fit",
    "give a list; mAP_50 and mAP_75 need 0.5 and 0.75, unless metric_items leaves them out, and "
    "classwise=True needs the ten default thresholds",
)
NO_METRIC = Kind("unknown name of a metric", "an error after the first epoch: correct it")
TOP_K = Kind("topk beyond the classes", "give smaller numbers")
OTHER_IGNORED = Kind(
    "ignore_index that differs between data, model and metric",
    "set the same one on the data set, decode_head, auxiliary_head and evaluators",
)
OTHER_PADDING = note(
    "padding of masks that is neither a class nor ignore_index",
    "an error as soon as an image is padded: set seg_pad_val to ignore_index",
)
CLASS_PADDING = note(
    "padding of masks that is a class",
    "padded pixels are learned as that class: set seg_pad_val to ignore_index unless you mean it",
)
_DEFAULT = 255  # ignore_index of mmseg's data sets, heads and metrics, and seg_pad_val
_SEG_METRICS = ("IoUMetric", "CityscapesMetric")
_IOU_METRICS = ("mIoU", "mDice", "mFscore")
_AVERAGES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
_RECALLS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
# Parts of a model whose num_classes is independent of the data.
_INDEPENDENT = ("backbone", "rpn_head", "neck", "teacher", "semantic_head")
_BOUNDARIES = ("STDCHead",)  # heads of two classes: boundaries and all else


def check_model(config: Config, num_classes: int, most_objects: int = 0) -> Findings:
    """Check the model's heads and the evaluators against the data.

    Args:
        config: The config; its scope is the default scope.
        num_classes: Number of classes of the data.
        most_objects: Number of objects in the densest image that is evaluated.
    """
    model = config.get("model") or {}
    heads = list(_values(model, "num_classes", "model")) + list(_defaults(model, "model"))
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
        for metric in metrics_of(config.get(name)):
            _check_metric(name, metric, findings)
    test_cfg = dict(model.get("test_cfg") or {})
    for path, value in _values(test_cfg, "max_per_img", "model.test_cfg"):
        if isinstance(value, int) and 0 < value < most_objects:
            findings.add(FEW_DETECTIONS, f"{path}={value}: {most_objects:,} objects")
    _check_ignored(config, num_classes, findings)
    return findings


def _check_metric(name: str, metric: Mapping, findings: Findings) -> None:
    """Check the arguments of a metric that it reads at the end of the first validation only."""
    is_coco = type_name(metric) in COCO_METRICS
    if metric.get("format_only") or not (is_coco or type_name(metric) in _SEG_METRICS):
        return
    key, known = (
        ("metric_items", _AVERAGES + _RECALLS) if is_coco else ("iou_metrics", _IOU_METRICS)
    )
    items = metric.get(key) or ()
    items = [items] if isinstance(items, str) else items
    findings.add(
        NO_METRIC,
        (
            f"{name}.{key}: {item!r}{did_you_mean(str(item), known)}"
            for item in items
            if item not in known
        ),
    )
    if not is_coco:
        return
    numbers = metric.get("proposal_nums")
    if numbers is not None and (
        len(numbers) < 3 or 100 not in numbers or list(numbers) != sorted(numbers)
    ):
        findings.add(PROPOSALS, f"{name}.proposal_nums={tuple(numbers)}")
    thresholds = metric.get("iou_thrs")
    if thresholds is None:
        return
    scored = [item for item in items or _AVERAGES if item in _AVERAGES]
    if (
        isinstance(thresholds, float | int)
        or (metric.get("classwise") and len(thresholds) < 6)
        or ("mAP_50" in scored and not any(np.isclose(thresholds, 0.5)))
        or ("mAP_75" in scored and not any(np.isclose(thresholds, 0.75)))
    ):
        findings.add(THRESHOLDS, f"{name}.iou_thrs={thresholds}")


def ignored_label(config: Config) -> int | None:
    """Return the label that a segmentor ignores in training; ``None`` without such a head."""
    return next(iter(_head_values(config).values()), None)


def _head_values(config: Config) -> dict[str, int]:
    """Return ``ignore_index`` of mmseg's heads by their names."""
    values = {}
    model = config.get("model") or {}
    if config.get("default_scope") != "mmseg" or not isinstance(model, Mapping):
        return {}
    for name in ("decode_head", "auxiliary_head"):
        heads = model.get(name) or ()
        for index, head in enumerate([heads] if isinstance(heads, Mapping) else heads):
            place = f"model.{name}" if isinstance(heads, Mapping) else f"model.{name}.{index}"
            if (value := head.get("ignore_index", _DEFAULT)) is not None:
                values[f"{place}.ignore_index"] = value
    return values


def _check_ignored(config: Config, num_classes: int, findings: Findings) -> None:
    """Compare ``ignore_index`` of data sets, heads and metrics, and the padding of masks."""
    values = _head_values(config)
    if not values:
        return
    for split in ("train", "val", "test"):
        for metric in metrics_of(config.get(f"{split}_evaluator")):
            if type_name(metric) in _SEG_METRICS and not metric.get("format_only"):
                name = f"{split}_evaluator.ignore_index"
                values.setdefault(name, metric.get("ignore_index", _DEFAULT))
        loader = config.get(f"{split}_dataloader") or {}
        for node in find(loader.get("dataset") or {}, lambda node: "ignore_index" in node):
            if "pipeline" in node:  # the data set, not a step of its pipeline
                name = f"{split}_dataloader.dataset.ignore_index"
                values.setdefault(name, node["ignore_index"])
    expected = next(iter(values.values()))
    differing = [f"{name}={value}" for name, value in values.items() if value != expected]
    if differing:
        findings.add(OTHER_IGNORED, f"{differing[0]}, {next(iter(values))}={expected}")
        return
    padding = (config.model.get("data_preprocessor") or {}).get("seg_pad_val", _DEFAULT)
    if padding != expected:
        kind = CLASS_PADDING if padding in range(num_classes) else OTHER_PADDING
        place = "model.data_preprocessor.seg_pad_val"
        findings.add(kind, f"{place}={padding}: ignore_index={expected}")


def _values(node: Any, key: str, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every value of ``key`` below a part of a config, with its full name."""
    if isinstance(node, Mapping) and type_name(node) not in _BOUNDARIES:
        for name, value in node.items():
            if name == key:
                yield f"{path}.{name}", value
            elif name not in _INDEPENDENT:
                yield from _values(value, key, f"{path}.{name}")
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _values(value, key, f"{path}.{index}")


def _defaults(node: Any, path: str, is_head: bool = False) -> Iterator[tuple[str, int]]:
    """Yield the number of classes of every head that leaves it to the default of its class."""
    if isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _defaults(value, f"{path}.{index}", is_head)
        return
    if not isinstance(node, Mapping) or type_name(node) in _BOUNDARIES:
        return
    if is_head and "num_classes" not in node:
        name, number = "num_classes", _default_of(node.get("type"), "num_classes")
        if number is None:
            parts = ("num_things_classes", "num_stuff_classes")
            numbers = [node.get(part, _default_of(node.get("type"), part)) for part in parts]
            name, number = " + ".join(parts), None if None in numbers else sum(numbers)
        if number is not None:
            yield f"{path}.{name}", number
    for name, value in node.items():
        if name not in _INDEPENDENT:
            # roi_head only holds heads, and its class would be imported with all models
            is_head = name.endswith("head") and name != "roi_head"
            yield from _defaults(value, f"{path}.{name}", is_head)


def _default_of(kind: Any, name: str) -> int | None:
    """Return the default of an argument of a class in a config; ``None`` if it has none."""
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    for base in getattr(kind, "__mro__", ()):
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        if name in parameters:
            default = parameters[name].default
            return default if type(default) is int else None
        if all(p.kind is not p.VAR_KEYWORD for p in parameters.values()):
            return None
    return None
