"""The extent of a check: which files it opens, and how the data are evaluated."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from care_mm.config import type_name

COCO_METRICS = ("CocoMetric", "DenseCocoMetric", "FastCocoMetric", "FasterCocoMetric")
MANY_SETS = "MultiDatasetsEvaluator"


@dataclass(frozen=True)
class Coverage:
    """The extent of the check of a data set.

    Attributes:
        limit: Number of images to decode, evenly spaced; ``None`` for all.
        files: Whether to look for the image files.
        metrics: The dicts of the metrics that evaluate the data; ``None`` if the config has none
            or the data train.
        ignored: Label of the pixels that the model and the metrics ignore; ``None`` if unknown.
        siblings: Number of data sets in the same loader.
    """

    limit: int | None = None
    files: bool = True
    metrics: tuple[Mapping, ...] | None = None
    ignored: int | None = None
    siblings: int = 1

    @property
    def scored(self) -> bool:
        """Whether a metric compares predictions with the annotations."""
        return any(not metric.get("format_only") for metric in self.metrics or ())


def metrics_of(evaluator: Any) -> tuple[Mapping, ...]:
    """Return the dicts of the metrics in an evaluator of a config."""
    if isinstance(evaluator, list | tuple):
        return tuple(metric for part in evaluator for metric in metrics_of(part))
    if not isinstance(evaluator, Mapping):
        return ()
    if "metrics" in evaluator:
        return metrics_of(evaluator["metrics"])
    return (evaluator,) if "type" in evaluator else ()


def has_many_sets(evaluator: Any) -> bool:
    """Whether an evaluator has a metric for each data set of a ``ConcatDataset``."""
    return type_name(evaluator) == MANY_SETS


def coco_metrics(coverage: Coverage) -> list[Mapping]:
    """Return the metrics that score detections against a COCO file."""
    return [
        metric
        for metric in coverage.metrics or ()
        if type_name(metric) in COCO_METRICS and not metric.get("format_only")
    ]


def result_files(evaluator: Any) -> list[str]:
    """Return the files and folders that metrics with ``format_only`` have written."""
    places: list[str] = []
    for metric in metrics_of(evaluator):
        if metric.get("format_only"):
            if prefix := metric.get("outfile_prefix"):
                places += sorted(glob.glob(f"{glob.escape(prefix)}.*.json"))
            elif folder := metric.get("output_dir"):
                places.append(str(folder))
    return places
