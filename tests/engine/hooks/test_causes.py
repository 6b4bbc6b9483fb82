"""The error for a NaN names its cause: the batch, then the weights, then the learning rate."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from mmcv.transforms import Compose
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from tiny_job import error_of, finish, settings
from torch import nn

from care_mm.datasets.transforms import transforms_of, unfiltered_cut
from care_mm.engine.hooks import ensure_guards
from care_mm.engine.hooks.causes import find_cause
from care_mm.errors import InputError

GOOD = ((2.0, 3.0, 9.0, 8.0),)
CROP = dict(type="RandomCrop", crop_size=(8, 8), recompute_bbox=True)
FILTER = dict(type="FilterAnnotations")


def dataset_of(*pipeline: dict, classes: int = 2) -> SimpleNamespace:
    metainfo = dict(classes=tuple("abcdefgh"[:classes]))
    return SimpleNamespace(pipeline=list(pipeline), metainfo=metainfo)


def detection(boxes: Any = GOOD, labels: Any = (0,), masks: Any = None) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(img_path="folder/a.jpg", img_shape=(16, 20)))
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.tensor(boxes)), labels=torch.tensor(labels)
    )
    if masks is not None:
        sample.gt_instances.masks = BitmapMasks(np.asarray(masks, np.uint8), 16, 20)
    return sample


def cause_of(*samples: Any, dataset: Any = None, model: nn.Module | None = None) -> str | None:
    batch = dict(inputs=[torch.zeros(3, 16, 20)] * len(samples), data_samples=list(samples))
    return find_cause(batch, model or nn.Linear(2, 2), dataset or dataset_of())


def test_sound_batch_and_weights_have_no_cause() -> None:
    masks = np.ones((1, 16, 20))
    assert cause_of(detection(masks=masks), dataset=dataset_of(CROP)) is None


@pytest.mark.parametrize(
    ("box", "says"),
    [
        ((4.0, 1.0, 4.0, 9.0), "box 1 of a.jpg has no width"),
        ((4.0, 9.0, 8.0, 9.0), "box 1 of a.jpg has no height"),
        ((30.0, 1.0, 34.0, 9.0), "box 1 of a.jpg is outside of the image"),
        ((float("nan"), 1.0, 34.0, 9.0), "box 1 of a.jpg is not finite"),
    ],
)
def test_bad_box_is_named(box: tuple, says: str) -> None:
    cause = cause_of(detection(), detection((*GOOD, box), (0, 0)))
    assert cause.startswith(says)
    assert "check_data.py" in cause


def test_box_that_a_crop_emptied_names_the_crop_and_the_filter() -> None:
    sample = detection((*GOOD, (4.0, 1.0, 4.0, 9.0)), (0, 0))
    expected = "no width after RandomCrop: put FilterAnnotations behind RandomCrop"
    assert expected in cause_of(sample, dataset=dataset_of(FILTER, CROP))
    assert "after RandomCrop" not in cause_of(sample, dataset=dataset_of(CROP, FILTER))


def test_many_bad_boxes_are_counted() -> None:
    cause = cause_of(detection(((1.0, 1.0, 1.0, 2.0),) * 5, (0,) * 5))
    assert "box 2 of" in cause and "box 3 of" not in cause and "and 2 more: " in cause


def test_label_beyond_the_classes_is_named() -> None:
    assert "an object in a.jpg has label 2: the classes are 0 to 1" in cause_of(
        detection(labels=(2,))
    )
    image = DataSample(metainfo=dict(img_path="b.jpg")).set_gt_label(7)
    assert "the image in b.jpg has label 7" in cause_of(image)


def test_mask_without_a_pixel_is_named() -> None:
    sample = detection(masks=np.zeros((1, 16, 20)))
    assert cause_of(sample).startswith("mask 0 of a.jpg has no pixel")


def test_pixels_that_are_not_finite_are_named() -> None:
    batch = dict(inputs=[torch.full((3, 4, 4), float("inf"))], data_samples=[detection()])
    assert "a.jpg has pixels that are not finite" in find_cause(batch, nn.Linear(2, 2))


def test_deviation_of_zero_is_named() -> None:
    model = nn.Linear(2, 2)
    model.data_preprocessor = SimpleNamespace(std=torch.tensor([1.0, 0.0, 1.0]))
    assert "data_preprocessor.std has a 0" in cause_of(detection(), model=model)


def test_batch_of_ignored_pixels_is_named() -> None:
    model = nn.Linear(2, 2)
    model.ignore_index = 100
    sample = SegDataSample(gt_sem_seg=PixelData(data=torch.full((1, 4, 4), 100)))
    assert "every pixel of the batch has the ignored label 100" in cause_of(sample, model=model)
    sample.gt_sem_seg.data[0, 0, 0] = 1
    assert cause_of(sample, model=model) is None


def test_weights_that_were_not_finite_before_the_step_are_named() -> None:
    model = nn.Linear(2, 2)
    model.bias.data[0] = float("nan")
    cause = find_cause({}, model, start="start.pth")
    assert cause == "bias was not finite before this step: check start.pth"


def test_transforms_are_found_inside_wrappers() -> None:
    inner = dict(type="CocoDataset", pipeline=[dict(type="LoadImageFromFile"), FILTER])
    choice = dict(type="RandomChoice", transforms=[[dict(type="Resize", scale=(8, 8))], [CROP]])
    node = dict(type="MultiImageMixDataset", dataset=inner, pipeline=[choice])
    names = [transform["type"] for transform in transforms_of(node)]
    assert names == ["LoadImageFromFile", "FilterAnnotations", "Resize", "RandomCrop"]
    assert unfiltered_cut(node) == "RandomCrop"
    jitter = dict(type="RandomResize", scale=(8, 8), ratio_range=(0.1, 2.0))
    assert unfiltered_cut([jitter]) == "RandomResize"
    assert unfiltered_cut([{**jitter, "ratio_range": (0.5, 2.0)}]) is None
    with DefaultScope.overwrite_default_scope("mmdet"):
        built = SimpleNamespace(dataset=SimpleNamespace(pipeline=Compose([FILTER, choice])))
    assert [type(transform).__name__ for transform in transforms_of(built)] == names[1:]
    assert unfiltered_cut(built) == "RandomCrop"


def test_run_that_ends_says_the_cause(tmp_path: Path) -> None:
    assert finish(tmp_path / "run", nan_at=2, rounds=1) == 2
    assert "batch and weights are sound, so lower the learning rate" in error_of(tmp_path / "run")
    config = settings(tmp_path / "damaged", rounds=1)
    ensure_guards(config)
    runner = Runner.from_cfg(config)
    runner.model.head.bias.data[0] = float("nan")
    with pytest.raises(InputError, match=r"likely cause: head\.bias was not finite before"):
        runner.train()
