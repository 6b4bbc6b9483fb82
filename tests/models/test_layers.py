"""Linear attention and drop path: the formulas, and half precision."""

from __future__ import annotations

import pytest
import torch
from half import HALF
from torch import Tensor, nn

from care_mm.models.layers import AxialConv, CAREBlock, Interaction, LinearAttention, TokenMixer

TOKENS_1344 = (84, 84)  # stage 3 of a 1344 x 1344 image


def attention(dim: int = 32, head_dim: int = 16, q_bias: float = 0.0) -> LinearAttention:
    """Attention with q and k of unit order, in float64."""
    torch.manual_seed(0)
    layer = LinearAttention(dim, head_dim).double()
    with torch.no_grad():
        layer.qk.weight.copy_(torch.randn(layer.qk.weight.shape) * dim**-0.5)
        layer.qk.bias.copy_(0.1 * torch.randn(2 * dim))
        layer.qk.bias[:dim] += q_bias
    return layer


def reference(qk: Tensor, x: Tensor, head_dim: int) -> Tensor:
    """The published formula in float64, one head at a time, tokens first."""
    qk, x = qk.double(), x.double()
    phi = torch.where(qk > 0, qk + 1, qk.exp()).flatten(2).transpose(1, 2)  # (B, N, 2C)
    values = x.flatten(2).transpose(1, 2)  # (B, N, C)
    num_tokens, dim = values.shape[1:]
    heads = []
    for first in range(0, dim, head_dim):
        q = phi[..., first : first + head_dim]
        k = phi[..., dim + first : dim + first + head_dim]
        v = values[..., first : first + head_dim]
        normaliser = q @ k.mean(1, keepdim=True).transpose(1, 2) + 1e-6
        heads.append(q @ (k.transpose(1, 2) @ v / num_tokens) / normaliser)
    return torch.cat(heads, -1).transpose(1, 2).reshape(x.shape)


@pytest.mark.parametrize(("dim", "head_dim"), [(32, 16), (64, 32), (96, 32), (8, 8)])
@pytest.mark.parametrize("size", [(1, 1), (6, 4), (7, 13)])
def test_attention_is_the_formula(dim: int, head_dim: int, size: tuple[int, int]) -> None:
    layer = attention(dim, head_dim)
    x = torch.randn(2, dim, *size, dtype=torch.float64)
    torch.testing.assert_close(layer(x), reference(layer.qk(x), x, head_dim), rtol=1e-10, atol=0)


def test_attention_heads_are_independent() -> None:
    """Values of the second head do not reach the first one."""
    layer = attention(32, 16)
    with torch.no_grad():
        layer.qk.weight.zero_()
    x = torch.randn(1, 32, 4, 4, dtype=torch.float64)
    changed = x.clone()
    changed[:, 16:] += 1
    before, after = layer(x), layer(changed)
    assert torch.equal(before[:, :16], after[:, :16])
    assert not torch.allclose(before[:, 16:], after[:, 16:])


@pytest.mark.parametrize("magnitude", [1.0, 100.0])
@pytest.mark.parametrize("q_bias", [0.0, -12.0, -30.0, -100.0])
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("autocast", [False, True])
def test_attention_at_1344_pixels_is_finite_and_right_in_half_precision(
    autocast: bool, dtype: torch.dtype, q_bias: float, magnitude: float
) -> None:
    layer = attention(q_bias=q_bias).to(torch.float32 if autocast else dtype)
    # An offset makes the sum over tokens grow with their number.
    x = (magnitude * (1 + torch.randn(1, 32, *TOKENS_1344))).to(layer.qk.weight.dtype)
    seen = []
    layer.qk.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype, enabled=autocast):
        out = layer(x)

    assert out.dtype == x.dtype
    assert seen[0].dtype == dtype
    assert torch.isfinite(out).all()
    # A weighted mean of values, or less.
    assert out.abs().max() <= 1.01 * x.abs().max()
    if magnitude == 1.0:
        # phi(-12) = 6e-6 has two digits in float32, next to the eps of 1e-6.
        expected = reference(seen[0], x, head_dim=16)
        assert (out - expected).abs().max() <= 0.02 * x.abs().max()


