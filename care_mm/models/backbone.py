"""The CARE backbone, registered for every task and OpenMMLab scope.

Source: CARE Transformer, CVPR 2025 (arXiv 2411.16170), and the authors' released models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList, initialize
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from care_mm.config import is_pretrained
from care_mm.models.arch import Arch
from care_mm.models.layers import CAREBlock, ConvNorm
from care_mm.models.pretrained import load_pretrained


@contextmanager
def _running_stats_kept(module: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, and discard the copies.

    Turning the tracking off would save fewer tensors for the backward pass than the first forward
    pass did, and activation checkpointing rejects this.
    """
    kept = [
        (norm, name, buffer)
        for norm in module.modules()
        if isinstance(norm, _BatchNorm)
        for name, buffer in norm.named_buffers(recurse=False)
    ]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)


class CAREStage(BaseModule):
    """Downsampling, except in the first stage, and blocks at one resolution.

    Args:
        downsample: Module that halves the sides and returns the stage's channels, or ``None``.
        blocks: The stage's blocks.
        with_cp: Recompute each block in the backward pass to save memory.
    """

    def __init__(
        self, downsample: nn.Module | None, blocks: Sequence[CAREBlock], with_cp: bool = False
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = ModuleList(blocks)
        self.with_cp = with_cp
        self.out_channels = blocks[-1].out_channels

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, out_channels, H // 2, W // 2), or (H, W) in the first stage."""
        if self.downsample is not None:
            x = self.downsample(x)
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled() and self.training:
                # Without the context, recomputing would update the running statistics twice.
                x = checkpoint(
                    block,
                    x,
                    use_reentrant=False,
                    context_fn=lambda block=block: (nullcontext(), _running_stats_kept(block)),
                )
            else:
                x = block(x)
        return x


@MODELS.register_module()
class CARETransformer(BaseModule):
    """CARE: linear attention on a third of the channels, convolutions on the rest, and a memory.

    Args:
        arch: ``'s0'``, ``'s1'``, ``'s2'``, or a dict with the fields of
            :class:`care_mm.models.arch.Arch`. A dict with a ``base`` gives only the fields that
            differ: ``dict(base='s1', memory=False)``.
        in_channels: Channels of the input.
        out_indices: Stages whose outputs are returned, in increasing order; negative numbers count
            from the last stage. Stages beyond the last one are not built.
        drop_path_rate: Drop path rate of the last block; it grows linearly from 0.
        layer_scale_init_value: Initial value of the layer scale gamma.
        norm_cfg: Norm of the stem, the downsampling and the interactions (``BN``, ``SyncBN``, ...).
        act_cfg: Activation of the interactions.
        out_norm_cfg: An additional norm on each returned feature map, or ``None``.
        expand_last: ``True`` builds the published stage 4, whose last block returns Inter2's
            hidden channels (1024 / 1024 / 1536). ``False`` gives this block a projection, residual
            and gamma like the others (256 / 256 / 384 channels); ImageNet weights do not cover
            them. Without Inter2, the block is built like the others in either case.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages. Frozen
            parts get no gradients, and their norms stay in evaluation mode.
        norm_eval: Keep all batch norms in evaluation mode; their affine parameters still train.
        with_cp: Activation checkpointing of each block while training.
        deploy: Build the folded form, see :meth:`switch_to_deploy`.
        init_cfg: mmengine's initialisation. Type ``Pretrained`` accepts our files and the authors',
            and refuses a file that does not cover the backbone.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map.

    Raises:
        ValueError: Unknown or inconsistent ``arch``, ``out_indices`` or ``frozen_stages``.

    Example:
        >>> backbone = CARETransformer('s1', out_indices=(1, -1))
        >>> [tuple(y.shape) for y in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 64, 8, 12), (1, 1024, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping = "s1",
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float = 1e-6,
        norm_cfg: Mapping = dict(type="BN"),
        act_cfg: Mapping = dict(type="GELU"),
        out_norm_cfg: Mapping | None = None,
        expand_last: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        deploy: bool = False,
        init_cfg: Mapping | Sequence[Mapping] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = Arch.get(arch)
        num_stages = len(self.arch.depths)
        self.in_channels = in_channels
        self.out_indices = _check_out_indices(out_indices, num_stages)
        num_built = self.out_indices[-1] + 1
        if not -1 <= frozen_stages <= num_built:
            raise ValueError(
                f"frozen_stages={frozen_stages}: must be from -1 (none) to {num_built}, the number "
                "of stages that out_indices needs"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.norm_cfg = dict(norm_cfg)
        self.act_cfg = dict(act_cfg)
        self.layer_scale_init_value = layer_scale_init_value
        self.expand_last = expand_last and self.arch.inter2
        self.with_cp = with_cp

        rates = torch.linspace(0, drop_path_rate, sum(self.arch.depths), device="cpu")
        rates_by_stage = [part.tolist() for part in rates.split(self.arch.depths)]
        self.stem = ConvNorm(
            in_channels, self.arch.embed_dims[0], 4, self._norm_layer, norm_first=False
        )
        self.stages = ModuleList(self._build_stage(i, rates_by_stage[i]) for i in range(num_built))

        self.out_channels = tuple(self.stages[i].out_channels for i in self.out_indices)
        self.out_strides = tuple(4 * 2**i for i in self.out_indices)
        self.min_size = 4 * 2 ** (num_built - 1)
        self.out_norms = nn.ModuleDict()
        if out_norm_cfg is not None:
            for i, channels in zip(self.out_indices, self.out_channels, strict=True):
                self.out_norms[str(i)] = build_norm_layer(dict(out_norm_cfg), channels)[1]

        self._init_layers()
        self._freeze_stages()
        if deploy:
            self.switch_to_deploy()

    def _norm_layer(self, dim: int) -> nn.Module:
        return build_norm_layer(self.norm_cfg, dim)[1]

    def _act_layer(self) -> nn.Module:
        return build_activation_layer(self.act_cfg)

    def _build_stage(self, i: int, drop_path_rates: Sequence[float]) -> CAREStage:
        """Build stage ``i`` with one block for each drop path rate."""
        arch = self.arch
        is_last_stage = i == len(arch.depths) - 1
        blocks = [
            CAREBlock(
                arch.mem_dims[i],
                arch.interaction_ratios[i],
                arch.attn_head_dims[i],
                self._norm_layer,
                self._act_layer,
                DropPath(rate) if rate > 0 else None,
                self.layer_scale_init_value,
                expand=self.expand_last and is_last_stage and j == arch.depths[i] - 1,
                memory=arch.memory,
                inter1=arch.inter1,
                inter2=arch.inter2,
                decoupling=arch.decoupling,
            )
            for j, rate in enumerate(drop_path_rates)
        ]
        downsample = None
        if i > 0:
            dims = arch.embed_dims[i - 1 : i + 1]
            downsample = ConvNorm(*dims, 2, self._norm_layer, norm_first=True)
        return CAREStage(downsample, blocks, self.with_cp)

    def _init_layers(self) -> None:
        """Initialise as the authors do: weights truncated normal of std 0.02, biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @property
    def fresh_keys(self) -> frozenset[str]:
        """Keys that ImageNet weights of this arch do not have."""
        keys = {f"out_norms.{name}" for name in self.out_norms.state_dict()}
        last_stage = len(self.arch.depths) - 1
        # Without Inter2, the last block of the ImageNet model has a gamma like the others.
        if self.arch.inter2 and self.out_indices[-1] == last_stage:
            prefix = f"stages.{last_stage}.blocks.{self.arch.depths[last_stage] - 1}."
            names = ("gamma", "inter2.fc2.weight", "inter2.fc2.bias")
            keys.update({prefix + name for name in names} & set(self.state_dict()))
        return frozenset(keys)

    def is_unexpected(self, key: str) -> bool:
        """Whether the key belongs to the stem or a built stage and the backbone does not have it.

        A file may hold weights of heads and of stages that are not built, and the projection of a
        last block built with ``expand_last=False``. They are ignored.
        """
        if key in self.state_dict():
            return False
        stage = re.match(r"stages\.(\d+)\.", key)
        if not key.startswith("stem.") and not (stage and int(stage[1]) < len(self.stages)):
            return False
        last_block = f"stages.{len(self.stages) - 1}.blocks.{len(self.stages[-1].blocks) - 1}."
        return not key.startswith((last_block + "inter2.fc2.", last_block + "gamma"))

    def init_weights(self) -> None:
        """Apply ``init_cfg``; type ``Pretrained`` loads strictly and logs what matched.

        Raises:
            care_mm.errors.InputError: The file is missing or unreadable, or does not cover the
                backbone.
        """
        cfgs = self.init_cfg if isinstance(self.init_cfg, list | tuple) else [self.init_cfg]
        pretrained = [cfg for cfg in cfgs if cfg and is_pretrained(cfg)]
        if not pretrained:
            super().init_weights()
            return
        initialize(self, [cfg for cfg in cfgs if cfg not in pretrained])
        for cfg in pretrained:
            load_pretrained(self, cfg["checkpoint"], prefix=cfg.get("prefix"))
        self._is_init = True

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> tuple of (B, out_channels[i], H // stride, W // stride).

        Raises:
            ValueError: The number of channels is wrong, or a side is below the largest stride.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"input of shape {tuple(x.shape)}: need (B, {self.in_channels}, H, W)")
        if x.shape[2] < self.min_size or x.shape[3] < self.min_size:
            raise ValueError(
                f"input of {x.shape[2]}x{x.shape[3]} pixels is too small: both sides need at "
                f"least {self.min_size}"
            )
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                outs.append(self.out_norms[str(i)](x) if self.out_norms else x)
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> CARETransformer:
        """Set the mode, then freeze the frozen stages again."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):  # also covers SyncBN, which is not a BatchNorm2d
                    module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Fold norms and layer scales into convolutions, exactly; a second call does nothing.

        The folded form is for inference. Its outputs equal those of evaluation mode up to
        rounding, and its state dict loads strictly into a model built with ``deploy=True``.
        """
        for module in self.modules():
            if isinstance(module, ConvNorm | CAREBlock):
                module.switch_to_deploy()


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    indices = tuple(i + num_stages if i < 0 else i for i in out_indices)
    in_range = all(0 <= i < num_stages for i in indices)
    if not indices or not in_range or list(indices) != sorted(set(indices)):
        raise ValueError(
            f"out_indices={tuple(out_indices)}: need increasing stage numbers from "
            f"{-num_stages} to {num_stages - 1}"
        )
    return indices
