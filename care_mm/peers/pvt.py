"""The skeleton of PVT that FLatten-PVT and SLAB-PVT share: global attention in all four stages.

Source: Pyramid Vision Transformer (arXiv 2102.12122), and the released models of FLatten and SLAB.
Maps are (B, H, W, C), channels last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from mmengine.model import ModuleList
from torch import Tensor, nn

from care_mm.models.fold import fold_norm_after
from care_mm.models.staged import Stage
from care_mm.peers.base import PeerBackbone, drop_path, init_linear
from care_mm.peers.layers import MLP, NormLayer
from care_mm.peers.prep_bn import PRepBN, fold_into_linear
from care_mm.peers.token_attention import GridAttention, resize_encoding

DIMS = (64, 128, 320, 512)
NUM_HEADS = (1, 2, 5, 8)
MLP_RATIOS = (8, 8, 4, 4)


@dataclass(frozen=True)
class PVTArch:
    """The hyperparameters of a variant; widths, heads and ratios are those of every variant."""

    depths: tuple[int, int, int, int]


class PatchEmbed(nn.Module):
    """Convolution whose kernel is its stride, and a norm: (B, C, H, W) -> (B, C', H / p, W / p).

    Sides are rounded down.
    """

    def __init__(self, in_dim: int, dim: int, patch: int, norm_layer: NormLayer) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_dim, dim, patch, patch)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_dim, H, W) -> (B, dim, H / patch, W / patch)."""
        return self.norm(self.proj(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def switch_to_deploy(self) -> None:
        """Fold a PRepBN into the convolution; a second call does nothing."""
        if isinstance(self.norm, PRepBN):
            self.proj = fold_norm_after(self.proj, self.norm.batch_norm())
            self.norm = nn.Identity()


class PVTBlock(nn.Module):
    """Attention over the whole map and an MLP, each with a residual.

    Args:
        dim: Channels.
        ratio: Expansion of the MLP.
        attention: The attention, with separate projections.
        norm_layer: Builds the norms.
        drop_path_rate: Rate of stochastic depth on both branches.
    """

    def __init__(
        self,
        dim: int,
        ratio: int,
        attention: GridAttention,
        norm_layer: NormLayer,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = attention
        self.norm2 = norm_layer(dim)
        self.mlp = MLP(dim, ratio)
        self.drop_path = drop_path(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def switch_to_deploy(self) -> None:
        """Fold each PRepBN into the linear layers after it; a second call does nothing."""
        if isinstance(self.norm1, PRepBN):
            self.attn.q = fold_into_linear(self.norm1, self.attn.q)
            self.attn.kv = fold_into_linear(self.norm1, self.attn.kv)
            self.norm1 = nn.Identity()
            self.mlp.fc1 = fold_into_linear(self.norm2, self.mlp.fc1)
            self.norm2 = nn.Identity()


class PVTStage(Stage):
    """Patch embedding, except in the first stage, learned positions, and blocks.

    Args:
        downsample: Patch embedding, or ``None``.
        blocks: The stage's blocks.
        dim: Channels.
        side: Height and width of the grid that ``pos_embed`` is for. On other grids, it is resized
            bilinearly, as in the authors' classifiers.
        with_cp: Activation checkpointing of each block.
    """

    def __init__(
        self,
        downsample: nn.Module | None,
        blocks: Sequence[PVTBlock],
        dim: int,
        side: int,
        with_cp: bool,
    ) -> None:
        super().__init__(downsample, blocks, with_cp, dim)
        self.side = side
        self.pos_embed = nn.Parameter(torch.zeros(1, side * side, dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, C, H', W')."""
        if self.downsample is not None:
            x = self.downsample(x)
        x = x.permute(0, 2, 3, 1)
        x = x + resize_encoding(self.pos_embed, self.side, x.shape[1:3])
        return self.run_blocks(x).permute(0, 3, 1, 2)


def pvt_names(**more: str | None) -> dict[str, str | None]:
    """Return the authors' names of a PVT's modules -> ours."""
    names = {"patch_embed1": "stem", "head": "head.fc", **more}
    for i in range(4):
        names[f"pos_embed{i + 1}"] = f"stages.{i}.pos_embed"
        names[f"block{i + 1}.{{}}"] = f"stages.{i}.blocks.{{}}"
        if i:
            names[f"patch_embed{i + 1}"] = f"stages.{i}.downsample"
    return names


class PVT(PeerBackbone):
    """A PVT with linear attention; subclasses choose the attention and the norms.

    The authors published no dense models: ``pos_embed`` and ``positional_encoding`` are resized
    bilinearly to the size of each map, and sides that a stride does not divide are rounded down.

    Args:
        arch: Name of a variant in ``archs``.
        in_channels: Channels of the input.
        out_indices: See :class:`care_mm.peers.base.PeerBackbone`, as all further arguments.
        drop_path_rate: Drop path rate of the last block.
        img_size: Side of the images, in pixels, that the learned positions are for.
        out_norm_cfg: An additional norm on each returned feature map, or ``None``.
        frozen_stages: Number of frozen stages.
        norm_eval: Keep batch norms in evaluation mode.
        with_cp: Activation checkpointing.
        init_cfg: mmengine's initialisation.
    """

    attention: ClassVar[type[GridAttention]]
    embed_norm: ClassVar[NormLayer]
    block_norm: ClassVar[NormLayer]

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
        self.stem = PatchEmbed(in_channels, DIMS[0], 4, cls.embed_norm)
        stages = []
        for i in range(self.num_built):
            dim, side = DIMS[i], img_size // (4 * 2**i)
            blocks = [
                PVTBlock(
                    dim,
                    MLP_RATIOS[i],
                    cls.attention(dim, NUM_HEADS[i], side, fused=False),
                    cls.block_norm,
                    rate,
                )
                for rate in self.drop_path_rates[i]
            ]
            embed = PatchEmbed(DIMS[i - 1], dim, 2, cls.embed_norm) if i else None
            stages.append(PVTStage(embed, blocks, dim, side, with_cp))
        self.stages = ModuleList(stages)
        init_linear(self)
        self.finish(out_norm_cfg)
