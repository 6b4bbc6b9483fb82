"""Check that the files a config needs exist, before anything is built."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log

from care_mm.config import find, is_pretrained, type_name
from care_mm.datasets.check import refuse_bad_annotations
from care_mm.datasets.check.coverage import metrics_of
from care_mm.datasets.paths import is_url, paths_of
from care_mm.errors import InputError

WEIGHTS_PAGE = "https://github.com/zhouyuan888888/CARE-Transformer"


def _is_missing(path: str) -> bool:
    return not is_url(path) and not Path(path).expanduser().is_file()


def check_weights(config: Config) -> None:
    """Check that the files of every ``init_cfg`` and ``teacher_checkpoint`` exist.

    Raises:
        InputError: Names the first missing file, how to get it, and how to train without it.
    """
    for node in find(config.model, is_pretrained):
        path = node["checkpoint"]
        if _is_missing(path):
            raise InputError(
                f"ImageNet weights {path} are missing: save the authors' checkpoint "
                f"({WEIGHTS_PAGE}) under that name, without converting it, or give --from-scratch "
                "to train without"
            )
    for node in find(
        config.model, lambda node: node.get("teacher") and node.get("teacher_checkpoint")
    ):
        path = node["teacher_checkpoint"]
        if _is_missing(path):
            raise InputError(
                f"teacher_checkpoint {path}: no such file; save the teacher's weights there, or "
                "train without a teacher (--cfg-options model.teacher=None)"
            )


def check_annotations(config: Config, splits: tuple[str, ...]) -> None:
    """Refuse annotations that ``tools/check_data.py`` refuses, and log its notes on them.

    Only the first process of a run reads them, and no image is opened. For images with more objects
    than COCO's mAP counts, and with ``iou_thrs``, ``CocoMetric`` becomes ``DenseCocoMetric``.

    Args:
        config: The config; its evaluators are changed in place. The first process alone evaluates.
        splits: Any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        InputError: Names the first problem and its fix.
    """
    if os.environ.get("RANK", "0") != "0" or os.environ.get("SLURM_PROCID", "0") != "0":
        return
    for findings in refuse_bad_annotations(config, splits):
        for line in list(findings.lines())[1:]:
            print_log(f"{findings.title} data: {line.strip()}", logger="current")
        evaluator = config.get(f"{findings.title.split()[0]}_evaluator")
        for metric in metrics_of(evaluator):
            needed = findings.is_dense or metric.get("iou_thrs") is not None
            if needed and type_name(metric) == "CocoMetric":
                metric["type"] = "DenseCocoMetric"


def check_data(config: Config, splits: tuple[str, ...]) -> None:
    """Check that the annotation files and folders of the data sets exist.

    Data sets of type ``Shapes`` are skipped, since they draw themselves.

    Args:
        config: The config.
        splits: Any of ``'train'``, ``'val'`` and ``'test'``.

    Raises:
        InputError: Names the first missing path and the fix.
    """
    for split in splits:
        loader = config.get(f"{split}_dataloader") or {}
        for dataset in find(loader.get("dataset", {}), lambda node: "type" in node):
            if type_name(dataset) == "Shapes" or not (
                "data_root" in dataset or "ann_file" in dataset
            ):
                continue
            for path in paths_of(dataset):
                if not path.exists():
                    raise InputError(
                        f"{split} data: {path} does not exist; arrange the data as docs/data.md "
                        f"shows, or set {split}_dataloader.dataset.data_root with --cfg-options"
                    )
