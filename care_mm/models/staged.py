"""The base of every backbone: outputs of stages, freezing, checkpointing and strict weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext

import torch
from mmcv.cnn import build_norm_layer
from mmengine.model import BaseModule, initialize
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from care_mm.config import is_pretrained
from care_mm.models.layout import prefers_channels_last
from care_mm.models.pretrained import load_pretrained


def checkpointed(module: nn.Module, *args: Tensor) -> Tensor:
    """Call a module without keeping its intermediate tensors, which backward computes again.

    The second pass starts from the buffers of the first one, and its changes to them are discarded:
    running statistics and counters see each batch once. Turning their tracking off would save fewer
    tensors than the first pass did, and activation checkpointing rejects this.
    """
    before = [
        (part, name, buffer.clone())
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False)
    ]
    contexts = (nullcontext(), _buffers_replaced(before))
    return checkpoint(module, *args, use_reentrant=False, context_fn=lambda: contexts)


@contextmanager
def _buffers_replaced(values: Sequence[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    kept = [(part, name, getattr(part, name)) for part, name, _ in values]
    for part, name, value in values:
        setattr(part, name, value)
    try:
        yield
    finally:
        for part, name, buffer in kept:
            setattr(part, name, buffer)


class Stage(BaseModule):
    """Downsampling, except in the first stage, and blocks at one resolution.

    Args:
        downsample: Module that halves the sides and returns the stage's channels, or ``None``.
        blocks: The stage's blocks.
        with_cp: Recompute each block in the backward pass to save memory.
        out_channels: Channels of the output; ``None`` reads them from the last block.
    """

    __jit_unused_properties__ = ("is_init",)

    def __init__(
        self,
        downsample: nn.Module | None,
        blocks: Sequence[nn.Module],
        with_cp: bool = False,
        out_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)
        self.with_cp = with_cp
        self.out_channels = blocks[-1].out_channels if out_channels is None else out_channels

    def run_blocks(self, x: Tensor, *args: Tensor) -> Tensor:
        """Return the output of the last block; every block gets the same further arguments."""
        for block in self.blocks:
            if self.with_cp and torch.is_grad_enabled() and self.training:
                x = checkpointed(block, x, *args)
            else:
                x = block(x, *args)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, C_in, H, W) -> (B, out_channels, H', W'), at half the sides if it downsamples."""
        if self.downsample is not None:
            x = self.downsample(x)
        if torch.jit.is_scripting():
            for block in self.blocks:
                x = block(x)
            return x
        else:  # torch.jit.script rejects a variable number of arguments
            return self.run_blocks(x)


