"""Backbones on the CPU use channels_last layout: the same numbers, and NCHW maps for heads."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from care_mm import CARETransformer
from care_mm.models import staged

CHANNELS_LAST = torch.channels_last


def backbone() -> CARETransformer:
    """All four stages, so with the convolutional and the attention branch."""
    torch.manual_seed(0)
    return CARETransformer("s0", layer_scale_init_value=0.5, out_norm_cfg=dict(type="BN")).train()


def outputs_and_gradients(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    outs = model(x)
    torch.manual_seed(1)
    sum((out * torch.randn(out.shape)).sum() for out in outs).backward()
    return [
        *(out.detach() for out in outs),
        *(parameter.grad.clone() for parameter in model.parameters()),
    ]


@pytest.mark.parametrize("training", [True, False])
def test_every_convolution_and_norm_computes_in_channels_last(training: bool) -> None:
    model = backbone().train(training)
    layouts = {}

    def note(name: str):
        def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            # A slice of channels is not dense, but its channels are neighbours.
            layouts[name] = args[0].stride(1) == 1 and out.is_contiguous(
                memory_format=CHANNELS_LAST
            )

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_hook(note(name))
    outs = model(torch.rand(2, 3, 128, 64))
    assert len(layouts) > 100 and all(layouts.values()), [k for k, v in layouts.items() if not v]
    assert all(out.is_contiguous() for out in outs)


def test_outputs_and_gradients_are_those_of_nchw(monkeypatch) -> None:
    """In float64, so that gradients that cancel, such as a bias before a norm, are not noise."""
    x = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    expected = outputs_and_gradients(backbone().double(), x)
    model, layouts = backbone().double(), []
    monkeypatch.setattr(staged, "prefers_channels_last", lambda x: True)
    model.stem.register_forward_pre_hook(lambda _, args: layouts.append(args[0].stride(1)))
    actual = outputs_and_gradients(model, x)
    assert layouts == [1]
    for value, reference in zip(actual, expected, strict=True):
        assert (value - reference).abs().max() <= 1e-9 * reference.abs().max() + 1e-9


def test_channels_last_input_returns_channels_last_maps() -> None:
    x = torch.rand(2, 3, 128, 64).contiguous(memory_format=CHANNELS_LAST)
    assert all(out.is_contiguous(memory_format=CHANNELS_LAST) for out in backbone()(x))


@pytest.mark.parametrize("change", ["switched off", "double"])
def test_other_settings_keep_the_layout_of_the_input(change: str) -> None:
    model = backbone().double() if change == "double" else backbone()
    model.channels_last_on_cpu = change == "double"
    layouts = []
    model.stem.register_forward_pre_hook(lambda _, args: layouts.append(args[0].is_contiguous()))
    model(torch.rand(2, 3, 64, 96, dtype=next(model.parameters()).dtype))
    assert layouts == [True]


def test_a_traced_model_in_training_mode_does_not_convert_the_layout() -> None:
    model, x = CARETransformer("s0", out_indices=(0,)).train(), torch.rand(1, 3, 32, 32)
    graph = torch.jit.trace(model, x, check_trace=False).inlined_graph
    assert "aten::contiguous" not in str(graph)
