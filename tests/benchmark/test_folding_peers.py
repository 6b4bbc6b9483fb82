"""Norms of mmdet's and mmseg's models fold into their convolutions without a change of outputs."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import init_default_scope
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from care_mm import complexity
from care_mm.benchmark.models import enliven
from care_mm.config import load_config
from care_mm.models.fold import switch_to_deploy

# The norms of BiSeNetV2 and PIDNet that stay follow a pooling, or come before their convolution.
PEERS = {
    "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py": 0,
    "mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py": 0,
    "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py": 0,
    "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py": 0,
    "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py": 1,
    "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py": 14,
    "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py": 0,
}


def flat(outputs: object) -> list[Tensor]:
    return [outputs] if torch.is_tensor(outputs) else [t for part in outputs for t in flat(part)]


@pytest.mark.parametrize(("peer", "remaining"), PEERS.items(), ids=lambda value: str(value)[:20])
@torch.no_grad()
def test_folded_peers_compute_the_same(peer: str, remaining: int) -> None:
    torch.manual_seed(0)
    config = load_config(peer)
    model = enliven(complexity.build(config)).double()
    init_default_scope(config.default_scope)
    images = torch.rand(1, 3, 64, 96, dtype=torch.float64)
    expected = flat(model(images, mode="tensor"))
    actual = flat(switch_to_deploy(model)(images, mode="tensor"))
    for output, reference in zip(actual, expected, strict=True):
        assert reference.std() > 0
        assert (output - reference).abs().max() <= 1e-9 * reference.abs().max()
    assert sum(isinstance(module, _BatchNorm) for module in model.modules()) == remaining


@torch.no_grad()
def test_a_norm_that_does_not_follow_a_plain_convolution_stays() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    layers = nn.Sequential(
        conv, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)
    )
    model = enliven(layers.eval())
    images = torch.rand(1, 3, 16, 16)
    expected = model(images)
    assert torch.equal(switch_to_deploy(model)(images), expected)
