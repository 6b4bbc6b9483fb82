"""The attention map is the one that the layer's output implies."""

from __future__ import annotations

import torch

from care_mm.models.layers import LinearAttention
from care_mm.visualize.attention import attention_map


def test_attention_map_is_what_the_layer_computes() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(16, head_dim=8).requires_grad_(False)
    x = 3 * torch.randn(2, 16, 5, 7)
    out = layer(x)
    for query in ((0, 0), (2, 6)):
        weights = attention_map(layer, x, query)
        assert weights.shape == (2, 2, 5, 7) and (weights > 0).all()
        assert weights.mean((2, 3)).allclose(torch.ones(2, 2), atol=1e-4)
        mixed = (weights.repeat_interleave(8, dim=1) * x).mean((2, 3))
        torch.testing.assert_close(mixed, out[:, :, query[0], query[1]])
    rows = torch.stack([attention_map(layer, x, (i, j)) for i in range(5) for j in range(7)])
    torch.testing.assert_close(attention_map(layer, x), rows.mean(0))
