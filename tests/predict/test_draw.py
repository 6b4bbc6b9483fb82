"""Drawing of detections, also of those with next to nothing to draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from untrained import CONFIGS

from care_mm.config import load_config
from care_mm.predict.draw import draw, offline_visualizer

BOX, EMPTY = (8.0, 8.0, 24.0, 24.0), (0.0, 0.0, 0.0, 0.0)


def drawn(boxes: list[tuple], masked: list[bool]) -> np.ndarray:
    config = load_config(CONFIGS["detection"])
    init_default_scope("mmdet")
    visualizer = offline_visualizer(config, dict(classes=("ball", "cube")))
    masks = torch.zeros(len(boxes), 32, 32, dtype=torch.bool)
    for mask, filled in zip(masks, masked, strict=True):
        mask[8:24, 8:24] = filled
    sample = DetDataSample(img_path="image.png")
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor(boxes),
        scores=torch.full((len(boxes),), 0.9),
        labels=torch.zeros(len(boxes), dtype=torch.long),
        masks=masks,
    )
    return draw(visualizer, np.full((32, 32, 3), 255, np.uint8), sample)


@pytest.mark.parametrize("number", [1, 3])
def test_empty_masks_in_empty_boxes_are_not_drawn(number: int) -> None:
    assert (drawn([EMPTY] * number, [False] * number) == 255).all()


@pytest.mark.parametrize(
    ("boxes", "masked"),
    [([BOX], [True]), ([BOX], [False]), ([EMPTY], [True]), ([EMPTY, EMPTY], [False, True])],
    ids=["both", "box alone", "mask alone", "one of two"],
)
def test_whatever_has_a_box_or_a_mask_is_drawn(boxes: list[tuple], masked: list[bool]) -> None:
    assert (drawn(boxes, masked)[160:480, 160:480] != 255).any()  # 20 times as large
