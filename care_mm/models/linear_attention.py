"""Linear attention in its published forms, on tokens (B, N, C).

Sources: FLatten Transformer (arXiv 2308.00442) for the focused form, SLAB (arXiv 2405.11582) for
the simplified form, and the authors' released models. Half-precision input is computed in float32,
with or without autocast, because sums over N overflow float16 and the normaliser underflows it.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.models.precision import at_least_float32, without_autocast

_EPS = 1e-6


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_heads: int,
    *,
    mean: bool = True,
    normaliser: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Return :math:`q_n \sum_m k_m^T v_m / (q_n \sum_m k_m^T + \epsilon)` per head.

    Args:
        q: Queries (B, N, C) after the kernel's feature map, so none of them is negative.
        k: Keys (B, N, C), like the queries.
        v: Values (B, N, C).
        num_heads: Number of heads; head h has the channels from ``h * C / num_heads`` on.
        mean: Use means over tokens instead of sums. Only the effect of epsilon (1e-6) differs.
        normaliser: Other queries and keys for the divisor (MLLA: before the rotation).

    Returns:
        (B, N, C) in the dtype of ``v``. With fewer tokens than channels of a head, the cheaper
        product ``(q k^T) v`` gives the same value if ``mean`` is not set.
    """
    tokens, dtype = v.shape[1], v.dtype
    with without_autocast(v.device.type):
        q, k, v, *other = (
            at_least_float32(x).unflatten(-1, (num_heads, -1)).transpose(1, 2)
            for x in (q, k, v, *(normaliser or ()))
        )
        divisor_q, divisor_k = other or (q, k)
        if mean:
            k, divisor_k = k / tokens, divisor_k / tokens
        divisor = divisor_q @ divisor_k.sum(-2, keepdim=True).transpose(-2, -1) + _EPS
        # An open size has no number to compare.
        if not mean and isinstance(tokens, int) and tokens <= q.shape[-1]:
            out = q @ k.transpose(-2, -1) @ v
        else:
            out = q @ (k.transpose(-2, -1) @ v)
        return (out / divisor).transpose(1, 2).flatten(2).to(dtype)


def focus(x: Tensor, scale: Tensor) -> Tensor:
    """Sharpen directions and keep lengths (FLatten's focused function, with the power 3).

    Args:
        x: Queries or keys (B, N, C).
        scale: Learned scale (1, 1, C), before softplus.

    Returns:
        (B, N, C), in float32 for half-precision input. The lengths are over all channels.
    """
    with without_autocast(x.device.type):
        x = (F.relu(at_least_float32(x)) + _EPS) / F.softplus(at_least_float32(scale))
        cubed = x**3
        length = x.norm(dim=-1, keepdim=True) / cubed.norm(dim=-1, keepdim=True)
        return cubed * length


def shared_depthwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Apply a depthwise convolution of one head's channels to every head of (B, C, H, W)."""
    heads = x.shape[1] // conv.out_channels
    weight, bias = conv.weight.repeat(heads, 1, 1, 1), conv.bias.repeat(heads)
    return F.conv2d(x, weight, bias, padding=conv.padding, groups=x.shape[1])
