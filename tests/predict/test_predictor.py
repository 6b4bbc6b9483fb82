"""Records of predictions, and errors that name the image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from PIL import Image
from pycocotools import mask as mask_coder
from untrained import CONFIGS, write_checkpoint

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.predict.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    file = write_checkpoint("classification", tmp_path_factory.mktemp("checkpoints"))
    predictor = Predictor(load_config(CONFIGS["classification"]), file, "cpu")
    predictor.dataset_meta = {"classes": ("ball", "cube")}
    return predictor


def test_records_hold_the_predictions_of_each_task(predictor: Predictor) -> None:
    detection = DetDataSample()
    detection.pred_instances = InstanceData(
        bboxes=torch.tensor([[1.0, 2.0, 3.0, 4.0]]),
        labels=torch.tensor([1]),
        scores=torch.tensor([0.25]),
        masks=torch.ones(1, 4, 5, dtype=torch.bool),
    )
    segmentation = SegDataSample()
    segmentation.pred_sem_seg = PixelData(data=torch.tensor([[[0, 1, 1, 1]]]))
    classification = DataSample().set_pred_score(torch.tensor([0.1, 0.9])).set_pred_label(1)
    records = [predictor.record(s) for s in (detection, segmentation, classification)]
    mask = records[0]["instances"][0].pop("mask")
    assert mask["size"] == [4, 5]
    instance = {"label": 1, "class": "cube", "score": 0.25, "bbox": [1.0, 2.0, 3.0, 4.0]}
    assert records == [
        {"instances": [instance]},
        {"classes": {"ball": 0.25, "cube": 0.75}},
        {"label": 1, "class": "cube", "score": 0.9},
    ]
    assert json.loads(json.dumps(records)) == records


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (30, 40)])
def test_masks_are_recorded_as_they_are(predictor: Predictor, size: tuple[int, int]) -> None:
    masks = torch.rand(2, *size, generator=torch.Generator().manual_seed(0)) > 0.5
    sample = DetDataSample()
    sample.pred_instances = InstanceData(
        bboxes=torch.ones(2, 4), labels=torch.tensor([0, 1]), scores=torch.ones(2), masks=masks
    )
    records = predictor.record(sample)["instances"]
    for record, expected in zip(records, masks.numpy(), strict=True):
        np.testing.assert_array_equal(mask_coder.decode(record["mask"]), expected)


def test_classes_without_a_name_are_recorded_by_number(predictor: Predictor) -> None:
    sample = DataSample().set_pred_score(torch.tensor([0.1, 0.2, 0.7])).set_pred_label(2)
    assert predictor.record(sample)["class"] == "2"


def test_grey_frame_is_drawn_as_rgb_at_its_own_size(predictor: Predictor) -> None:
    loaded = predictor.read_frame(np.full((40, 50, 1), 90, np.uint8), "frame 0")
    sample = DataSample().set_pred_score(torch.tensor([0.1, 0.9])).set_pred_label(1)
    assert predictor.draw(loaded, sample).shape == (520, 650, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"<html>", "a text file, perhaps an error page"),
        (b"version https://git-lfs.example\n", "a Git LFS pointer"),
        (b"no image", "cannot identify image file"),
    ],
)
def test_image_that_cannot_be_read_is_named_with_the_reason(
    predictor: Predictor, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "broken.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"image .*broken\.png: cannot be read \({reason}"):
        predictor.read(tmp_path / "broken.png")


def test_image_that_the_pipeline_rejects_is_named(predictor: Predictor, tmp_path: Path) -> None:
    Image.new("RGB", (20, 10)).save(tmp_path / "image.png")
    loaded = predictor.read(tmp_path / "image.png")
    loaded["img"] = None
    with pytest.raises(InputError, match=r"image .*image\.png: "):
        predictor.prepare(loaded)
