"""Layers that several peers share. Maps are (B, H, W, C), channels last, unless said otherwise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.models.fold import fold_norm_after, is_foldable

NormLayer = Callable[[int], nn.Module]


def layer_norm(eps: float) -> NormLayer:
    """Return a function that builds a layer norm over the last dimension."""
    return partial(nn.LayerNorm, eps=eps)


@MODELS.register_module()
class ChannelLN(nn.LayerNorm):
    """Layer norm over the channels of each pixel of a map (B, C, H, W), for ``out_norm_cfg``."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBN(nn.Module):
    """Convolution, batch norm, and ReLU if ``act`` is set; maps are (B, C, H, W)."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        kernel_size: int,
        stride: int = 1,
        bias: bool = False,
        act: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.conv = nn.Conv2d(in_dim, out_dim, kernel_size, stride, padding, bias=bias)
        self.norm = nn.BatchNorm2d(out_dim)
        self.act = nn.ReLU() if act else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) -> (B, out_dim, H', W')."""
        return self.act(self.norm(self.conv(x)))

    def switch_to_deploy(self) -> None:
        """Fold the norm into the convolution; a second call does nothing."""
        if is_foldable(self.norm):
            self.conv = fold_norm_after(self.conv, self.norm)
            self.norm = nn.Identity()


class MLP(nn.Module):
    """Linear (expand) -> GELU -> Linear (project)."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, ratio * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(ratio * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.fc2(self.act(self.fc1(x)))


def convolve(conv: nn.Module, x: Tensor) -> Tensor:
    """Apply a convolution to a map with channels last."""
    return conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def pad_to_multiple(x: Tensor, side: int) -> Tensor:
    """Pad the last two dimensions, right and bottom, with zeros to multiples of ``side``."""
    height, width = x.shape[-2:]
    return F.pad(x, (0, -width % side, 0, -height % side))
