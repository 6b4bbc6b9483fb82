"""The base of the peers: the arguments and attributes that they share with ``CARETransformer``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from mmcv.cnn.bricks import DropPath
from torch import Tensor, nn

from care_mm.models.staged import StagedBackbone, drop_path_rates
from care_mm.peers.key_table import KeyTable


class PeerBackbone(StagedBackbone):
    """A backbone of another paper, with the interface of ``CARETransformer``.

    A subclass has the class attributes ``archs`` and ``key_table``. Its constructor calls this one,
    builds ``stem`` and the first ``num_built`` of its ``stages``, initialises them, and calls
    :meth:`finish`.

    Args:
        arch: Name of a variant in ``archs``.
        in_channels: Channels of the input.
        out_indices: Stages whose outputs are returned, in increasing order; negative numbers count
            from the last stage. Stages beyond the last one are not built.
        drop_path_rate: Drop path rate of the last block; it grows linearly from 0.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages. Frozen
            parts get no gradients, and their norms stay in evaluation mode.
        norm_eval: Keep all batch norms in evaluation mode; their affine parameters still train.
        with_cp: Activation checkpointing of each block while training.
        init_cfg: mmengine's initialisation. Type ``Pretrained`` accepts our files and the authors',
            and refuses a file that does not cover the backbone.

    Attributes:
        arch: Name of the variant, in lower case.
        spec: The entry of ``archs``.
        drop_path_rates: Rate of each block, by stage.

    Raises:
        ValueError: Unknown ``arch``, or inconsistent ``out_indices`` or ``frozen_stages``.
    """

    archs: ClassVar[Mapping[str, Any]]
    """Name of a variant -> its hyperparameters, which have ``depths``, the blocks of each stage."""
    key_table: ClassVar[KeyTable]
    """The authors' keys -> ours."""

    def __init__(
        self,
        arch: str,
        in_channels: int,
        out_indices: Sequence[int],
        drop_path_rate: float,
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: Mapping | Sequence[Mapping] | None,
    ) -> None:
        name = arch.lower() if isinstance(arch, str) else arch
        if not isinstance(name, str) or name not in self.archs:
            raise ValueError(
                f"{type(self).__name__}: arch {arch!r} is unknown: choose one of "
                f"{', '.join(self.archs)}"
            )
        depths = self.archs[name].depths
        super().__init__(len(depths), in_channels, out_indices, frozen_stages, norm_eval, init_cfg)
        self.arch = name
        self.spec = self.archs[name]
        self.with_cp = with_cp
        self.drop_path_rates = drop_path_rates(drop_path_rate, depths)

    @classmethod
    def is_official(cls, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether most of the keys are the authors'."""
        return cls.key_table.is_official(state_dict)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' keys to those of our classifier (``backbone.*``, ``head.*``).

        Raises:
            care_mm.errors.InputError: A key is not one of the authors'.
        """
        return cls.key_table.convert(state_dict)


def drop_path(rate: float) -> nn.Module:
    """Return stochastic depth for the branch of a block."""
    return DropPath(rate) if rate > 0 else nn.Identity()


def init_linear(module: nn.Module) -> None:
    """Initialise linear layers as DeiT does: weights truncated normal of std 0.02, biases zero."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
