"""MobileViG: inverted residual blocks, and graph convolutions on a fixed sparse graph.

Source: MobileViG: Graph-Based Sparse Attention for Mobile Vision Applications, CVPRW 2023
(arXiv 2307.00395), and the authors' released models. Tensors are (B, C, H, W) throughout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.models.fold import fold_norm_after, fold_scale_after, is_foldable
from care_mm.models.staged import Stage
from care_mm.peers.base import PeerBackbone, drop_path
from care_mm.peers.key_table import KeyTable

STEP = 2  # neighbours are 2, 4, 6, ... rows or columns away, around the border of the map
RATIO = 4  # expansion of every block


class ConvNorm(nn.Sequential):
    """A convolution with bias, and the batch norm after it.

    Args:
        in_dim: Input channels.
        dim: Output channels.
        kernel_size: Odd side of the kernel; the map is padded to keep its size at stride 1.
        stride: Stride of the convolution.
        groups: Groups of the convolution.
    """

    def __init__(
        self, in_dim: int, dim: int, kernel_size: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_dim, dim, kernel_size, stride, kernel_size // 2, groups=groups)
        self.norm = nn.BatchNorm2d(dim)
        nn.init.kaiming_normal_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def switch_to_deploy(self) -> None:
        """Fold the norm into the convolution; a second call does nothing."""
        if is_foldable(self.norm):
            self.conv = fold_norm_after(self.conv, self.norm)
            self.norm = nn.Identity()


class LocalBlock(nn.Module):
    """Inverted residual block with layer scale (stages 1 to 3): ``x + DropPath(gamma * M(x))``.

    Args:
        dim: Channels.
        drop_path: Module that drops its input per sample, or the identity.
        layer_scale_init_value: Initial gamma.
    """

    def __init__(
        self, dim: int, drop_path: nn.Module, layer_scale_init_value: float = 1e-5
    ) -> None:
        super().__init__()
        hidden_dim = RATIO * dim
        self.expand = ConvNorm(dim, hidden_dim)
        self.local = ConvNorm(hidden_dim, hidden_dim, 3, groups=hidden_dim)
        self.project = ConvNorm(hidden_dim, dim)
        self.act = nn.GELU()
        self.gamma = nn.Parameter(torch.full((dim, 1, 1), float(layer_scale_init_value)))
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        y = self.project(self.act(self.local(self.act(self.expand(x)))))
        if self.gamma is not None:  # a folded block has it in its projection
            y = self.gamma * y
        return x + self.drop_path(y)

    def switch_to_deploy(self) -> None:
        """Fold the norms into the convolutions and gamma into the projection, once."""
        if self.gamma is None:
            return
        for layer in (self.expand, self.local, self.project):
            layer.switch_to_deploy()
        self.project.conv = fold_scale_after(self.project.conv, self.gamma.flatten())
        self.gamma = None


def least_neighbour(x: Tensor, dim: int) -> Tensor:
    """Return the minimum over each place and its neighbours along a side.

    The neighbours of place ``p`` are ``(p - s) mod side`` for s = 2, 4, ... below the side. The
    minimum over a run of them is built by doubling: the number of operations grows with the
    logarithm of the side.

    Args:
        x: A map.
        dim: The side, as a dimension of ``x``.
    """
    places = (x.shape[dim] + STEP - 1) // STEP  # the place itself counts
    least, covered = x, 1
    while covered < places:
        step = min(covered, places - covered)
        least = torch.minimum(least, least.roll(STEP * step, dim))
        covered += step
    return least


class GraphConv(nn.Module):
    """Max-relative graph convolution on a fixed graph (paper: SVGA), from C to 2C channels.

    Each pixel is connected to every second pixel of its row and of its column. The published code
    takes the maximum over the neighbours of ``x - neighbour``, and 0 if that is negative. This is
    ``x`` minus the least of the neighbours and ``x`` itself, without a difference for each
    neighbour.

    Args:
        dim: Input channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = ConvNorm(2 * dim, 2 * dim)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, 2 * dim, H, W)."""
        relative = x - torch.minimum(least_neighbour(x, 2), least_neighbour(x, 3))
        return self.act(self.mix(torch.cat((x, relative), dim=1)))


class GlobalBlock(nn.Module):
    """Graph convolution between two 1x1 convolutions, then an MLP, each with a residual (stage 4).

    Args:
        dim: Channels.
        drop_path: Module that drops its input per sample, or the identity; both halves use it.
    """

    def __init__(self, dim: int, drop_path: nn.Module) -> None:
        super().__init__()
        self.enter = ConvNorm(dim, dim)
        self.graph = GraphConv(dim)
        self.leave = ConvNorm(2 * dim, dim)
        self.expand = ConvNorm(dim, RATIO * dim)
        self.act = nn.GELU()
        self.project = ConvNorm(RATIO * dim, dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        x = x + self.drop_path(self.leave(self.graph(self.enter(x))))
        return x + self.drop_path(self.project(self.act(self.expand(x))))


class Stem(nn.Sequential):
    """Two 3x3 convolutions of stride 2, each with batch norm and GELU."""

    def __init__(self, in_dim: int, dim: int) -> None:
        super().__init__(
            ConvNorm(in_dim, dim // 2, 3, 2), nn.GELU(), ConvNorm(dim // 2, dim, 3, 2), nn.GELU()
        )


@dataclass(frozen=True)
class Arch:
    """The hyperparameters of a size of MobileViG.

    Attributes:
        depths: Number of blocks of each stage; the blocks of stage 4 are global.
        dims: Channels of each stage.
        head_dim: Hidden channels of the classifier.
    """

    depths: tuple[int, int, int, int]
    dims: tuple[int, int, int, int]
    head_dim: int


ARCHS = {
    "ti": Arch((2, 2, 6, 2), (42, 84, 168, 256), 512),
    "s": Arch((3, 3, 9, 3), (42, 84, 176, 256), 512),
    "m": Arch((3, 3, 9, 3), (42, 84, 224, 400), 768),
    "b": Arch((5, 5, 15, 5), (42, 84, 240, 464), 768),
}
# The authors' names -> ours. Their local stages are one list of blocks and downsamplings, which
# :func:`_number_by_stage` divides into ``stages`` first.
KEY_TABLE = KeyTable(
    "MobileViG",
    {
        "stem.stem.0": "stem.0.conv",
        "stem.stem.1": "stem.0.norm",
        "stem.stem.3": "stem.2.conv",
        "stem.stem.4": "stem.2.norm",
        "local_stages.{}.downsample.conv.0": "stages.{}.downsample.conv",
        "local_stages.{}.downsample.conv.1": "stages.{}.downsample.norm",
        "local_stages.{}.{}.layer_scale_2": "stages.{}.blocks.{}.gamma",
        "local_stages.{}.{}.mlp.fc1": "stages.{}.blocks.{}.expand.conv",
        "local_stages.{}.{}.mlp.norm1": "stages.{}.blocks.{}.expand.norm",
        "local_stages.{}.{}.mlp.mid": "stages.{}.blocks.{}.local.conv",
        "local_stages.{}.{}.mlp.mid_norm": "stages.{}.blocks.{}.local.norm",
        "local_stages.{}.{}.mlp.fc2": "stages.{}.blocks.{}.project.conv",
        "local_stages.{}.{}.mlp.norm2": "stages.{}.blocks.{}.project.norm",
        "backbone.{}.0.fc1.0": "stages.3.blocks.{}.enter.conv",
        "backbone.{}.0.fc1.1": "stages.3.blocks.{}.enter.norm",
        "backbone.{}.0.graph_conv.nn.0": "stages.3.blocks.{}.graph.mix.conv",
        "backbone.{}.0.graph_conv.nn.1": "stages.3.blocks.{}.graph.mix.norm",
        "backbone.{}.0.fc2.0": "stages.3.blocks.{}.leave.conv",
        "backbone.{}.0.fc2.1": "stages.3.blocks.{}.leave.norm",
        "backbone.{}.1.fc1.0": "stages.3.blocks.{}.expand.conv",
        "backbone.{}.1.fc1.1": "stages.3.blocks.{}.expand.norm",
        "backbone.{}.1.fc2.0": "stages.3.blocks.{}.project.conv",
        "backbone.{}.1.fc2.1": "stages.3.blocks.{}.project.norm",
        "prediction.1": "head.enter.conv",
        "prediction.2": "head.enter.norm",
        "head": "head.label",
        "dist_head": "head.distill",
    },
)
_LOCAL = re.compile(r"local_backbone\.(\d+)\.(conv\.)?")


def _number_by_stage(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``local_backbone.I`` to ``local_stages.S.B`` or ``local_stages.S.downsample``."""
    places: dict[int, str] = {}
    matches = {key: match for key in state_dict if (match := _LOCAL.match(key))}
    ends = {int(match[1]) for match in matches.values() if match[2]}
    stage = block = 0
    for number in sorted({int(match[1]) for match in matches.values()}):
        if number in ends:
            stage, block = stage + 1, 0
            places[number] = f"local_stages.{stage}.downsample"
        else:
            places[number] = f"local_stages.{stage}.{block}"
            block += 1
    return {
        f"{places[int(matches[key][1])]}.{key.split('.', 2)[2]}" if key in matches else key: value
        for key, value in state_dict.items()
    }


