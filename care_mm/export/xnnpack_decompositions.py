"""Operators that XNNPACK does not run, written with operators that it does, exactly.

Every operator that stays outside of XNNPACK splits the graph in two and moves tensors between the
runtimes. ExecuTorch's partitioner accepts slices but no splits, products of three dimensions, means
over both dimensions of maps, and bilinear resizes but no nearest-neighbour ones. Each function has
the arguments of the operator it replaces, and returns ``NotImplemented`` where it does not apply.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_ATEN = torch.ops.aten


def _split_with_sizes(x: Tensor, sizes: Sequence[int], dim: int = 0) -> list[Tensor]:
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [x.narrow(dim, start, size) for start, size in zip(starts, sizes, strict=True)]


def _split(x: Tensor, size: int, dim: int = 0) -> list[Tensor]:
    length = x.shape[dim]
    return _split_with_sizes(x, [min(size, length - i) for i in range(0, length, size)], dim)


def _chunk(x: Tensor, chunks: int, dim: int = 0) -> list[Tensor]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _matmul(a: Tensor, b: Tensor) -> Tensor:
    """Multiply without broadcasting, as one product of three dimensions."""
    if a.ndim != b.ndim or a.ndim < 3 or a.shape[:-2] != b.shape[:-2]:
        return NotImplemented
    product = torch.bmm(a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:]))
    return product.reshape(*a.shape[:-1], b.shape[-1])


def _elu(x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    if (alpha, scale, input_scale) != (1, 1, 1):
        return NotImplemented
    return torch.relu(x) + torch.exp(x.clamp(max=0.0)) - 1.0


def _sum(
    x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    """Sum over the last dimension, as the mean of a map with a side of 1."""
    if dtype is not None or not dims or [dim % x.ndim for dim in dims] != [x.ndim - 1]:
        return NotImplemented
    maps = x.reshape(1, -1, x.shape[-1], 1)
    total = maps.mean((2, 3), keepdim=True) * float(x.shape[-1])
    return total.reshape(*x.shape[:-1], 1) if keepdim else total.reshape(x.shape[:-1])


def _upsample_nearest(
    x: Tensor, size: Sequence[int] | None, factors: Sequence[float] | None
) -> Tensor:
    """Repeat every pixel, by linear interpolation of maps with one pixel."""
    b, c, h, w = x.shape
    height, width = size or [int(side * f) for side, f in zip((h, w), factors, strict=True)]
    if height % h or width % w:
        return NotImplemented
    repeats = (height // h, width // w)
    pixels = torch.nn.functional.interpolate(x.reshape(1, -1, 1, 1), repeats, mode="bilinear")
    return pixels.reshape(b * c, h, w, *repeats).transpose(2, 3).reshape(b, c, height, width)


def _div(x: Tensor, divisor: Any) -> Tensor:
    """Divide by an integer, which would be converted to a float in every call."""
    if not isinstance(divisor, int) or not x.is_floating_point():
        return NotImplemented
    return x / float(divisor)


def _cast(x: Tensor, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Tensor:
    """Return a tensor that has the dtype already."""
    return x if x.dtype == dtype else NotImplemented


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    _ATEN.split_with_sizes.default: _split_with_sizes,
    _ATEN.split.Tensor: _split,
    _ATEN.chunk.default: _chunk,
    _ATEN.matmul.default: _matmul,
    _ATEN.elu.default: _elu,
    _ATEN.sum.dim_IntList: _sum,
    _ATEN.upsample_nearest2d.vec: _upsample_nearest,
    _ATEN.div.Tensor: _div,
    _ATEN.to.dtype: _cast,
}