@pytest.mark.parametrize("dtype", HALF)
def test_attention_products_run_in_float32_under_autocast(dtype: torch.dtype) -> None:
    """Given the q and k that the convolution made, the rest has float32's error, 1e-6, where
    half-precision products would leave 1e-3.
    """
    layer = attention().float()
    x = torch.randn(2, 32, 12, 20)
    seen = []
    layer.qk.register_forward_hook(lambda module, args, output: seen.append(output))
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        out = layer(x)
        assert (x.flatten(2) @ x.flatten(2).transpose(1, 2)).dtype == dtype  # autocast is on
    expected = reference(seen[0], x, head_dim=16)
    assert out.dtype == torch.float32
    assert (out - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_attention_gradients_are_right_under_autocast() -> None:
    x = torch.randn(2, 32, 6, 10)
    exact, half = attention(), attention().float()
    exact(x.double()).square().sum().backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half(x).square().sum().backward()
    error = (half.qk.weight.grad - exact.qk.weight.grad).abs().max()
    assert error <= 0.02 * exact.qk.weight.grad.abs().max()


def test_axial_conv_is_an_11_by_11_cross() -> None:
    layer = AxialConv(4).double()
    kernel = torch.zeros(4, 1, 11, 11, dtype=torch.float64)
    kernel[..., 5] += layer.vertical.weight.detach()[..., 0]
    kernel[..., 5, :] += layer.horizontal.weight.detach()[..., 0, :]
    bias = layer.vertical.bias + layer.horizontal.bias
    x = torch.randn(2, 4, 9, 16, dtype=torch.float64)
    expected = nn.functional.conv2d(x, kernel, bias, padding=5, groups=4)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("head_dim", [None, 4])
def test_token_mixer_keeps_its_three_groups_apart(head_dim: int | None) -> None:
    mixer = TokenMixer(8, head_dim).double()
    x = torch.randn(1, 24, 5, 7, dtype=torch.float64)
    before = mixer(x).split(8, dim=1)
    for group in range(3):
        changed = x.clone()
        changed[:, 8 * group : 8 * group + 8] += torch.randn(1, 8, 5, 7)
        for other, (old, new) in enumerate(
            zip(before, mixer(changed).split(8, dim=1), strict=True)
        ):
            assert torch.equal(old, new) == (other != group)


def block(expand: bool = False, gamma: float = 0.5) -> CAREBlock:
    torch.manual_seed(0)
    return CAREBlock(
        4, (2, 4), None, nn.BatchNorm2d, nn.GELU, layer_scale_init_value=gamma, expand=expand
    ).double()


def test_gamma_zero_makes_a_block_the_identity() -> None:
    x = torch.randn(2, 16, 6, 5, dtype=torch.float64)
    assert torch.equal(block(gamma=0.0)(x), x)


def test_memory_passes_the_mixer_and_inter1_untouched() -> None:
    """Inter2 sees the block's own memory, and features that do not depend on it."""
    layer = block().eval()
    seen = []
    layer.inter2.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(1, 16, 6, 5, dtype=torch.float64)
    other = x.clone()
    other[:, :4] += 1
    layer(x), layer(other)
    assert torch.equal(seen[0][:, :4], x[:, :4])
    assert torch.equal(seen[1][:, :4], other[:, :4])
    assert torch.equal(seen[0][:, 4:], seen[1][:, 4:])


def test_expanding_block_has_neither_projection_nor_gamma() -> None:
    layer = block(expand=True)
    assert layer.out_channels == 64
    assert layer(torch.randn(2, 16, 6, 5, dtype=torch.float64)).shape == (2, 64, 6, 5)
    names = {name for name, _ in layer.named_parameters()}
    assert not names & {"gamma", "inter2.fc2.weight", "inter2.fc2.bias"}


def test_interaction_has_no_activation_before_the_projection() -> None:
    """With the identity for its activation an interaction is affine in evaluation mode."""
    torch.manual_seed(0)
    layer = Interaction(6, 2, nn.BatchNorm2d, nn.Identity).double().eval()
    x, y = torch.randn(2, 1, 6, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x + y) + layer(torch.zeros_like(x)), layer(x) + layer(y))