class StagedBackbone(BaseModule):
    """A stem of stride 4, and stages that halve the sides, except the first.

    A subclass calls this constructor, sets ``stem`` and ``stages`` (``num_built`` of them, each
    with ``out_channels``), and then calls :meth:`finish`.

    Args:
        num_stages: Number of stages of the published model.
        in_channels: Channels of the input.
        out_indices: Stages whose outputs are returned, in increasing order; negative numbers count
            from the last stage.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: Keep all batch norms in evaluation mode.
        init_cfg: mmengine's initialisation; type ``Pretrained`` loads strictly.

    Attributes:
        num_built: Number of stages that ``out_indices`` needs.
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map.
        min_size: Smallest side of an input in pixels.
        channels_last_on_cpu: Compute in channels_last layout where that is faster, see
            :mod:`care_mm.models.layout`. The outputs have the layout of the input.

    Raises:
        ValueError: ``out_indices`` or ``frozen_stages`` do not fit the number of stages.
    """

    __jit_unused_properties__ = ("fresh_keys", "is_init")
    channels_last_on_cpu = True

    def __init__(
        self,
        num_stages: int,
        in_channels: int,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        init_cfg: Mapping | Sequence[Mapping] | None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.in_channels = in_channels
        self.out_indices = _check_out_indices(out_indices, num_stages)
        self.num_built = self.out_indices[-1] + 1
        if not -1 <= frozen_stages <= self.num_built:
            raise ValueError(
                f"frozen_stages={frozen_stages}: must be from -1 (none) to {self.num_built}, the "
                "number of stages that out_indices needs"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

    def finish(self, out_norm_cfg: Mapping | None = None) -> None:
        """Declare the outputs, add their norms, and freeze what is to be frozen."""
        self.out_channels = tuple(self.stages[i].out_channels for i in self.out_indices)
        self.out_strides = tuple(4 * 2**i for i in self.out_indices)
        self.min_size = 4 * 2 ** (self.num_built - 1)
        self.out_norms = nn.ModuleDict()
        if out_norm_cfg is not None:
            for i, channels in zip(self.out_indices, self.out_channels, strict=True):
                self.out_norms[str(i)] = build_norm_layer(dict(out_norm_cfg), channels)[1]
        self._freeze_stages()

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' keys to those of our classifier (``backbone.*``, ``head.*``).

        Raises:
            care_mm.errors.InputError: A key is not one of the authors'.
        """
        raise NotImplementedError

    @classmethod
    def is_official(cls, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether most of the keys are the authors'."""
        raise NotImplementedError

    @property
    def fresh_keys(self) -> frozenset[str]:
        """Keys that ImageNet weights of this arch do not have."""
        return frozenset(f"out_norms.{name}" for name in self.out_norms.state_dict())

    def is_unexpected(self, key: str) -> bool:
        """Whether the key belongs to the stem or a built stage and the backbone does not have it.

        A file may hold weights of heads and of stages that are not built. They are ignored.
        """
        if key in self.state_dict():
            return False
        stage = re.match(r"stages\.(\d+)\.", key)
        return key.startswith("stem.") or bool(stage and int(stage[1]) < len(self.stages))

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

    @torch.jit.unused
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> tuple of (B, out_channels[i], H / stride, W / stride).

        Raises:
            ValueError: The number of channels is wrong, or a side is below the largest stride.
        """
        to_nchw = False
        if isinstance(x, Tensor):  # torch.fx traces with proxies, which have no sizes to compare
            self.check_input(x)
            if self.channels_last_on_cpu and prefers_channels_last(x):
                # mmcv's operators, such as RoIAlign, read any map as NCHW
                to_nchw = x.is_contiguous()
                x = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i in self.out_indices:
                out = self.out_norms[str(i)](x) if self.out_norms else x
                outs.append(out.contiguous() if to_nchw else out)
        return tuple(outs)

    def check_input(self, x: Tensor) -> None:
        """Raise ValueError for a wrong number of channels, or a side below the largest stride."""
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"input of shape {tuple(x.shape)}: need (B, {self.in_channels}, H, W)")
        if x.shape[2] < self.min_size or x.shape[3] < self.min_size:
            raise ValueError(
                f"input of {x.shape[2]}x{x.shape[3]} pixels is too small: both sides need at "
                f"least {self.min_size}"
            )

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for module in (self.stem, *self.stages[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> StagedBackbone:
        """Set the mode, then freeze the frozen stages again."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):  # also covers SyncBN, which is not a BatchNorm2d
                    module.eval()
        return self

    def switch_to_deploy(self) -> None:
        """Fold everything that folds exactly; a second call does nothing.

        The folded form is for inference. Its outputs equal those of evaluation mode up to rounding.
        """
        for module in list(self.modules()):
            if module is not self and hasattr(module, "switch_to_deploy"):
                module.switch_to_deploy()


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the rate of each block by stage: it grows linearly from 0 to ``rate``."""
    rates = torch.linspace(0, rate, sum(depths), device="cpu")
    return [part.tolist() for part in rates.split(tuple(depths))]


def _check_out_indices(out_indices: Sequence[int], num_stages: int) -> tuple[int, ...]:
    indices = tuple(i + num_stages if i < 0 else i for i in out_indices)
    in_range = all(0 <= i < num_stages for i in indices)
    if not indices or not in_range or list(indices) != sorted(set(indices)):
        raise ValueError(
            f"out_indices={tuple(out_indices)}: need increasing stage numbers from "
            f"{-num_stages} to {num_stages - 1}"
        )
    return indices
