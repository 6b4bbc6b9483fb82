"""Any model of timm with feature maps of strides 4 to 32, as a backbone for every OpenMMLab scope.

Importing this module needs no timm; building a :class:`TimmBackbone` does. mmpretrain's
``TIMMBackbone`` declares no widths and strides, returns Swin's maps with channels last, and cannot
read a file of weights for ``features_only``.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.registry import MODELS
from torch import Tensor, nn

from care_mm.errors import did_you_mean
from care_mm.models.staged import StagedBackbone
from care_mm.peers.layers import pad_to_multiple

STRIDES = (4, 8, 16, 32)
# Start of a model's name -> timm's arguments for input of any size, and the multiple that sides are
# padded to. With these arguments, Swin also shifts windows as large as the map, as detectors do.
ANY_SIZE = {
    "swin_": (dict(strict_img_size=False, always_partition=True), 4),
    "swinv2_": (dict(strict_img_size=False, always_partition=True), 4),
    "efficientformer": ({}, STRIDES[-1]),
}
# Buffers that a file may lack, because the model computes them.
_COMPUTED = ("num_batches_tracked", "attention_bias_idxs", "relative_position_index", "attn_mask")


@MODELS.register_module()
class TimmBackbone(StagedBackbone):
    """A model of timm with the interface of :class:`care_mm.models.backbone.CARETransformer`.

    Maps are (B, C, H, W) for every model. The input may have any size:

    - Convolutional models accept any size as they are.
    - Swin pads the input with zeros, on the right and at the bottom, to multiples of 4, and
      computes the masks of its windows for each input.
    - EfficientFormer and EfficientFormerV2 are built for 224 x 224. Other inputs are padded to
      multiples of 32, and the maps are cropped. The tables of position biases are resized linearly
      to the map's sides. At 224 x 224 the biases are timm's.

    Args:
        arch: Name of a model in timm, without a tag for weights: ``'mobilenetv2_100'``.
        in_channels: Channels of the input.
        out_indices: Stages whose outputs are returned, in increasing order; negative numbers count
            from the last stage. Stages 0 to 3 have strides 4, 8, 16 and 32. Later ones are removed.
        drop_path_rate: timm's ``drop_path_rate``; 0 leaves the model's default.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n stages.
        norm_eval: Keep all batch norms in evaluation mode; their affine parameters still train.
        with_cp: timm's activation checkpointing. It updates the running statistics of batch norms
            twice for each batch, so combine it with ``norm_eval`` for such models.
        sync_bn: Replace batch norms by SyncBN. mmengine's own setting of that name loses the
            activations that timm merges with batch norms.
        model_args: Further arguments of ``timm.create_model``.
        init_cfg: mmengine's initialisation. Type ``Pretrained`` accepts our files and timm's own
            state dicts, without a network, and refuses a file that does not cover the backbone.

    Attributes:
        out_channels: Channels of each returned map.
        out_strides: Stride of each returned map.

    Raises:
        ValueError: A model that timm does not have, or without maps of these strides; inconsistent
            arguments.
        ImportError: timm is not installed.

    Example:
        >>> backbone = TimmBackbone('mobilenetv2_100', out_indices=(1, -1))
        >>> [tuple(y.shape) for y in backbone(torch.rand(1, 3, 64, 96))]
        [(1, 32, 8, 12), (1, 320, 2, 3)]
    """

    def __init__(
        self,
        arch: str,
        in_channels: int = 3,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        drop_path_rate: float = 0.0,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        sync_bn: bool = False,
        model_args: Mapping[str, Any] | None = None,
        init_cfg: Mapping | Sequence[Mapping] | None = None,
    ) -> None:
        super().__init__(len(STRIDES), in_channels, out_indices, frozen_stages, norm_eval, init_cfg)
        self.arch = arch
        self.with_cp = with_cp
        args, self._multiple = _any_size(arch)
        self._args = dict(in_chans=in_channels, **args)
        if drop_path_rate:
            self._args["drop_path_rate"] = drop_path_rate
        self._args |= dict(model_args or {})
        self.model = create_model(arch, self._args)
        features = _features_by_stride(self.model, arch)
        # timm's numbers of the built stages' maps.
        self._features = [features[stride][0] for stride in STRIDES[: self.num_built]]
        names = [features[stride][1]["module"] for stride in STRIDES[: self.num_built]]
        self._units = _units_by_stage(self.model, names)
        self.model.prune_intermediate_layers(self._features, prune_norm=True, prune_head=True)
        self._resizable = _make_resizable(self.model, arch)
        if with_cp:
            self.model.set_grad_checkpointing(True)
        if sync_bn:
            from timm.layers import convert_sync_batchnorm

            self.model = convert_sync_batchnorm(self.model)

        widths = [features[stride][1]["num_chs"] for stride in STRIDES]
        self.out_channels = tuple(widths[i] for i in self.out_indices)
        self.out_strides = tuple(STRIDES[i] for i in self.out_indices)
        self.min_size = STRIDES[self.num_built - 1]
        self._freeze_stages()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, in_channels, H, W) -> tuple of (B, out_channels[i], H / stride, W / stride).

        Raises:
            ValueError: The number of channels is wrong, or a side is below the largest stride.
        """
        self.check_input(x)
        height, width = x.shape[2:]
        if self._multiple > 1:
            x = pad_to_multiple(x, self._multiple)
        for name in self._resizable:
            rows, columns = (side // STRIDES[-1] for side in x.shape[2:])
            self.model.get_submodule(name).set_map(rows, columns)
        maps = self.model.forward_intermediates(
            x, indices=self._features, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        outs = [maps[i] for i in self.out_indices]
        if self._multiple > 1:
            # Not -(-side // stride): ONNX rounds quotients of negative integers towards zero.
            outs = [
                out[:, :, : (height + stride - 1) // stride, : (width + stride - 1) // stride]
                for out, stride in zip(outs, self.out_strides, strict=True)
            ]
        return tuple(outs)

    def _freeze_stages(self) -> None:
        for names in self._units[: self.frozen_stages + 1]:
            for name in names:
                module = self.model.get_submodule(name)
                module.eval()
                module.requires_grad_(False)

    def is_official(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether the keys are those of a model of timm, and not of a backbone of ours."""
        return not any(key.startswith(("backbone.", "model.")) for key in state_dict)

    def convert_official(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename keys of timm's files, old and new, to those of a detector (``backbone.*``)."""
        with torch.device("meta"):
            complete = create_model(self.arch, self._args)
        convert = getattr(sys.modules[type(complete).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            state_dict = convert(dict(state_dict), complete)
        return {f"backbone.model.{key}": value for key, value in state_dict.items()}

    @property
    def fresh_keys(self) -> frozenset[str]:
        """Buffers that the model computes, and that files therefore may lack."""
        return frozenset(key for key in self.state_dict() if key.endswith(_COMPUTED))

    def is_unexpected(self, key: str) -> bool:
        """Whether the key belongs to a part that is built, which does not have it."""
        built = [f"model.{name}." for names in self._units for name in names]
        return key not in self.state_dict() and key.startswith(tuple(built))

    def switch_to_deploy(self) -> None:
        """Fold what timm can fold (RepViT, FastViT, ...); a second call does nothing."""
        from timm.utils.model import reparameterize_model

        reparameterize_model(self.model, inplace=True)


def _any_size(arch: str) -> tuple[dict[str, Any], int]:
    """Return the entry of ``ANY_SIZE`` for a model."""
    return next((value for start, value in ANY_SIZE.items() if arch.startswith(start)), ({}, 1))


def create_model(arch: str, args: Mapping[str, Any]) -> nn.Module:
    """Build a model of timm without weights.

    Raises:
        ValueError: timm does not have it, or it does not accept an argument.
        ImportError: timm is not installed.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"TimmBackbone needs timm >= 1.0.9: pip install timm ({error})") from None

    if arch.split(".")[0] not in timm.list_models():
        hint = did_you_mean(arch, timm.list_models())
        raise ValueError(f"TimmBackbone: timm {timm.__version__} has no model {arch!r}{hint}")
    try:
        return timm.create_model(arch, pretrained=False, **args)
    except TypeError as error:
        raise ValueError(f"TimmBackbone: {arch} does not accept these arguments: {error}") from None


def _features_by_stride(model: nn.Module, arch: str) -> dict[int, tuple[int, dict]]:
    """Return stride -> (number, description) of the last map of each stride."""
    features = {f["reduction"]: (i, f) for i, f in enumerate(getattr(model, "feature_info", ()))}
    if not set(STRIDES) <= set(features) or not hasattr(model, "prune_intermediate_layers"):
        raise ValueError(
            f"TimmBackbone: {arch} has maps of strides {sorted(features)}, and detectors need "
            f"{list(STRIDES)}"
        )
    return features


def _units_by_stage(model: nn.Module, ends: Sequence[str]) -> list[list[str]]:
    """Return the names of the model's parts: those of the stem, then those of each stage.

    Args:
        model: The complete model.
        ends: The part that returns the map of each stage, such as ``'stages.0'``.
    """
    containers = {name.rpartition(".")[0] for name in ends} - {""}
    units = []
    for name, child in model.named_children():
        if name in containers:
            units += [f"{name}.{part}" for part, _ in child.named_children()]
        else:
            units.append(name)
    container = ends[0].rpartition(".")[0]
    first = next(unit for unit in units if unit == ends[0] or unit.startswith(f"{container}."))
    stops = [units.index(first), *(units.index(end) + 1 for end in ends)]
    return [units[start:stop] for start, stop in itertools.pairwise([0, *stops])]


def _make_resizable(model: nn.Module, arch: str) -> list[str]:
    """Let EfficientFormer's attentions read maps of any size; return their names."""
    if not arch.startswith("efficientformer"):
        return []
    from care_mm.peers.timm_efficientformer import make_resizable

    return make_resizable(model)
