"""Linear attention with learned positions on a grid: FLatten's focused form, SLAB's simplified one.

Maps are (B, H, W, C), channels last. Both add a 5x5 depthwise convolution of the values, with one
set of kernels for all heads of a layer.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.models.linear_attention import focus, linear_attention, shared_depthwise
from care_mm.models.precision import at_least_float32

_KERNEL = 5


class GridAttention(nn.Module):
    """Linear attention over all tokens of a grid.

    Args:
        dim: Channels, a multiple of ``num_heads``.
        num_heads: Number of heads, in channel order.
        side: Height and width of the grid that ``positional_encoding`` is for. On other grids, the
            encoding is resized bilinearly.
        fused: Project to q, k and v by one layer (Swin), or by one for q and one for k and v (PVT).
    """

    def __init__(self, dim: int, num_heads: int, side: int, fused: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.side = side
        self.positional_encoding = nn.Parameter(torch.zeros(1, side * side, dim))
        if fused:
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.q = nn.Linear(dim, dim)
            self.kv = nn.Linear(dim, 2 * dim)
        head_dim = dim // num_heads
        self.dwc = nn.Conv2d(head_dim, head_dim, _KERNEL, padding=_KERNEL // 2, groups=head_dim)
        self.proj = nn.Linear(dim, dim)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C) each -> (B, N, C)."""
        raise NotImplementedError

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the attention's output (B, H, W, C) for q, k and v, (B, H, W, C) each."""
        k = k + resize_encoding(self.positional_encoding, self.side, k.shape[1:3])
        out = self.attend(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2)).reshape(v.shape)
        local = shared_depthwise(self.dwc, v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out + local)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C), with separate projections."""
        return self.mix(self.q(x), *self.kv(x).chunk(2, dim=-1))


class FocusedAttention(GridAttention):
    """Focused linear attention (FLatten, arXiv 2308.00442), with the power 3."""

    def __init__(self, dim: int, num_heads: int, side: int, fused: bool) -> None:
        super().__init__(dim, num_heads, side, fused)
        self.scale = nn.Parameter(torch.zeros(1, 1, dim))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C) each -> (B, N, C)."""
        return linear_attention(focus(q, self.scale), focus(k, self.scale), v, self.num_heads)


class SimplifiedAttention(GridAttention):
    """Simplified linear attention (SLAB, arXiv 2405.11582): ReLU is the feature map."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, N, C) each -> (B, N, C)."""
        return linear_attention(F.relu(q), F.relu(k), v, self.num_heads, mean=False)


def resize_encoding(encoding: Tensor, side: int, size: tuple[int, int]) -> Tensor:
    """Return a learned encoding for another grid, bilinearly, with corners not aligned.

    Args:
        encoding: (1, side * side, C), row by row.
        side: Height and width of the grid that the encoding is for.
        size: Height and width of the grid.

    Returns:
        (1, height, width, C).
    """
    encoding = encoding.unflatten(1, (side, side))
    # An open size has no number to compare.
    if all(isinstance(length, int) and length == side for length in size):
        return encoding
    resized = F.interpolate(
        at_least_float32(encoding).permute(0, 3, 1, 2), tuple(size), mode="bilinear"
    )
    return resized.permute(0, 2, 3, 1).to(encoding.dtype)
