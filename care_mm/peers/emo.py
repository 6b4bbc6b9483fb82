"""EMO: windowed attention and a depthwise convolution inside one inverted residual block (iRMB).

Source: Rethinking Mobile Block for Efficient Attention-based Models, ICCV 2023
(arXiv 2301.01146), and the authors' released models. Tensors are (B, C, H, W) throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.models.fold import fold_norm_after, fold_norm_before, is_foldable
from care_mm.models.precision import at_least_float32, without_autocast
from care_mm.models.staged import Stage
from care_mm.peers.base import PeerBackbone, drop_path
from care_mm.peers.key_table import KeyTable
from care_mm.peers.layers import ChannelLN, pad_to_multiple

EPS = 1e-6  # of every norm, batch norms included
WINDOW = 7


class DilatedWindowAttention(nn.Module):
    """Softmax attention in dilated windows of 7x7 places, with the input itself as the values.

    The map is padded with zeros on the right and at the bottom to multiples of 7. With ``n1 x n2``
    windows, pixel (i, j) belongs to window (i mod n1, j mod n2). So a window spans the whole map,
    and neighbours are in different windows. The padding takes part as keys.

    Half-precision input is computed in float32, with or without autocast.

    Args:
        dim: Channels, a multiple of ``head_dim``.
        head_dim: Channels of one head, in channel order.
    """

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.scale = head_dim**-0.5
        self.qk = nn.Conv2d(dim, 2 * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        height, width = x.shape[2:]
        x = pad_to_multiple(x, WINDOW)
        qk = self.qk(x)
        with without_autocast(x.device.type):
            q, k, v = (self._windows(at_least_float32(t)) for t in (*qk.chunk(2, dim=1), x))
            weights = (q.transpose(-1, -2) @ k * self.scale).softmax(-1)
            out = v @ weights.transpose(-1, -2)
        out = out.flatten(3, 4).unflatten(-1, (WINDOW, WINDOW)).permute(0, 3, 4, 1, 5, 2)
        return out.reshape(x.shape)[:, :, :height, :width].to(x.dtype)

    def _windows(self, x: Tensor) -> Tensor:
        """(B, C, 7 * n1, 7 * n2) -> (B, n1, n2, heads, head_dim, 49)."""
        batch, channels, height, width = x.shape
        # XNNPACK accepts six dimensions, so the heads are split at the end.
        x = x.reshape(batch, channels, WINDOW, height // WINDOW, WINDOW, width // WINDOW)
        x = x.permute(0, 3, 5, 1, 2, 4).flatten(-2)
        return x.unflatten(3, (channels // self.head_dim, self.head_dim))


class LocalConv(nn.Module):
    """Depthwise convolution, batch norm and SiLU: the local part of a block.

    Args:
        dim: Channels.
        kernel_size: Odd side of the kernel.
        stride: Stride of the convolution.
    """

    def __init__(self, dim: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            dim, dim, kernel_size, stride, kernel_size // 2, groups=dim, bias=False
        )
        self.norm = nn.BatchNorm2d(dim, eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, ceil(H / stride), ceil(W / stride))."""
        return F.silu(self.norm(self.conv(x)))

    def switch_to_deploy(self) -> None:
        """Fold the norm into the convolution; a second call does nothing."""
        if is_foldable(self.norm):
            self.conv = fold_norm_after(self.conv, self.norm)
            self.norm = nn.Identity()


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that is computed from the mean of all channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(dim, dim, 1)
        self.expand = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Stem(nn.Module):
    """A convolution of stride 2, and a block without norm, expansion and skip, with a gate.

    Args:
        in_dim: Input channels.
        dim: Output channels.
    """

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(dim, eps=EPS)
        self.local = LocalConv(dim, 3)
        self.gate = SqueezeExcite(dim)
        self.project = nn.Conv2d(dim, dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) -> (B, dim, ceil(H / 2), ceil(W / 2))."""
        return self.project(self.gate(self.local(self.norm(self.conv(x)))))

    def switch_to_deploy(self) -> None:
        """Fold the norm into the convolution; a second call does nothing."""
        if is_foldable(self.norm):
            self.conv = fold_norm_after(self.conv, self.norm)
            self.norm = nn.Identity()


class InvertedResidual(nn.Module):
    """The paper's iRMB: norm, attention, expansion, depthwise convolution, projection.

    ``n = norm(x)``, ``u = act(expand(attention(n)))``, ``w = u + SiLU(BN(depthwise(u)))``,
    ``out = x + DropPath(project(w))``. The first block of a stage halves the sides: it has no
    attention and neither of the two skips.

    Args:
        in_dim: Input channels.
        dim: Output channels; equal to ``in_dim`` for stride 1.
        ratio: Expansion; the hidden width is rounded down.
        stride: 2 for the first block of a stage, otherwise 1.
        is_global: Use layer norm, GELU and a kernel of 5 (stages 3 and 4) instead of batch norm,
            SiLU and a kernel of 3.
        head_dim: Channels of an attention head, ``None`` for no attention.
        drop_path: Module that drops its input per sample, or the identity.
    """

    def __init__(
        self,
        in_dim: int,
        dim: int,
        ratio: float,
        stride: int,
        is_global: bool,
        head_dim: int | None,
        drop_path: nn.Module,
    ) -> None:
        super().__init__()
        hidden_dim = int(in_dim * ratio)
        norm_layer = ChannelLN if is_global else nn.BatchNorm2d
        self.norm = norm_layer(in_dim, eps=EPS)
        self.attention = (
            nn.Identity() if head_dim is None else DilatedWindowAttention(in_dim, head_dim)
        )
        self.expand = nn.Conv2d(in_dim, hidden_dim, 1)
        self.act = nn.GELU() if is_global else nn.SiLU()
        self.local = LocalConv(hidden_dim, 5 if is_global else 3, stride)
        self.project = nn.Conv2d(hidden_dim, dim, 1, bias=False)
        self.has_skips = stride == 1
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) -> (B, dim, ceil(H / stride), ceil(W / stride))."""
        u = self.act(self.expand(self.attention(self.norm(x))))
        if not self.has_skips:
            return self.project(self.local(u))
        return x + self.drop_path(self.project(u + self.local(u)))

    def switch_to_deploy(self) -> None:
        """Fold a batch norm of the input into the expansion; a second call does nothing."""
        if is_foldable(self.norm):  # blocks with attention have a layer norm
            self.expand = fold_norm_before(self.norm, self.expand)
            self.norm = nn.Identity()


