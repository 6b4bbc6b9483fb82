"""The skeleton of Swin that FLatten-Swin and SLAB-Swin share: linear attention in stages 1 and 2.

Source: Swin Transformer (arXiv 2103.14030), and the released models of FLatten and SLAB. Maps are
(B, H, W, C), channels last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from mmengine.model import ModuleList
from torch import Tensor, nn

from care_mm.models.precision import at_least_float32, without_autocast
from care_mm.models.staged import Stage
from care_mm.peers.base import PeerBackbone, drop_path, init_linear
from care_mm.peers.layers import MLP, NormLayer, pad_to_multiple
from care_mm.peers.prep_bn import PRepBN, fold_into_linear
from care_mm.peers.pvt import PatchEmbed
from care_mm.peers.token_attention import GridAttention

DIM = 96
HEAD_DIM = 32
MLP_RATIO = 4
NUM_LINEAR = 2  # stages with linear attention
LINEAR_WINDOW, SOFTMAX_WINDOW = 56, 7
_MASKED = -100.0


@dataclass(frozen=True)
class SwinArch:
    """The hyperparameters of a variant; the widths are those of every variant."""

    depths: tuple[int, int, int, int]


class WindowAttention(nn.Module):
    """Softmax attention in a window, with a learned bias for each relative position.

    Half-precision input is computed in float32, with or without autocast.

    Args:
        dim: Channels, a multiple of 32.
        window: Side of the window.
    """

    def __init__(self, dim: int, window: int) -> None:
        super().__init__()
        self.num_heads = dim // HEAD_DIM
        self.qkv = nn.Linear(dim, 3 * dim)
        places = (2 * window - 1) ** 2
        self.relative_position_bias_table = nn.Parameter(torch.zeros(places, self.num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.proj = nn.Linear(dim, dim)
        row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        rows = row.flatten()[:, None] - row.flatten() + window - 1
        columns = column.flatten()[:, None] - column.flatten() + window - 1
        self.register_buffer("index", rows * (2 * window - 1) + columns, persistent=False)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the attention's output for q, k and v, each (B * windows, w, w, C).

        Args:
            q: Queries.
            k: Keys.
            v: Values.
            mask: (windows, w * w, w * w), added to the logits, or ``None``.
        """
        shape, dtype = v.shape, v.dtype
        with without_autocast(v.device.type):
            heads = (self.num_heads, HEAD_DIM)
            q, k, v = (
                at_least_float32(x).flatten(1, 2).unflatten(-1, heads).transpose(1, 2)
                for x in (q, k, v)
            )
            logits = (q * HEAD_DIM**-0.5) @ k.transpose(-2, -1)
            table = at_least_float32(self.relative_position_bias_table)
            bias = table[self.index.flatten()].unflatten(0, self.index.shape).permute(2, 0, 1)
            logits = logits + bias
            if mask is not None:
                logits = logits.unflatten(0, (-1, len(mask))) + mask[:, None]
                logits = logits.flatten(0, 1)
            out = (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return self.proj(out.to(dtype).reshape(shape))


class SwinBlock(nn.Module):
    """Attention in windows and an MLP, each with a residual.

    The map is padded on the right and at the bottom, after the norm, with zeros to multiples of the
    window. Odd blocks shift the windows by half their side, along sides with more than one window.
    The padding takes part as keys, and linear attention ignores the mask of shifted windows: SLAB's
    detector does both.

    Args:
        dim: Channels.
        window: Side of the window.
        shifted: Whether windows are shifted.
        attention: Linear attention, or ``None`` for :class:`WindowAttention`.
        norm_layer: Builds the norms.
        drop_path_rate: Rate of stochastic depth on both branches.
    """

    def __init__(
        self,
        dim: int,
        window: int,
        shifted: bool,
        attention: type[GridAttention] | None,
        norm_layer: NormLayer,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.window = window
        self.shift = window // 2 if shifted else 0
        self.norm1 = norm_layer(dim)
        self.attn = (
            WindowAttention(dim, window)
            if attention is None
            else attention(dim, dim // HEAD_DIM, window, fused=True)
        )
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(dim, MLP_RATIO)
        self.drop_path = drop_path(drop_path_rate)
        # Projection of a padded pixel, which is zero before it; folding the norm changes the bias.
        self.register_buffer("pad_value", None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self._attend(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _attend(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        w = self.window
        # Projecting before padding saves the padding's products.
        qkv = self.attn.qkv(x)
        bottom, right = -height % w, -width % w
        if not isinstance(bottom + right, int) or bottom + right > 0:
            pad = (self.attn.qkv.bias if self.pad_value is None else self.pad_value).to(qkv.dtype)
            qkv = F.pad(qkv - pad, (0, 0, 0, right, 0, bottom)) + pad
        full = qkv.shape[1:3]
        shifts = tuple(self.shift if side > w else 0 for side in full)
        if any(shifts):
            qkv = qkv.roll((-shifts[0], -shifts[1]), (1, 2))
        q, k, v = windows(qkv, w).chunk(3, dim=-1)
        if isinstance(self.attn, GridAttention):
            out = self.attn.mix(q, k, v)
        else:
            mask = shift_mask(full, w, shifts, qkv) if any(shifts) else None
            out = self.attn.mix(q, k, v, mask)
        out = unite(out, full)
        if any(shifts):
            out = out.roll(shifts, (1, 2))
        return out[:, :height, :width]

    def switch_to_deploy(self) -> None:
        """Fold each PRepBN into the linear layer after it; a second call does nothing."""
        if isinstance(self.norm1, PRepBN):
            self.pad_value = self.attn.qkv.bias.detach().clone()
            self.attn.qkv = fold_into_linear(self.norm1, self.attn.qkv)
            self.norm1 = nn.Identity()
            self.mlp.fc1 = fold_into_linear(self.norm2, self.mlp.fc1)
            self.norm2 = nn.Identity()


def windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, side, side, C), window by window in row-major order."""
    batch, height, width, dim = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, dim)
    return x.transpose(2, 3).reshape(-1, side, side, dim)


def unite(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of :func:`windows` for a map of ``size``: height and width."""
    side, dim = x.shape[2:]
    rows, columns = size[0] // side, size[1] // side
    x = x.reshape(-1, rows, columns, side, side, dim)
    return x.transpose(2, 3).reshape(-1, size[0], size[1], dim)


def shift_mask(size: tuple[int, int], side: int, shifts: tuple[int, int], like: Tensor) -> Tensor:
    """Return -100 between pixels of a window that were not neighbours before the shift, else 0.

    Args:
        size: Height and width of the map.
        side: Side of a window.
        shifts: Shift of rows and of columns.
        like: A tensor of the mask's device.

    Returns:
        (windows, side * side, side * side) in float32.
    """
    regions = []
    for length, shift in zip(size, shifts, strict=True):
        place = torch.arange(length, device=like.device)
        cut = (place >= length - side).long() + (place >= length - shift).long()
        regions.append(cut if shift else torch.zeros_like(place))
    region = 3 * regions[0][:, None] + regions[1]
    region = windows(region[None, :, :, None], side).flatten(1)
    return (region[:, :, None] != region[:, None]).float() * _MASKED


class PatchMerging(nn.Module):
    """Concatenate 2x2 pixels, norm, project: (B, C, H, W) -> (B, 2 * C, H / 2, W / 2), rounded up.

    Odd sides are padded with zeros.
    """

    def __init__(self, dim: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.norm = norm_layer(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, 2 * C, H / 2, W / 2)."""
        x = pad_to_multiple(x, 2).permute(0, 2, 3, 1)
        cells = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(cells, dim=-1))).permute(0, 3, 1, 2)

    def switch_to_deploy(self) -> None:
        """Fold a PRepBN into the projection; a second call does nothing."""
        if isinstance(self.norm, PRepBN):
            self.reduction = fold_into_linear(self.norm, self.reduction)
            self.norm = nn.Identity()


class SwinStem(PatchEmbed):
    """Patch embedding of stride 4; the input is padded with zeros to sides divisible by 4."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) -> (B, dim, H / 4, W / 4), rounded up."""
        return super().forward(pad_to_multiple(x, 4))


class SwinStage(Stage):
    """Patch merging, except in the first stage, and blocks."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W')."""
        if self.downsample is not None:
            x = self.downsample(x)
        return self.run_blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def swin_names() -> dict[str, str | None]:
    """Return the authors' names of a Swin's modules -> ours."""
    return {
        "patch_embed": "stem",
        "layers.{}.blocks.{}": "stages.{}.blocks.{}",
        "layers.{}.blocks.{}.attn_mask": None,
        "layers.{}.blocks.{}.attn.relative_position_index": None,
        # The authors count a downsampling to the stage before it.
        **{f"layers.{i}.downsample": f"stages.{i + 1}.downsample" for i in range(3)},
        "norm": "head.norm",
        "head": "head.fc",
    }


class Swin(PeerBackbone):
    """A Swin with linear attention in stages 1 and 2; subclasses choose it and the norms.

    At ``img_size``, a window of stages 1 and 2 is the whole map, as in the classifiers. Windows
    keep their size on other images, as in SLAB's detector (FLatten published none): the map is
    padded to multiples of the window, and odd blocks shift the windows where there is more than
    one. SLAB's detector also adds a layer norm to each output:
    ``out_norm_cfg=dict(type="ChannelLN")``.

    Args:
        arch: Name of a variant in ``archs``.
        in_channels: Channels of the input.
        out_indices: See :class:`care_mm.peers.base.PeerBackbone`, as all further arguments.
        drop_path_rate: The authors use 0.2 for T and 0.3 for S on ImageNet.
        img_size: Side of the images, in pixels, that the windows are for.
        out_norm_cfg: An additional norm on each returned feature map, or ``None``.
        frozen_stages: Number of frozen stages.
        norm_eval: Keep batch norms in evaluation mode.
        with_cp: Activation checkpointing.
        init_cfg: mmengine's initialisation.
    """

    attention: ClassVar[type[GridAttention]]
    norm_layer: ClassVar[NormLayer]
    archs: ClassVar[Mapping[str, SwinArch]] = {
        "t": SwinArch((2, 2, 6, 2)),
        "s": SwinArch((2, 2, 18, 2)),
    }

    def __init__(
        self,
        arch: str = "t",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        img_size: int = 224,
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
        cls = type(self)
        self.stem = SwinStem(in_channels, DIM, 4, cls.norm_layer)
        stages = []
        for i in range(self.num_built):
            dim, side = DIM * 2**i, -(-img_size // (4 * 2**i))  # sides are rounded up
            linear = cls.attention if i < NUM_LINEAR else None
            window = min(side, LINEAR_WINDOW if linear else SOFTMAX_WINDOW)
            blocks = [
                SwinBlock(dim, window, bool(j % 2), linear, cls.norm_layer, rate)
                for j, rate in enumerate(self.drop_path_rates[i])
            ]
            merging = PatchMerging(dim // 2, cls.norm_layer) if i else None
            stages.append(SwinStage(merging, blocks, with_cp, dim))
        self.stages = ModuleList(stages)
        init_linear(self)
        self.finish(out_norm_cfg)
