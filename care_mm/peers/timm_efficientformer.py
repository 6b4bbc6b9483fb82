"""Attention of timm's EfficientFormer and EfficientFormerV2 for maps of any size.

timm builds it for 224 x 224. Here the table of position biases, which has an entry for each pair of
vertical and horizontal distances, is resized linearly to the sides of the map.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.models import efficientformer, efficientformer_v2
from torch import Tensor, nn

BUILT = 7  # side of the map at stride 32 that timm builds for


class _AnySize:
    """Position biases for a map of any size, in place of those for the built size."""

    query_step = 1
    map_size: tuple[int, int] | None = None

    def set_map(self, rows: int, columns: int) -> None:
        """Set the sides of the map at stride 32; attention at another stride multiplies them."""
        built = _side(self.attention_biases)
        self.map_size = (rows * built // BUILT, columns * built // BUILT)
        self.resolution = self.map_size
        self.resolution2 = tuple((side + 1) // 2 for side in self.map_size)
        self.N = self.resolution[0] * self.resolution[1]
        self.N2 = self.resolution2[0] * self.resolution2[1]

    def get_attention_biases(self, device: torch.device) -> Tensor:
        """Return biases (heads, queries, keys) for the map; timm's own for the built size.

        timm keeps them in evaluation mode. A tracer would leave its own tensors there, so that the
        model could not be called afterwards.
        """
        built = _side(self.attention_biases)
        if self.map_size in (None, (built, built)):
            return self.attention_biases[:, self.attention_bias_idxs]
        table = self.attention_biases.unflatten(1, (built, built))[None]
        table = F.interpolate(table, self.map_size, mode="bilinear", align_corners=True)[0]
        y, x = (self._distances(side, device) for side in self.map_size)
        biases = table[:, y[:, None, :, None], x[None, :, None, :]]
        return biases.flatten(3).flatten(1, 2)

    def _distances(self, side: int, device: torch.device) -> Tensor:
        """Return the distance (queries, keys) of each query from each key along a side."""
        keys = torch.arange(side, device=device)
        return (keys[:: self.query_step, None] - keys).abs()


def _side(biases: Tensor) -> int:
    """Return the side of the square map that a table (heads, side ** 2) is built for."""
    return round(int(biases.shape[1]) ** 0.5)  # a tensor in torch.jit.trace


class AnySizeAttention(_AnySize, efficientformer.Attention):
    """EfficientFormer's attention."""


class AnySizeAttention2d(_AnySize, efficientformer_v2.Attention2d):
    """EfficientFormerV2's attention."""


class AnySizeAttention2dDownsample(_AnySize, efficientformer_v2.Attention2dDownsample):
    """EfficientFormerV2's attention whose queries are every second row and column."""

    query_step = 2


_SUBCLASSES = {
    cls.__bases__[1]: cls
    for cls in (AnySizeAttention, AnySizeAttention2d, AnySizeAttention2dDownsample)
}


def make_resizable(model: nn.Module) -> list[str]:
    """Replace the classes of a model's attentions, in place, and return the modules' names.

    The modules keep their parameters and names; copies and pickles keep the new class.
    """
    names = [name for name, module in model.named_modules() if type(module) in _SUBCLASSES]
    for name in names:
        module = model.get_submodule(name)
        module.__class__ = _SUBCLASSES[type(module)]
    return names
