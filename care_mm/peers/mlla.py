"""MLLA (also MILA): linear attention with rotary positions inside a gated block, as in Mamba.

Source: Demystify Mamba in Vision: A Linear Attention Perspective, NeurIPS 2024 (arXiv 2405.16605),
and the authors' released models. Maps inside a block are (B, H, W, C), channels last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.models.layers import depthwise
from care_mm.models.linear_attention import linear_attention
from care_mm.models.precision import at_least_float32, without_autocast
from care_mm.models.staged import Stage
from care_mm.peers.base import PeerBackbone, drop_path, init_linear
from care_mm.peers.key_table import KeyTable
from care_mm.peers.layers import MLP, ConvBN, convolve, pad_to_multiple

HEAD_DIM = 32
MLP_RATIO = 4


@dataclass(frozen=True)
class MLLAArch:
    """The hyperparameters of a variant: stages have ``dim``, 2, 4 and 8 times ``dim`` channels."""

    dim: int
    depths: tuple[int, ...]

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.dim * 2**i for i in range(len(self.depths)))


def rotations(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """Return cosine and sine of the rotary angles, (2, height, width, dim / 2).

    The first half of the channel pairs turns with the row, the second half with the column, each
    with ``dim / 4`` frequencies. Heads are not told apart, so they differ in frequency.

    Args:
        height: Rows of the map.
        width: Columns of the map.
        dim: Channels of the map.
        like: A tensor of the device and dtype of the result; half precision becomes float32.
    """
    dtype = at_least_float32(like).dtype if like.is_floating_point() else torch.float32
    count = dim // 4
    exponents = torch.arange(count, device=like.device, dtype=dtype) / count
    frequencies = 10000.0**-exponents
    rows = torch.arange(height, device=like.device, dtype=dtype)[:, None] * frequencies
    columns = torch.arange(width, device=like.device, dtype=dtype)[:, None] * frequencies
    angles = torch.cat(
        (
            rows[:, None].expand(height, width, count),
            columns[None].expand(height, width, count),
        ),
        dim=-1,
    )
    return torch.stack((angles.cos(), angles.sin()))


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn adjacent channel pairs of (B, H, W, C) by the angles of :func:`rotations`."""
    cos, sin = rotation
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


