"""Small models of many families of mmdet and mmseg, batches for them, and one training step."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import nn

from care_mm.config import find, without_pretrained
from care_mm.swap.probe import build

ARCH = dict(
    depths=(1, 1, 1, 1),
    mem_dims=(8, 8, 8, 16),
    interaction_ratios=((2, 2), (2, 2), (2, 2), (2, 2)),
    attn_head_dims=(None, None, 8, 16),
)
SIDES = {"mmdet": 128, "mmseg": 64}  # pixels
# Settings that cost time but do not affect whether the parts fit: key -> maximum.
THIN = {
    "num": 16,  # sampled boxes
    "nms_pre": 50,
    "max_per_img": 10,
    "num_queries": 10,
    "num_proposals": 10,
    "num_points": 112,
    "stacked_convs": 1,
    "num_convs": 1,
    "feedforward_channels": 64,
    "fc_out_channels": 64,
    "subdivision_num_points": 64,
}


def thin(model: Mapping, side: int) -> Any:
    """Return the model config with fewer computations, no weights to load, and small images."""
    model = without_pretrained(copy.deepcopy(model))
    for node in find(model, lambda node: True):
        for key, most in THIN.items():
            if isinstance(node.get(key), int) and node[key] > most:
                node[key] = most
        if "layer_cfg" in node and node.get("num_layers", 0) > 2:
            node["num_layers"] = 2
        if "size" in node and str(node.get("type")).lower().endswith(("preprocessor", "sizepad")):
            node["size"] = (side, side)
    return model


def batch_for(config: Config, square: bool) -> dict:
    """Return a batch of two images with the annotations that the config's pipeline loads.

    Args:
        config: Its pipeline determines whether boxes, masks and semantic maps are loaded.
        square: Give both images one size, for models whose pipeline does so.
    """
    side = SIDES[config.default_scope]
    if config.default_scope == "mmseg":
        return segmentation_batch(side)
    loaders = find(
        config.train_dataloader.dataset, lambda node: "Annotations" in str(node.get("type"))
    )
    loader = next(loader for loader in loaders if "Load" in loader["type"])
    panoptic = loader["type"] == "LoadPanopticAnnotations"
    sizes = [(side, side)] * 2 if square else [(side, side - 32), (side - 16, side)]
    return detection_batch(
        sizes,
        masks=panoptic or loader.get("with_mask", False),
        semantic=panoptic or loader.get("with_seg", False),
        first_stuff=80,
    )


def detection_batch(
    sizes: Sequence[tuple[int, int]], masks: bool, semantic: bool, first_stuff: int
) -> dict:
    """Return noise images of ``sizes`` (height, width), with three boxes each."""
    rng = np.random.default_rng(0)
    boxes = np.array([[8, 8, 56, 72], [40, 30, 90, 100], [60, 4, 80, 28]], np.float32)
    samples = []
    for height, width in sizes:
        drawn = np.zeros((len(boxes), height, width), np.uint8)
        for mask, (x1, y1, x2, y2) in zip(drawn, boxes.astype(int), strict=True):
            mask[y1 + 2 : y2, x1 + 2 : x2] = 1
        sample = DetDataSample(
            metainfo=dict(
                img_id=len(samples),
                img_path="",
                img_shape=(height, width),
                ori_shape=(height, width),
                scale_factor=(1.0, 1.0),
                flip=False,
                border=np.array([0, height, 0, width]),
            )
        )
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(boxes), labels=torch.arange(len(boxes))
        )
        sample.ignored_instances = InstanceData(
            bboxes=HorizontalBoxes(boxes[:0]), labels=torch.arange(0)
        )
        if masks:
            sample.gt_instances.masks = BitmapMasks(drawn, height, width)
            sample.ignored_instances.masks = BitmapMasks(drawn[:0], height, width)
        if semantic:
            labels = torch.full((1, height, width), first_stuff)
            labels[:, height // 2 :] += 1
            for i, mask in enumerate(drawn):
                labels[0, torch.from_numpy(mask).bool()] = i
            sample.gt_sem_seg = PixelData(sem_seg=labels)
        samples.append(sample)
    inputs = [torch.from_numpy(rng.integers(0, 255, (3, *s), dtype=np.uint8)) for s in sizes]
    return {"inputs": inputs, "data_samples": samples}


def segmentation_batch(side: int) -> dict:
    """Return two noise images with four classes in quarters, and a strip to ignore."""
    rng = np.random.default_rng(0)
    half = side // 2
    labels = torch.zeros(1, side, side, dtype=torch.long)
    labels[:, :, half:] += 1
    labels[:, half:] += 2
    labels[:, :8] = 255
    samples = []
    for _ in range(2):
        sample = SegDataSample(
            metainfo=dict(
                img_shape=(side, side),
                ori_shape=(side, side),
                scale_factor=(1.0, 1.0),
                flip=False,
                flip_direction=None,
                reduce_zero_label=False,
            )
        )
        sample.gt_sem_seg = PixelData(data=labels.clone())
        samples.append(sample)
    images = rng.integers(0, 255, (2, 3, side, side), dtype=np.uint8)
    return {"inputs": list(torch.from_numpy(images)), "data_samples": samples}


def build_model(config: Config, overrides: Mapping[str, Any]) -> nn.Module:
    """Build the config's model, thin, with random weights and ``overrides`` below ``model``."""
    scope = config.default_scope
    model = Config(dict(model=thin(config.model, SIDES[scope])))
    model.merge_from_dict({f"model.{key}": value for key, value in overrides.items()})
    built = build(model.model, scope)
    built.init_weights()
    return built


def train_step(model: nn.Module, batch: dict) -> dict[str, float]:
    """Run one forward and backward pass in training mode, and return the losses."""
    for name in ("epoch", "iter"):  # as mmengine's training loop does
        MessageHub.get_current_instance().update_info(name, 0)
    model.train()
    data = model.data_preprocessor(copy.deepcopy(batch), True)
    total, losses = model.parse_losses(model(**data, mode="loss"))
    total.backward()
    return {name: float(value) for name, value in losses.items()}


def predict(model: nn.Module, batch: dict) -> Any:
    """Return the prediction for the first image, as a data sample."""
    model.eval()
    with torch.no_grad():
        (sample,) = model.test_step({key: value[:1] for key, value in batch.items()})
    return sample
