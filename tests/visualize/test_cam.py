"""Grad-CAM explains the requested class where it is predicted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from care_mm.predict.predictor import Predictor
from care_mm.visualize import look
from care_mm.visualize.cam import Target, best_detection, choose_target, grad_cam

CLASSES = ("ball", "cube", "star")


def samples() -> dict[str, BaseDataElement]:
    """Return one prediction of each task in which ``cube`` is the default target."""
    detection = DetDataSample()
    detection.pred_instances = InstanceData(
        bboxes=torch.tensor([[0.0, 0, 4, 4], [2.0, 2, 6, 6]]),
        labels=torch.tensor([0, 1]),
        scores=torch.tensor([0.4, 0.8]),
    )
    segmentation = SegDataSample()
    segmentation.pred_sem_seg = PixelData(data=torch.tensor([[[0, 1, 1, 2]]]))
    classification = DataSample().set_pred_score(torch.tensor([0.1, 0.7, 0.2])).set_pred_label(1)
    return dict(detection=detection, segmentation=segmentation, classification=classification)


@pytest.mark.parametrize("task", samples())
def test_default_target_is_the_highest_score_or_the_largest_area(task: str) -> None:
    target = choose_target(samples()[task], CLASSES, None, 0.3)
    assert (target.label, target.name) == (1, "cube")
    assert target.local == (task != "classification")


def test_detections_below_the_threshold_are_no_target() -> None:
    sample = samples()["detection"]
    assert best_detection(sample, 0.3).bboxes.tolist() == [[2, 2, 6, 6]]
    assert best_detection(sample, 0.9) is None
    assert choose_target(sample, CLASSES, None, 0.9) is None


def test_grad_cam_explains_the_requested_class(classifier: Predictor, folder: Path) -> None:
    views = [look(classifier, folder / "image.png", target) for target in ("cube", "1", "star")]
    assert [view.target for view in views] == ["cube", "cube", "star"]
    for stage in (1, 2, 3, 4):
        assert views[0].cam[stage].min() >= 0 and views[0].cam[stage].max() <= 1
    np.testing.assert_allclose(views[0].cam[3], views[1].cam[3], atol=1e-5)
    assert not np.allclose(views[0].cam[3], views[2].cam[3], atol=1e-2)
    assert not any(p.grad is not None for p in classifier.model.parameters())


class Corner(torch.nn.Module):
    """A detector of brightness that sees only the upper left corner."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.PReLU(init=1.0)  # changes nothing, and has a parameter

    def forward(self, x: torch.Tensor, samples: list, mode: str) -> list:
        scores = self.features(x)[..., :8, :8].mean((1, 2, 3)).sigmoid()
        instances = InstanceData(labels=torch.zeros(1, dtype=torch.long), scores=scores)
        return [BaseDataElement(pred_instances=instances)]


def test_map_of_a_detection_is_where_the_detection_is() -> None:
    """Published Grad-CAM highlights another bright place instead."""
    x, model, maps = torch.rand(1, 3, 32, 32), Corner(), {}
    x[..., 20:, 20:] = 9.0
    for local in (True, False):
        target = Target(0, "bright", 0.3, local)
        (maps[local],) = grad_cam(model, [model.features], x.clone(), [None], target)
    assert maps[True].shape == (32, 32) and maps[True][:8, :8].mean() > 0.2
    assert maps[True][8:].max() == maps[True][:, 8:].max() == 0
    assert maps[False][20:, 20:].min() > 0.9
