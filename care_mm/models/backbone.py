"""The CARE backbone, registered for every task and OpenMMLab scope.

Source: CARE Transformer, CVPR 2025 (arXiv 2411.16170), and the authors' released models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmcv.cnn import build_activation_layer, build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.checkpoint.names import convert_official, is_official
from care_mm.models.arch import Arch
from care_mm.models.layers import CAREBlock, ConvNorm
from care_mm.models.staged import Stage, StagedBackbone, drop_path_rates


@MODELS.register_module()
class CARETransformer(StagedBackbone):
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
        variant = Arch.get(arch)
        super().__init__(
            len(variant.depths), in_channels, out_indices, frozen_stages, norm_eval, init_cfg
        )
        self.arch = variant
        self.norm_cfg = dict(norm_cfg)
        self.act_cfg = dict(act_cfg)
        self.layer_scale_init_value = layer_scale_init_value
        self.expand_last = expand_last and self.arch.inter2
        self.with_cp = with_cp

        rates = drop_path_rates(drop_path_rate, self.arch.depths)
        self.stem = ConvNorm(
            in_channels, self.arch.embed_dims[0], 4, self._norm_layer, norm_first=False
        )
        self.stages = nn.ModuleList(self._build_stage(i, rates[i]) for i in range(self.num_built))
        self._init_layers()
        self.finish(out_norm_cfg)
        if deploy:
            self.switch_to_deploy()

    def _norm_layer(self, dim: int) -> nn.Module:
        return build_norm_layer(self.norm_cfg, dim)[1]

    def _act_layer(self) -> nn.Module:
        return build_activation_layer(self.act_cfg)

    def _build_stage(self, i: int, drop_path_rates: Sequence[float]) -> Stage:
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
                attention=arch.attention,
            )
            for j, rate in enumerate(drop_path_rates)
        ]
        downsample = None
        if i > 0:
            dims = arch.embed_dims[i - 1 : i + 1]
            downsample = ConvNorm(*dims, 2, self._norm_layer, norm_first=True)
        return Stage(downsample, blocks, self.with_cp)

    def _init_layers(self) -> None:
        """Initialise as the authors do: weights truncated normal of std 0.02, biases zero."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @classmethod
    def convert_official(cls, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :func:`care_mm.checkpoint.names.convert_official`."""
        return convert_official(state_dict)

    @classmethod
    def is_official(cls, state_dict: Mapping[str, Tensor]) -> bool:
        """See :func:`care_mm.checkpoint.names.is_official`."""
        return is_official(state_dict)

    @property
    def fresh_keys(self) -> frozenset[str]:
        """Keys that ImageNet weights of this arch do not have."""
        keys = set(super().fresh_keys)
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
        if not super().is_unexpected(key):
            return False
        last_block = f"stages.{len(self.stages) - 1}.blocks.{len(self.stages[-1].blocks) - 1}."
        return not key.startswith((last_block + "inter2.fc2.", last_block + "gamma"))
