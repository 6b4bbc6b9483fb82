"""The other attentions of the global branch equal their definitions, pair by pair of pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm import CARETransformer
from care_mm.models.attention import FocusedAttention, SimplifiedAttention, SoftmaxAttention

DIM, HEAD_DIM, SIZE = 12, 4, (3, 5)


def focused(x: Tensor, scale: Tensor) -> Tensor:
    x = (x.clamp(min=0) + 1e-6) / F.softplus(scale)
    return x**3 * (x.norm(dim=-1, keepdim=True) / (x**3).norm(dim=-1, keepdim=True))


def weights(module: nn.Module, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weights before normalisation by head, (heads, N, N), and epsilon times N."""
    tokens = len(q)
    if isinstance(module, FocusedAttention):
        q, k, epsilon = focused(q, module.scale[0]), focused(k, module.scale[0]), 1e-6 * tokens
    elif isinstance(module, SimplifiedAttention):
        q, k, epsilon = q.clamp(min=0), k.clamp(min=0), 1e-6
    else:
        epsilon = 0.0
    q, k = (x.reshape(tokens, -1, HEAD_DIM).transpose(0, 1) for x in (q, k))
    logits = q @ k.transpose(1, 2)
    if isinstance(module, SoftmaxAttention):
        logits = (logits / HEAD_DIM**0.5).exp()
    return logits, epsilon


@pytest.mark.parametrize("cls", [FocusedAttention, SimplifiedAttention, SoftmaxAttention])
@torch.no_grad()
def test_attention_is_a_mean_over_all_pixels(cls: type[nn.Module]) -> None:
    torch.manual_seed(0)
    module = cls(DIM, HEAD_DIM).double()
    for parameter in module.parameters():
        parameter.normal_()
    x = torch.randn(1, DIM, *SIZE, dtype=torch.float64)
    projection = module.query_key if cls is SoftmaxAttention else module.qk
    q, k = projection(x)[0].flatten(1).t().chunk(2, dim=1)
    pairs, epsilon = weights(module, q, k)
    pairs = pairs / (pairs.sum(-1, keepdim=True) + epsilon)
    v = x[0].reshape(-1, HEAD_DIM, SIZE[0] * SIZE[1]).transpose(1, 2)
    expected = (pairs @ v).transpose(1, 2).reshape(x.shape)
    if cls is not SoftmaxAttention:
        heads = x.reshape(-1, HEAD_DIM, *SIZE)
        expected = expected + module.dwconv(heads).reshape(x.shape)
    torch.testing.assert_close(module(x), expected, rtol=1e-9, atol=1e-9)


def test_an_unknown_attention_lists_the_choices() -> None:
    with pytest.raises(ValueError, match=r"flash.*linear, focused, simplified, softmax"):
        CARETransformer(dict(base="s0", attention="flash"))