@dataclass(frozen=True)
class Arch:
    """The hyperparameters of a size of EMO; every tuple has one entry per stage.

    Attributes:
        depths: Number of blocks.
        dims: Channels.
        ratios: Expansion of a block; the first block of a stage has twice as much.
        head_dims: Channels of an attention head, ``None`` for a stage without attention.
    """

    depths: tuple[int, ...]
    dims: tuple[int, ...]
    ratios: tuple[float, ...]
    head_dims: tuple[int | None, ...]


STEM_DIM = 24
ARCHS = {
    "1m": Arch((2, 2, 8, 3), (32, 48, 80, 168), (2, 2.5, 3, 3.5), (None, None, 20, 21)),
    "2m": Arch((3, 3, 9, 3), (32, 48, 120, 200), (2, 2.5, 3, 3.5), (None, None, 20, 20)),
    "5m": Arch((3, 3, 9, 3), (48, 72, 160, 288), (2, 3, 4, 4), (None, None, 32, 32)),
}
# The authors' names of the layers of a block -> ours.
_BLOCK_NAMES = {
    "norm": "norm",
    "norm.norm": "norm",
    "qk.conv": "attention.qk",
    "v.conv": "expand",
    "conv_local.conv": "local.conv",
    "conv_local.norm": "local.norm",
    "proj.conv": "project",
}
KEY_TABLE = KeyTable(
    "EMO",
    {
        "stage0.0.convs.0.0": "stem.conv",
        "stage0.0.convs.0.1": "stem.norm",
        "stage0.1.conv_local": "stem.local",
        "stage0.1.se.conv_reduce": "stem.gate.reduce",
        "stage0.1.se.conv_expand": "stem.gate.expand",
        "stage0.1.proj.conv": "stem.project",
        **{
            f"stage{stage + 1}.{{}}.{official}": f"stages.{stage}.blocks.{{}}.{ours}"
            for stage in range(4)
            for official, ours in _BLOCK_NAMES.items()
        },
        "norm.norm": "head.norm",
        "head": "head.fc",
    },
)


@MODELS.register_module()
class EMO(PeerBackbone):
    """EMO: inverted residual blocks, with attention in dilated windows in stages 3 and 4.

    The input may have any size: the attention pads its map to whole windows. Odd sides are rounded
    up. Exported files need a fixed size, which sets the number of windows. The maps are the outputs
    of the stages, without a further norm, as in the authors' detectors and segmentors.

    Args:
        arch: ``'1m'``, ``'2m'`` or ``'5m'``.
        in_channels: Channels of the input.
        out_indices: As in :class:`PeerBackbone`.
        drop_path_rate: Drop path rate of the last block; it grows linearly from 0. The authors
            train the classifiers with 0.05 (1M: 0.04036).
        frozen_stages: As in :class:`PeerBackbone`. The authors' RetinaNet freezes 1, their
            segmentors nothing.
        norm_eval: As in :class:`PeerBackbone`.
        with_cp: As in :class:`PeerBackbone`.
        init_cfg: As in :class:`PeerBackbone`.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map.

    Raises:
        ValueError: Unknown or inconsistent arguments.

    Example:
        >>> backbone = EMO('2m', out_indices=(1, -1))
        >>> [tuple(y.shape) for y in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 48, 8, 12), (1, 200, 2, 3)]
    """

    archs = ARCHS
    key_table = KEY_TABLE

    def __init__(
        self,
        arch: str = "2m",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        init_cfg: Mapping | Sequence[Mapping] | None = None,
    ) -> None:
        super().__init__(
            arch,
            in_channels,
            out_indices,
            drop_path_rate,
            frozen_stages,
            norm_eval,
            with_cp,
            init_cfg,
        )
        self.stem = Stem(in_channels, STEM_DIM)
        self.stages = ModuleList(self._build_stage(i) for i in range(self.num_built))
        self.finish()

    def _build_stage(self, i: int) -> Stage:
        dim, ratio = self.spec.dims[i], self.spec.ratios[i]
        in_dim = self.spec.dims[i - 1] if i else STEM_DIM
        blocks = []
        for j, rate in enumerate(self.drop_path_rates[i]):
            first = j == 0
            blocks.append(
                InvertedResidual(
                    in_dim if first else dim,
                    dim,
                    2 * ratio if first else ratio,
                    stride=2 if first else 1,
                    is_global=i >= 2,
                    head_dim=None if first else self.spec.head_dims[i],
                    drop_path=drop_path(rate),
                )
            )
        return Stage(None, blocks, self.with_cp, dim)
