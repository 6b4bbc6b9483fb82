"""Rate how well one image was predicted, to find the worst images; no benchmark metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from care_mm.tasks import Task, task_of_sample

IGNORED = 255  # label of pixels without one, unless the data set has another
IOU = 0.5  # minimum overlap of a detection and its object

# The measure of a class, see by_class.
MEASURES = {Task.DETECTION: "F1", Task.SEGMENTATION: "IoU", Task.CLASSIFICATION: "recall"}


@dataclass(frozen=True)
class Rating:
    """The rating of one image.

    Attributes:
        quality: From 0 to 1. Detection: F1 of the objects. Segmentation: mean IoU over the classes
            in truth or prediction. Classification: probability of the true class.
        counts: (classes, 3): hits, false alarms and misses, of objects, pixels or images.
        remark: The rating in words.
    """

    quality: float
    counts: np.ndarray
    remark: str

    @property
    def order(self) -> tuple[float, int]:
        """Sort key, the worst first; of equally bad images the one with more errors."""
        return self.quality, -int(self.counts[:, 1:].sum())


def task_of(sample: Any) -> Task | None:
    """Return the task of a data sample; ``None`` if it has no truth to compare with."""
    task = task_of_sample(sample)
    if task is Task.CLASSIFICATION:
        single = "pred_score" in sample and "gt_label" in sample and sample.gt_label.numel() == 1
        return task if single and sample.get("pred_label", sample.gt_label).numel() == 1 else None
    truth = {Task.DETECTION: "gt_instances", Task.SEGMENTATION: "gt_sem_seg"}
    return task if task and truth[task] in sample else None


def by_class(task: Task, counts: np.ndarray) -> np.ndarray:
    """Return the task's measure for each class from (classes, 3) counts; NaN for an absent class.

    Detection: F1. Segmentation: IoU. Classification: recall.
    """
    hits, false, missed = counts.astype(float).T
    with np.errstate(invalid="ignore"):
        if task is Task.DETECTION:
            return 2 * hits / (2 * hits + false + missed)
        return hits / (hits + missed + (false if task is Task.SEGMENTATION else 0))


def rate(
    sample: Any, classes: Sequence[str], score_thr: float, ignored: int = IGNORED
) -> Rating | None:
    """Compare a prediction with the truth in its data sample.

    Args:
        sample: The data sample of any task.
        classes: Names of all classes.
        score_thr: Detections below this score are ignored.
        ignored: Label of pixels that are not counted.

    Returns:
        ``None`` if :func:`task_of` returns ``None``.
    """
    task = task_of(sample)
    if task is Task.DETECTION:
        return _detection(sample, len(classes), score_thr)
    if task is Task.SEGMENTATION:
        return _segmentation(sample, classes, ignored)
    return _classification(sample, classes) if task else None


def _detection(sample: Any, num_classes: int, score_thr: float) -> Rating:
    """Match boxes greedily, highest score first, to the object of their class with the largest IoU.

    Unmatched boxes inside a crowd region are not false.
    """
    from mmdet.structures.bbox import bbox_overlaps, get_box_tensor

    predicted, truth = sample.pred_instances, sample.gt_instances
    kept = torch.nonzero(predicted.scores >= score_thr).flatten()
    kept = kept[predicted.scores[kept].argsort(descending=True)].cpu()
    boxes, labels = predicted.bboxes.cpu()[kept], predicted.labels.cpu()[kept]
    true_boxes, true_labels = get_box_tensor(truth.bboxes).cpu().float(), truth.labels.cpu()
    overlaps = bbox_overlaps(boxes, true_boxes)
    overlaps[labels[:, None] != true_labels[None]] = 0
    in_crowd = torch.zeros(len(boxes), dtype=torch.bool)
    crowds = sample.get("ignored_instances")
    if crowds is not None and len(crowds.bboxes):
        crowd_boxes = get_box_tensor(crowds.bboxes).cpu().float()
        in_crowd = (bbox_overlaps(boxes, crowd_boxes, mode="iof") > IOU).any(1)
    counts = np.zeros((num_classes, 3), dtype=np.int64)
    unmatched = torch.ones(len(true_boxes), dtype=torch.bool)
    for i, label in enumerate(labels.tolist()):
        candidates = overlaps[i] * unmatched
        j = int(candidates.argmax()) if len(candidates) else -1
        if j >= 0 and candidates[j] >= IOU:
            unmatched[j] = False
            counts[label, 0] += 1
        elif not in_crowd[i]:
            counts[label, 1] += 1
    np.add.at(counts[:, 2], true_labels[unmatched].numpy(), 1)
    hits, false, missed = counts.sum(0).tolist()
    errors = false + missed
    return Rating(
        2 * hits / (2 * hits + errors) if hits + errors else 1.0,
        counts,
        f"{hits} found, {missed} missed, {false} false",
    )


def _segmentation(sample: Any, classes: Sequence[str], ignored: int) -> Rating:
    """Count pixels as mmseg's metric does: labels beyond the classes do not count."""
    number = len(classes)
    predicted = sample.pred_sem_seg.data.flatten().cpu().numpy().astype(np.int64)
    truth = sample.gt_sem_seg.data.flatten().cpu().numpy().astype(np.int64)
    counted = (truth != ignored) & (truth < number) & (predicted < number)
    predicted, truth = predicted[counted], truth[counted]
    table = np.bincount(truth * number + predicted, minlength=number**2).reshape(number, number)
    hits = table.diagonal()
    counts = np.stack((hits, table.sum(0) - hits, table.sum(1) - hits), axis=1)
    values = by_class(Task.SEGMENTATION, counts)
    if np.isnan(values).all():
        return Rating(1.0, counts, "no pixel is labelled")
    worst = int(np.nanargmin(values))
    quality = float(np.nanmean(values))
    remark = f"mean IoU {quality:.2f}; lowest: {classes[worst]} {values[worst]:.2f}"
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
    remark = f"{classes[truth]} ({probability:.2f}), predicted {classes[label]} ({score:.2f})"
    return Rating(probability, counts, remark)
