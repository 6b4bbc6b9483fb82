"""The attention map that linear attention never computes, for one query or on average."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from care_mm.models.layers import LinearAttention


@torch.no_grad()
def attention_map(
    layer: LinearAttention, x: Tensor, query: tuple[int, int] | None = None
) -> Tensor:
    """Return the weight of each position in the output at one position, or on average.

    The layer's output at position i is the mean over j of ``a[i, j] * x[:, j]`` with
    ``a[i, j] = q_i . k_j / (q_i . mean(k) + eps)``. All weights are positive, and uniform attention
    has weight 1 everywhere. The cost is linear in the number of positions, as in the layer.

    Args:
        layer: The attention.
        x: Its input, (B, dim, H, W).
        query: Row and column of position i; ``None`` averages over all positions.

    Returns:
        (B, heads, H, W); the mean over the positions of a head is 1.
    """
    heads = (layer.num_heads, layer.head_dim)
    qk = F.elu(layer.qk(x).float()) + 1.0
    q, k = (t.flatten(2).unflatten(1, heads) for t in qk.chunk(2, dim=1))  # (B, heads, D, N)
    q = q / ((q * k.mean(-1, keepdim=True)).sum(2, keepdim=True) + layer.eps)
    if query is None:
        q = q.mean(-1, keepdim=True)
    else:
        position = query[0] * x.shape[-1] + query[1]
        q = q[..., position : position + 1]
    return (q * k).sum(2).unflatten(-1, x.shape[-2:])
