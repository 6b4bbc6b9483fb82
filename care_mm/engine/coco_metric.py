"""mmdet's COCO metric, evaluated by faster-coco-eval instead of pycocotools: equal but faster.

The maintained fork of mmdet has a ``FasterCocoMetric``, the original mmdet does not. It also
computes mAP over the largest of ``proposal_nums`` detections instead of 100.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from care_mm.errors import InputError


@cache
def fast_classes() -> dict[str, type]:
    """Return the classes that replace those of pycocotools, by their names in mmdet's module.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as error:
        raise InputError(
            f"FastCocoMetric needs `pip install faster-coco-eval` ({error}); CocoMetric gives the "
            "same numbers without it"
        ) from error

    class FastCOCOeval(COCOeval_faster):
        """With the summary of pycocotools; its own takes AP over another number of detections."""

        summarize = COCOeval.summarize

    class FastCOCO(COCO):
        """A COCO file that faster-coco-eval evaluates as pycocotools does."""

        def __init__(self, path: str) -> None:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            if not _fits_in_c(content):
                raise _NotForC(path)
            super().__init__(content)

    return {"COCO": FastCOCO, "COCOeval": FastCOCOeval, "COCOevalMP": FastCOCOeval}


@contextmanager
def _fast_classes_in_mmdet() -> Iterator[None]:
    """Replace the classes in the module of mmdet's metric, which looks them up there."""
    # Patch, see docs/reliability.md; tested on mmdet 3.3.0 and onedl-mmdetection 3.5.1.
    before = {name: getattr(coco_metric, name) for name in fast_classes()}
    vars(coco_metric).update(fast_classes())
    try:
        yield
    finally:
        vars(coco_metric).update(before)


@METRICS.register_module(force=True)  # replaces the entry of care_mm.registration
class FastCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric``, with the same arguments, names and values, evaluated in C++.

    To use it, set ``type='FastCocoMetric'`` in the evaluator of a config, or give
    ``--cfg-options val_evaluator.type=FastCocoMetric``.

    Args:
        **settings: Arguments of ``CocoMetric``. ``use_mp_eval`` makes no difference.

    Raises:
        InputError: faster-coco-eval is not installed.
    """

    def __init__(self, **settings: Any) -> None:
        self._is_fast = True
        try:
            with _fast_classes_in_mmdet():
                super().__init__(**settings)
        except _NotForC as error:
            self._use_pycocotools(error)
            super().__init__(**settings)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the metrics by name, as ``CocoMetric`` does."""
        if self._is_fast:
            try:
                with _fast_classes_in_mmdet():
                    return super().compute_metrics(results)
            except _NotForC as error:
                self._use_pycocotools(error)
        return super().compute_metrics(results)

    def _use_pycocotools(self, error: Exception) -> None:
        self._is_fast = False
        print_log(
            f"FastCocoMetric evaluates {error} with pycocotools, since faster-coco-eval needs ids, "
            "flags and sizes that are positive whole numbers",
            logger="current",
        )


class _NotForC(Exception):
    """A COCO file that faster-coco-eval refuses or evaluates otherwise than pycocotools."""


def _fits_in_c(content: Any) -> bool:
    """Whether faster-coco-eval gives the results of pycocotools for the content of a COCO file."""
    columns = (
        ("images", ("id", "width", "height"), 0),
        ("categories", ("id",), 0),
        ("annotations", ("id",), 1),
        ("annotations", ("iscrowd",), 0),
    )
    return all(
        type(row.get(key)) is int and smallest <= row[key] < 2**63
        for table, keys, smallest in columns
        for row in content.get(table) or ()
        for key in keys
    )
