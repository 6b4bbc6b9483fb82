"""A faster backbone gives the same losses and checkpoints."""

from __future__ import annotations

import types

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from untrained import CONFIGS

from care_mm import CARETransformer
from care_mm.config import load_config
from care_mm.engine.hooks.speed import FastBackboneHook
from care_mm.errors import InputError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.backbone = CARETransformer("s0", out_indices=(0, 1), layer_scale_init_value=0.5)
        self.neck = nn.Conv2d(64, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neck(self.backbone(x)[1])


def hooked(model: nn.Module, **options: bool) -> nn.Module:
    hook = FastBackboneHook(**options)
    for _ in range(2):  # a second run of the runner must change nothing
        hook.before_run(types.SimpleNamespace(model=model))
    return model


def test_channels_last_reaches_every_layer_and_keeps_the_numbers() -> None:
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    plain, fast = Model().double(), hooked(Model().double(), channels_last=True)
    layouts = []
    for module in fast.backbone.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda m, a, out: layouts.append(
                    out.is_contiguous(memory_format=torch.channels_last)
                )
            )
    out, expected = fast(x), plain(x)
    assert layouts and all(layouts)
    assert (out - expected).abs().max() <= 1e-12 * expected.abs().max()
    out.square().mean().backward()
    expected.square().mean().backward()
    for actual, reference in zip(fast.parameters(), plain.parameters(), strict=True):
        scale = reference.grad.abs().max()
        assert (actual.grad - reference.grad).abs().max() <= 1e-9 * scale + 1e-12
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_a_backbone_with_a_single_map_returns_it_in_nchw() -> None:
    model = nn.Module()
    model.backbone = nn.Conv2d(3, 8, 3)
    x = torch.rand(1, 3, 9, 9)
    expected = model.backbone(x)
    actual = hooked(model, channels_last=True).backbone(x)
    assert model.backbone.weight.is_contiguous(memory_format=torch.channels_last)
    assert actual.is_contiguous()
    torch.testing.assert_close(actual, expected)


def test_channels_last_keeps_the_losses_of_a_detector() -> None:
    """mmcv's RoIAlign misreads maps that are not NCHW, without an error."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    def losses(hook: bool) -> list[float]:
        config = load_config(CONFIGS["detection"])
        init_default_scope("mmdet")
        torch.manual_seed(0)
        model = MODELS.build(config.model)
        model.init_weights()
        if hook:
            hooked(model, channels_last=True)
        size = {"img_shape": (64, 96), "pad_shape": (64, 96), "batch_input_shape": (64, 96)}
        boxes = torch.tensor([[8.0, 8.0, 40.0, 48.0], [50.0, 20.0, 90.0, 60.0]])
        masks = np.zeros((2, 64, 96), np.uint8)
        masks[0, 8:48, 8:40] = masks[1, 20:60, 50:90] = 1
        sample = DetDataSample(metainfo=size)
        sample.gt_instances = InstanceData(
            bboxes=boxes, labels=torch.tensor([0, 3]), masks=BitmapMasks(masks, 64, 96)
        )
        sample.ignored_instances = InstanceData(bboxes=boxes[:0], labels=torch.tensor([]))
        torch.manual_seed(1)
        np.random.seed(1)
        terms = model.loss(torch.rand(1, 3, 64, 96), [sample]).values()
        return [float(sum(x) if isinstance(x, list) else x) for x in terms]

    assert losses(hook=True) == pytest.approx(losses(hook=False), rel=1e-4, abs=1e-6)


def test_only_the_backbone_is_compiled() -> None:
    model = hooked(Model(), compile=True)
    assert model.backbone._compiled_call_impl is not None
    assert model.neck._compiled_call_impl is None and model._compiled_call_impl is None
    assert model.state_dict().keys() == Model().state_dict().keys()


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="Conv2d has no backbone"):
        hooked(nn.Conv2d(1, 1, 1), channels_last=True)
