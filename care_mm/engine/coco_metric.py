"""mmdet's COCO metric for dense data, and evaluated by faster-coco-eval instead of pycocotools.

The maintained fork of mmdet has a ``FasterCocoMetric``, the original mmdet does not. It also
computes mAP over the largest of ``proposal_nums`` detections instead of 100.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from mmdet.evaluation.metrics import CocoMetric, coco_metric
from mmengine.logging import print_log
from mmengine.registry import METRICS
from pycocotools.cocoeval import COCOeval

from care_mm.datasets.check.objects import MAX_COUNTED
from care_mm.errors import InputError


class _CountsAll:
    """Let COCO's evaluation count as many detections of a class as the densest image has objects.

    COCO counts 100 for mAP, and images of COCO have fewer objects of a class. A model that finds
    all of 300 nuclei would have an mAP of a third. Where no image has more than 100, all values are
    COCO's.
    """

    def evaluate(self) -> None:
        """Match the detections; as many as the densest image has objects, or as requested."""
        self.params.iouThrs = np.asarray(self.params.iouThrs)  # a list has no 0.5 for pycocotools
        images, classes = set(self.params.imgIds), set(self.params.catIds)
        counts = Counter(
            (row["image_id"], row["category_id"])
            for row in self.cocoGt.anns.values()
            if not row.get("iscrowd")
            and row["image_id"] in images
            and row["category_id"] in classes
        )
        self.densest = max(counts.values(), default=0)
        if self.densest > MAX_COUNTED:
            self.params.maxDets[-1] = max(self.params.maxDets[-1], self.densest)
        super().evaluate()

    def summarize(self) -> None:
        """Compute the summary of pycocotools; of dense data, mAP counts the largest number."""
        COCOeval.summarize(self)
        if self.densest > MAX_COUNTED:
            precision = self.eval["precision"][:, :, :, 0, -1]  # all sizes, most detections
            self.stats[0] = np.mean(precision[precision > -1])
            print(
                f" mAP counts {self.params.maxDets[-1]} detections of each class, since an image "
                f"has {self.densest} objects of a class: {self.stats[0]:0.3f}"
            )


class _DenseCOCOeval(_CountsAll, COCOeval):
    """The evaluation of pycocotools."""


DENSE_CLASSES = {"COCOeval": _DenseCOCOeval, "COCOevalMP": _DenseCOCOeval}


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

    class FastCOCOeval(_CountsAll, COCOeval_faster):
        """With the summary of pycocotools; its own takes AP over another number of detections."""

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
def _in_mmdet(classes: Mapping[str, type]) -> Iterator[None]:
    """Replace classes in the module of mmdet's metric, which looks them up there."""
    # Patch, see docs/reliability.md; tested on mmdet 3.3.0 and onedl-mmdetection 3.5.1.
    before = {name: getattr(coco_metric, name) for name in classes}
    vars(coco_metric).update(classes)
    try:
        yield
    finally:
        vars(coco_metric).update(before)


@METRICS.register_module(force=True)  # replaces the entry of care_mm.registration
class DenseCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric``, whose mAP counts all objects of images with over 100 of a class.

    ``bbox_mAP`` and ``segm_mAP`` count as many detections of a class as the densest image has
    objects of it. Without such images, all values are those of ``CocoMetric``. Training and testing
    replace ``CocoMetric`` by it where the data need it, and where ``iou_thrs`` is given, of which a
    list makes ``mAP_50`` -1 in ``CocoMetric``.
    """

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the metrics by name, as ``CocoMetric`` does."""
        with _in_mmdet(DENSE_CLASSES):
            return super().compute_metrics(results)


@METRICS.register_module(force=True)  # replaces the entry of care_mm.registration
class FastCocoMetric(DenseCocoMetric):
    """``DenseCocoMetric``, with the same arguments, names and values, evaluated in C++.

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
            with _in_mmdet(fast_classes()):
                super().__init__(**settings)
        except _NotForC as error:
            self._use_pycocotools(error)
            super().__init__(**settings)

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Return the metrics by name, as ``CocoMetric`` does."""
        if self._is_fast:
            try:
                with _in_mmdet(fast_classes()):
                    return CocoMetric.compute_metrics(self, results)
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
