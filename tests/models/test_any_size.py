"""Small networks of any form, and images of any size from 32 pixels on."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from care_mm import CARETransformer

SIZES = st.integers(32, 200)


@st.composite
def archs(draw: st.DrawFn) -> dict:
    """Draw a small network of one to four stages."""
    stages = draw(st.integers(1, 4))
    heads = [draw(st.sampled_from((2, 4, None))) for _ in range(stages)]
    return dict(
        depths=[draw(st.integers(1, 2)) for _ in range(stages)],
        mem_dims=[4 * draw(st.integers(1, 3)) for _ in range(stages)],
        interaction_ratios=[[draw(st.integers(1, 2)), draw(st.integers(1, 2))]] * stages,
        attn_head_dims=heads,
    )


@settings(max_examples=40, deadline=None)
@given(arch=archs(), height=SIZES, width=SIZES, batch=st.integers(1, 2), data=st.data())
def test_any_network_takes_any_size(
    arch: dict, height: int, width: int, batch: int, data: st.DataObject
) -> None:
    stages = len(arch["depths"])
    indices = data.draw(
        st.lists(st.integers(0, stages - 1), min_size=1, unique=True).map(lambda i: sorted(i))
    )
    model = CARETransformer(arch=arch, out_indices=tuple(indices)).eval()
    with torch.no_grad():
        outputs = model(torch.randn(batch, 3, height, width))
    assert len(outputs) == len(indices)
    for output, channels, stride in zip(
        outputs, model.out_channels, model.out_strides, strict=True
    ):
        assert torch.isfinite(output).all()
        assert tuple(output.shape[:2]) == (batch, channels)
        for side, full in zip(output.shape[2:], (height, width), strict=True):
            assert side >= 1 and abs(side - full / stride) < 1


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (32, 1600), (1600, 32)])
def test_extreme_shapes(height: int, width: int) -> None:
    model = CARETransformer("s0").eval()
    with torch.no_grad():
        for output in model(torch.randn(1, 3, height, width)):
            assert torch.isfinite(output).all() and output.numel()


@pytest.mark.parametrize(("size", "norm_eval"), [(32, True), (64, False), (97, False)])
def test_batch_of_one_trains(size: int, norm_eval: bool) -> None:
    model = CARETransformer("s0", out_indices=(3,), norm_eval=norm_eval).train()
    model(torch.randn(1, 3, size, size))[0].square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(grad).all() for grad in grads)