class MLLAAttention(nn.Module):
    """Linear attention without a value projection, with rotary and local positions.

    Rotated queries and keys make the sum over tokens; its normaliser uses them unrotated. A 3x3
    depthwise convolution of the values (LePE) is added.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.num_heads = dim // HEAD_DIM
        self.qk = nn.Linear(dim, 2 * dim)
        self.lepe = depthwise(dim, 3)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        qk = self.qk(x)
        with without_autocast(x.device.type):
            q, k = (F.elu(at_least_float32(qk)) + 1.0).chunk(2, dim=-1)
            q_rotated, k_rotated, q, k, v = (
                t.flatten(1, 2) for t in (rotate(q, rotation), rotate(k, rotation), q, k, x)
            )
        out = linear_attention(q_rotated, k_rotated, v, self.num_heads, normaliser=(q, k))
        return out.reshape(x.shape) + convolve(self.lepe, x)


class MLLABlock(nn.Module):
    """Gated linear attention and an MLP, each after a 3x3 depthwise convolution.

    Args:
        dim: Channels, a multiple of 32.
        drop_path_rate: Rate of stochastic depth on both branches.
    """

    def __init__(self, dim: int, drop_path_rate: float) -> None:
        super().__init__()
        self.out_channels = dim
        self.cpe1 = depthwise(dim, 3)
        self.norm1 = nn.LayerNorm(dim)
        self.in_proj = nn.Linear(dim, dim)
        self.act_proj = nn.Linear(dim, dim)
        self.dwc = depthwise(dim, 3)
        self.attn = MLLAAttention(dim)
        self.out_proj = nn.Linear(dim, dim)
        self.cpe2 = depthwise(dim, 3)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = MLP(dim, MLP_RATIO)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + convolve(self.cpe1, x)
        u = self.norm1(x)
        gate = F.silu(self.act_proj(u))
        u = self.attn(F.silu(convolve(self.dwc, self.in_proj(u))), rotation)
        x = x + self.drop_path(self.out_proj(u * gate))
        x = x + convolve(self.cpe2, x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class MLLAStem(nn.Module):
    """Five convolutions to stride 4; the input is padded with zeros to sides divisible by 4."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.conv1 = ConvBN(in_channels, half, 3, stride=2)
        self.conv2 = nn.Sequential(ConvBN(half, half, 3), ConvBN(half, half, 3, act=False))
        self.conv3 = nn.Sequential(
            ConvBN(half, 4 * dim, 3, stride=2), ConvBN(4 * dim, dim, 1, act=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, dim, H / 4, W / 4), rounded up."""
        x = self.conv1(pad_to_multiple(x, 4))
        return self.conv3(x + self.conv2(x))


class MLLADownsample(nn.Module):
    """Inverted bottleneck of stride 2; odd sides are padded with zeros before the expansion."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = 8 * dim
        self.expand = nn.Conv2d(dim, hidden, 1)
        self.dwconv = nn.Conv2d(hidden, hidden, 3, stride=2, padding=1, groups=hidden)
        self.project = ConvBN(hidden, 2 * dim, 1, bias=True, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, 2 * dim, H / 2, W / 2), rounded up."""
        x = F.relu(self.expand(pad_to_multiple(x, 2)))
        return self.project(F.relu(self.dwconv(x)))


class MLLAStage(Stage):
    """A stage whose blocks share one table of rotations."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W')."""
        if self.downsample is not None:
            x = self.downsample(x)
        x = x.permute(0, 2, 3, 1)
        _, height, width, dim = x.shape
        return self.run_blocks(x, rotations(height, width, dim, x)).permute(0, 3, 1, 2)


@MODELS.register_module()
class MLLA(PeerBackbone):
    """MLLA: gated blocks with linear attention (top-1 83.5 / 84.4 / 85.3, published).

    The authors' dense models add a layer norm to each output: pass
    ``out_norm_cfg=dict(type="ChannelLN")``.

    Args:
        arch: ``'t'``, ``'s'`` or ``'b'``.
        in_channels: Channels of the input.
        out_indices: See :class:`care_mm.peers.base.PeerBackbone`, as all further arguments.
        drop_path_rate: The authors use 0.2 / 0.3 / 0.5 on ImageNet and 0.1 for T on COCO.
        out_norm_cfg: An additional norm on each returned feature map, or ``None``.
        frozen_stages: Number of frozen stages.
        norm_eval: Keep batch norms in evaluation mode.
        with_cp: Activation checkpointing.
        init_cfg: mmengine's initialisation.

    Example:
        >>> backbone = MLLA('t', out_indices=(1, -1))
        >>> [tuple(y.shape) for y in backbone(torch.rand(1, 3, 64, 90))]
        [(1, 128, 8, 12), (1, 512, 2, 3)]
    """

    archs: ClassVar = {
        "t": MLLAArch(64, (2, 4, 8, 4)),
        "s": MLLAArch(64, (3, 6, 21, 6)),
        "b": MLLAArch(96, (3, 6, 21, 6)),
    }
    key_table: ClassVar = KeyTable(
        "MLLA",
        {
            "patch_embed": "stem",
            "layers.{}.blocks.{}": "stages.{}.blocks.{}",
            "layers.{}.blocks.{}.attn.rope.rotations": None,
            # The authors count a downsampling to the stage before it.
            **{
                f"layers.{i}.downsample.conv.{official}": f"stages.{i + 1}.downsample.{ours}"
                for i in range(3)
                for official, ours in (("0.conv", "expand"), ("1.conv", "dwconv"), ("2", "project"))
            },
            "norm": "head.norm",
            "head": "head.fc",
        },
    )

    def __init__(
        self,
        arch: str = "t",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        out_norm_cfg: Mapping | None = None,
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
        dims = self.spec.dims
        self.stem = MLLAStem(in_channels, dims[0])
        self.stages = ModuleList(
            MLLAStage(
                MLLADownsample(dims[i - 1]) if i else None,
                [MLLABlock(dims[i], rate) for rate in self.drop_path_rates[i]],
                with_cp,
            )
            for i in range(self.num_built)
        )
        init_linear(self)
        self.finish(out_norm_cfg)
