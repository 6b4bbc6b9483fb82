"""A faster backbone: the same losses and checkpoints, in another layout."""

from __future__ import annotations

import types

import pytest
import torch
from torch import nn

from care_mm import CARETransformer
from care_mm.engine.speed import FastBackboneHook
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
    for _ in range(2):  # a second run of the same runner changes nothing
        hook.before_run(types.SimpleNamespace(model=model))
    return model


def test_channels_last_reaches_every_layer_and_changes_no_number() -> None:
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    plain, fast = Model().double(), hooked(Model().double(), channels_last=True)
    layouts = []
    for module in fast.modules():
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
    for mine, theirs in zip(fast.parameters(), plain.parameters(), strict=True):
        assert (mine.grad - theirs.grad).abs().max() <= 1e-9 * theirs.grad.abs().max() + 1e-12
    assert fast.state_dict().keys() == plain.state_dict().keys()


def test_compiled_is_the_backbone_alone() -> None:
    model = hooked(Model(), compile=True)
    assert model.backbone._compiled_call_impl is not None
    assert model.neck._compiled_call_impl is None and model._compiled_call_impl is None
    assert model.state_dict().keys() == Model().state_dict().keys()


def test_a_model_without_a_backbone_is_refused() -> None:
    with pytest.raises(InputError, match="Conv2d has no backbone"):
        hooked(nn.Conv2d(1, 1, 1), channels_last=True)
