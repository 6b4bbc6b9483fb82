"""How well one image was predicted, in all three tasks; for finding the worst, not for papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

IGNORED = 255  # pixels without a label
IOU = 0.5  # boxes that overlap as much are one object


@dataclass(frozen=True)
class Rating:
    """One image.

    Attributes:
        quality: From 0 to 1. Detection: F1 of the objects. Segmentation: mean IoU over the classes
            in truth or prediction. Classification: probability of the true class.
        counts: (classes, 3): hits, false alarms and misses, of objects, pixels or images.
        remark: The same in words.
    """

    quality: float
    counts: np.ndarray
    remark: str

    @property
    def order(self) -> tuple[float, int]:
        """Sorts the worst to the front: of equally bad ones those with more errors."""
        return self.quality, -int(self.counts[:, 1:].sum())


MEASURES = {"detection": "F1", "segmentation": "IoU", "classification": "recall"}


def task_of(sample: Any) -> str | None:
    """What a data sample was predicted for; ``None`` if it has no truth to compare with."""
    if "pred_instances" in sample:
        return "detection" if "gt_instances" in sample else None
    if "pred_sem_seg" in sample:
        return "segmentation" if "gt_sem_seg" in sample else None
    if "pred_score" in sample and "gt_label" in sample and sample.gt_label.numel() == 1:
        return "classification"
    return None


def by_class(task: str, counts: np.ndarray) -> np.ndarray:
    """The task's measure for each class from (classes, 3) counts; NaN for a class that never was.

    Detection: F1. Segmentation: IoU. Classification: recall.
    """
    hits, false, missed = counts.astype(float).T
    with np.errstate(invalid="ignore"):
        if task == "detection":
            return 2 * hits / (2 * hits + false + missed)
        return hits / (hits + missed + (false if task == "segmentation" else 0))


def rate(sample: Any, classes: Sequence[str], score_thr: float) -> Rating | None:
    """Compare a prediction with the truth in its data sample.

    Args:
        sample: The task's.
        classes: Names of all classes.
        score_thr: Detections below it are none.

    Returns:
        ``None`` where :func:`task_of` knows of none.
    """
    task = task_of(sample)
    if task == "detection":
        return _detection(sample, len(classes), score_thr)
    if task == "segmentation":
        return _segmentation(sample, classes)
    return _classification(sample, classes) if task else None


def _detection(sample: Any, num_classes: int, score_thr: float) -> Rating:
    """Boxes, the surest first, each take the object of their class that they overlap most."""
    from mmdet.structures.bbox import bbox_overlaps, get_box_tensor

    found, truth = sample.pred_instances, sample.gt_instances
    sure = torch.nonzero(found.scores >= score_thr).flatten()
    sure = sure[found.scores[sure].argsort(descending=True)].cpu()
    boxes, labels = found.bboxes.cpu()[sure], found.labels.cpu()[sure]
    true_boxes, true_labels = get_box_tensor(truth.bboxes).cpu().float(), truth.labels.cpu()
    overlaps = bbox_overlaps(boxes, true_boxes)
    overlaps[labels[:, None] != true_labels[None]] = 0
    spared = torch.zeros(len(boxes), dtype=torch.bool)
    crowds = sample.get("ignored_instances")
    if crowds is not None and len(crowds.bboxes):  # what lies in a crowd is not wrong
        crowd_boxes = get_box_tensor(crowds.bboxes).cpu().float()
        spared = (bbox_overlaps(boxes, crowd_boxes, mode="iof") > IOU).any(1)
    counts = np.zeros((num_classes, 3), dtype=np.int64)
    free = torch.ones(len(true_boxes), dtype=torch.bool)
    for i, label in enumerate(labels.tolist()):
        candidates = overlaps[i] * free
        j = int(candidates.argmax()) if len(candidates) else -1
        if j >= 0 and candidates[j] >= IOU:
            free[j] = False
            counts[label, 0] += 1
        elif not spared[i]:
            counts[label, 1] += 1
    np.add.at(counts[:, 2], true_labels[free].numpy(), 1)
    hits, false, missed = counts.sum(0).tolist()
    errors = false + missed
    return Rating(
        2 * hits / (2 * hits + errors) if hits + errors else 1.0,
        counts,
        f"{hits} found, {missed} missed, {false} false",
    )


def _segmentation(sample: Any, classes: Sequence[str]) -> Rating:
    predicted = sample.pred_sem_seg.data.flatten().cpu().numpy()
    truth = sample.gt_sem_seg.data.flatten().cpu().numpy()
    predicted, truth = predicted[truth != IGNORED], truth[truth != IGNORED]
    number = len(classes)
    table = np.bincount(truth * number + predicted, minlength=number**2).reshape(number, number)
    hits = table.diagonal()
    counts = np.stack((hits, table.sum(0) - hits, table.sum(1) - hits), axis=1)
    values = by_class("segmentation", counts)
    if np.isnan(values).all():
        return Rating(1.0, counts, "nothing is labelled")
    worst = int(np.nanargmin(values))
    quality = float(np.nanmean(values))
    remark = f"mean IoU {quality:.2f}; least: {classes[worst]} {values[worst]:.2f}"
    return Rating(quality, counts, remark)


def _classification(sample: Any, classes: Sequence[str]) -> Rating:
    truth, label = int(sample.gt_label.item()), int(sample.pred_score.argmax())
    probability = float(sample.pred_score[truth])
    counts = np.zeros((len(classes), 3), dtype=np.int64)
    if label == truth:
        counts[truth, 0] = 1
        return Rating(probability, counts, f"{classes[truth]} ({probability:.2f})")
    counts[label, 1] = counts[truth, 2] = 1
    score = float(sample.pred_score[label])
    remark = f"{classes[truth]} ({probability:.2f}), taken for {classes[label]} ({score:.2f})"
    return Rating(probability, counts, remark)
