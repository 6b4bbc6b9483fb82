"""Check that the model and its metrics fit the classes and the ignored label of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from care_mm.config import find, type_name
from care_mm.datasets.check.coverage import metrics_of
from care_mm.datasets.check.findings import Findings, Kind, note

HEAD = Kind("num_classes that is not the number of classes", "set it in the config")
TOP_K = Kind("topk beyond the classes", "give smaller numbers")
OTHER_IGNORED = Kind(
    "ignore_index that differs between data, model and metric",
    "set the same one on the data set, decode_head, auxiliary_head and evaluators",
)
OTHER_PADDING = note(
    "padding of masks that is neither a class nor ignore_index",
    "an error as soon as an image is padded: set seg_pad_val to ignore_index",
)
_DEFAULT = 255  # ignore_index of mmseg's data sets, heads and metrics, and seg_pad_val
_SEG_METRICS = ("IoUMetric", "CityscapesMetric")
# Parts of a model whose num_classes is independent of the data.
_INDEPENDENT = ("backbone", "rpn_head", "neck", "teacher")


def check_model(config: Config, num_classes: int) -> Findings:
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
    _check_ignored(config, num_classes, findings)
    return findings


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
    for path, value in _values(config.get("model") or {}, "seg_pad_val", "model"):
        if value != expected and value not in range(num_classes):
            findings.add(OTHER_PADDING, f"{path}={value}: ignore_index={expected}")


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
