"""The rating of one image: what counts as found, false and missed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from care_mm.report.rating import by_class, rate, task_of
from care_mm.tasks import Task

CLASSES = ("a", "b", "c")


def detections(boxes: list, labels: list, scores: list, truth: list, true_labels: list):
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes).float().reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.long),
        scores=torch.tensor(scores),
    )
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(truth).float().reshape(-1, 4),
        labels=torch.tensor(true_labels, dtype=torch.long),
    )
    return sample


BOX, FAR = [0, 0, 10, 10], [50, 50, 60, 60]


@pytest.mark.parametrize(
    ("predicted", "counts", "quality"),
    [
        (([BOX], [0], [0.9]), [1, 0, 0], 1),
        (([BOX, BOX], [0, 0], [0.9, 0.8]), [1, 1, 0], 2 / 3),  # an object counts once
        (([BOX], [1], [0.9]), [0, 1, 1], 0),  # the class counts
        (([BOX], [0], [0.4]), [0, 0, 1], 0),  # score below the threshold
        (([[0, 0, 10, 4]], [0], [0.9]), [0, 1, 1], 0),  # overlaps too little
        (([], [], []), [0, 0, 1], 0),
    ],
)
def test_detections_are_matched_to_objects(predicted: tuple, counts: list, quality: float) -> None:
    rating = rate(detections(*predicted, [BOX], [0]), CLASSES, 0.5)
    assert rating.counts.sum(0).tolist() == counts
    assert rating.quality == pytest.approx(quality)


def test_detection_with_the_higher_score_is_matched() -> None:
    """The other one comes first and overlaps more."""
    sample = detections([BOX, [0, 0, 10, 9]], [0, 0], [0.6, 0.9], [BOX], [0])
    assert rate(sample, CLASSES, 0.5).counts.sum(0).tolist() == [1, 1, 0]


def test_detections_in_a_crowd_are_not_false() -> None:
    sample = detections([BOX, FAR], [0, 1], [0.9, 0.9], [], [])
    sample.ignored_instances = InstanceData(bboxes=torch.tensor([[45.0, 45, 80, 80]]))
    assert rate(sample, CLASSES, 0.5).counts.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_image_without_objects_and_detections_is_perfect() -> None:
    assert rate(detections([], [], [], [], []), CLASSES, 0.5).quality == 1


def test_of_equally_bad_images_the_one_with_more_errors_comes_first() -> None:
    one = rate(detections([], [], [], [BOX], [0]), CLASSES, 0.5)
    two = rate(detections([], [], [], [BOX, FAR], [0, 0]), CLASSES, 0.5)
    assert one.quality == two.quality == 0 and two.order < one.order


def test_segmentation_ignores_unlabelled_pixels() -> None:
    sample = SegDataSample()
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[0, 0, 1, 1], [2, 0, 1, 1]]]))
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[0, 0, 0, 1], [255, 255, 1, 1]]]))
    rating = rate(sample, CLASSES, 0.5)
    assert rating.counts.tolist() == [[2, 0, 1], [3, 1, 0], [0, 0, 0]]
    assert rating.quality == pytest.approx((2 / 3 + 3 / 4) / 2)
    assert "lowest: a 0.67" in rating.remark


@pytest.mark.parametrize(("truth", "counts"), [(1, [1, 0, 0]), (0, [0, 1, 1])])
def test_classification_is_rated_by_the_true_class(truth: int, counts: list) -> None:
    sample = DataSample().set_gt_label(truth).set_pred_score(torch.tensor([0.2, 0.7, 0.1]))
    rating = rate(sample, CLASSES, 0.5)
    assert rating.counts.sum(0).tolist() == counts
    assert rating.quality == pytest.approx([0.2, 0.7][truth])


def test_image_without_truth_is_not_rated() -> None:
    sample = SegDataSample()
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, 2, 2, dtype=torch.long))
    assert rate(sample, CLASSES, 0.5) is None


def test_each_task_has_its_measure_per_class() -> None:
    counts = np.array([[2, 1, 1], [0, 0, 0]])
    assert by_class(Task.DETECTION, counts)[0] == pytest.approx(2 / 3)
    assert by_class(Task.SEGMENTATION, counts)[0] == pytest.approx(0.5)
    assert by_class(Task.CLASSIFICATION, counts)[0] == pytest.approx(2 / 3)
    assert np.isnan(by_class(Task.DETECTION, counts)[1])


def test_image_with_several_true_labels_is_not_rated() -> None:
    sample = DataSample().set_gt_label([0, 1]).set_pred_score(torch.tensor([0.2, 0.7, 0.1]))
    assert task_of(sample) is None and rate(sample, CLASSES, 0.5) is None
