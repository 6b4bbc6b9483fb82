"""Other attentions for CARE's global branch: focused, simplified and softmax.

The paper's own is :class:`care_mm.models.layers.LinearAttention`. As there, queries and keys are
one 1x1 convolution and the values are the input. The published forms also have learned positions
and an output projection. Both are left out: the positions are for one image size, and the
interactions mix the channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.models.linear_attention import focus, linear_attention, shared_depthwise
from care_mm.models.precision import at_least_float32, without_autocast


def _tokens(maps: Sequence[Tensor]) -> list[Tensor]:
    """(B, C, H, W) each -> (B, H * W, C) each."""
    return [x.flatten(2).transpose(1, 2) for x in maps]


class SimplifiedAttention(nn.Module):
    """Simplified linear attention (SLAB, arXiv 2405.11582): ReLU is the feature map.

    A 5x5 depthwise convolution of the values is added, with one set of kernels for all heads.

    Args:
        dim: Channels, a multiple of ``head_dim``.
        head_dim: Channels of one head, in channel order.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = dim // head_dim
        self.qk = nn.Conv2d(dim, 2 * dim, 1)
        self.dwconv = nn.Conv2d(head_dim, head_dim, 5, padding=2, groups=head_dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C) each -> (B, N, C)."""
        return linear_attention(F.relu(q), F.relu(k), v, self.num_heads, mean=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        out = self.attend(*_tokens((*self.qk(x).chunk(2, dim=1), x)))
        return out.transpose(1, 2).reshape(x.shape) + shared_depthwise(self.dwconv, x)


class FocusedAttention(SimplifiedAttention):
    """Focused linear attention (FLatten, arXiv 2308.00442), with the power 3."""

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__(dim, head_dim)
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C) each -> (B, N, C)."""
        return linear_attention(focus(q, self.scale), focus(k, self.scale), v, self.num_heads)


class SoftmaxAttention(nn.Module):
    """Softmax attention over the whole map, whose cost is quadratic in the number of pixels.

    Half-precision input is computed in float32, with or without autocast.

    Args:
        dim: Channels, a multiple of ``head_dim``.
        head_dim: Channels of one head, in channel order.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.heads = (dim // head_dim, head_dim)
        # Another name than in linear attention, whose weights have another meaning and are refused.
        self.query_key = nn.Conv2d(dim, 2 * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        qk = self.query_key(x)
        with without_autocast(x.device.type):
            q, k, v = (
                t.unflatten(-1, self.heads).transpose(1, 2)
                for t in _tokens([*at_least_float32(qk).chunk(2, dim=1), at_least_float32(x)])
            )
            weights = (q * self.heads[1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
            out = (weights @ v).transpose(1, 2).flatten(2)
        return out.transpose(1, 2).reshape(x.shape).to(x.dtype)