@MODELS.register_module()
class MobileViG(PeerBackbone):
    """MobileViG: inverted residual blocks in stages 1 to 3, graph convolutions in stage 4.

    The input may have any size: the graph wraps around the borders of the map, whatever its sides.
    Odd sides are rounded up. Exported files need a fixed size, which sets the neighbours. The maps
    are the outputs of the stages, without a further norm, as in the authors' detectors.

    Args:
        arch: ``'ti'``, ``'s'``, ``'m'`` or ``'b'``.
        in_channels: Channels of the input.
        out_indices: As in :class:`PeerBackbone`.
        drop_path_rate: Drop path rate of the last block; it grows linearly from 0. The authors
            train the classifiers with 0.1.
        frozen_stages: As in :class:`PeerBackbone`.
        norm_eval: As in :class:`PeerBackbone`. The authors' detectors use ``True``.
        with_cp: As in :class:`PeerBackbone`.
        init_cfg: As in :class:`PeerBackbone`.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map.

    Raises:
        ValueError: Unknown or inconsistent arguments.

    Example:
        >>> backbone = MobileViG('ti', out_indices=(1, -1))
        >>> [tuple(y.shape) for y in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 84, 8, 12), (1, 256, 2, 3)]
    """

    archs = ARCHS
    key_table = KEY_TABLE

    def __init__(
        self,
        arch: str = "s",
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
        self.stem = Stem(in_channels, self.spec.dims[0])
        self.stages = ModuleList(self._build_stage(i) for i in range(self.num_built))
        self.finish()

    def _build_stage(self, i: int) -> Stage:
        dim = self.spec.dims[i]
        downsample = ConvNorm(self.spec.dims[i - 1], dim, 3, 2) if i else None
        block = LocalBlock if i < 3 else GlobalBlock
        blocks = [block(dim, drop_path(rate)) for rate in self.drop_path_rates[i]]
        return Stage(downsample, blocks, self.with_cp, dim)

    @classmethod
    def is_official(cls, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether most of the keys are the authors'."""
        return super().is_official(_number_by_stage(state_dict))

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' keys to those of our classifier (``backbone.*``, ``head.*``).

        Raises:
            care_mm.errors.InputError: A key is not one of the authors'.
        """
        return super().convert_official(_number_by_stage(state_dict))
