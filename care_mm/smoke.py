"""Smoke tests of the environment: an mmcv operator, a backbone step, a detector step."""

from __future__ import annotations

from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from care_mm.config import without_pretrained
from care_mm.environment import FIX
from care_mm.errors import InputError, one_line
from care_mm.models.backbone import CARETransformer


def run_operator(device: str) -> None:
    """Run mmcv's NMS, because mmcv imports even without its compiled operators.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: The operator does not run, or its result is wrong.
    """
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    try:
        from mmcv.ops import nms

        kept = nms(boxes, scores, iou_threshold=0.5)[1].tolist()
    except ImportError as error:
        raise InputError(
            f"mmcv's operators are not compiled ({error}): install it again with torch already "
            "there, see docs/install.md"
        ) from error
    except RuntimeError as error:
        raise InputError(
            f"mmcv's operators do not run on {device} ({one_line(error)}): see 'With "
            "a GPU' in docs/install.md, or set CUDA_VISIBLE_DEVICES= to use the CPU only"
        ) from error
    if kept != [0, 2]:
        raise InputError(f"mmcv.ops.nms on {device} keeps boxes {kept} instead of [0, 2]: {FIX}")


def step_backbone(device: str) -> None:
    """Run CARE-S0 forward and backward on two images of 64x64 pixels.

    Args:
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: A parameter without a finite gradient.
    """
    backbone = CARETransformer("s0").to(device)
    features = backbone(torch.rand(2, 3, 64, 64, device=device))
    sum(feature.square().mean() for feature in features).backward()
    _refuse_missing_gradients(backbone, f"CARE-S0 on {device}")


def step_detector(device: str, config: Path) -> None:
    """Run one training step of a detector on two noise images with boxes and masks.

    Needs mmdet.

    Args:
        device: ``cpu`` or ``cuda``.
        config: Config file of the detector.

    Raises:
        InputError: A loss or gradient that is not finite.
    """
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs

    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MODELS.build(without_pretrained(Config.fromfile(config).model))
        model.to(device).train()
        batch = demo_mm_inputs(2, (3, 96, 128), num_items=[1, 2], num_classes=6, with_mask=True)
        losses = model(**model.data_preprocessor(batch, True), mode="loss")
        total, logged = model.parse_losses(losses)
        total.backward()
    for name, value in logged.items():
        if not value.isfinite():
            raise InputError(f"{config.name} on {device}: {name} is {value}: {FIX}")
    _refuse_missing_gradients(model, f"{config.name} on {device}")


def _refuse_missing_gradients(model: nn.Module, name: str) -> None:
    for key, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            raise InputError(f"{name}: {key} gets no finite gradient: {FIX}")
