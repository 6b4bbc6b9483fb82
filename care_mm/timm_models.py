"""CARE for timm: importing this module enables ``timm.create_model('care_s1')``.

A thin wrapper: the network is :class:`care_mm.models.backbone.CARETransformer`, and the state dict
has the keys of our ImageNet classifier (``backbone.*``, ``head.*``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

try:
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    from timm.models import (
        adapt_input_conv,
        build_model_with_cfg,
        generate_default_cfgs,
        register_model,
    )
except ImportError as error:
    raise ImportError(f"care_mm.timm_models needs timm >= 1.0.9: {error}") from error

from care_mm.checkpoint.matching import Match
from care_mm.checkpoint.names import convert_official, is_official, num_classes_of
from care_mm.checkpoint.reading import read_checkpoint, state_dict_of
from care_mm.models.backbone import CARETransformer
from care_mm.models.head import HeadBranch

CLASSIFIERS = ("head.label.fc", "head.distill.fc")
FIRST_CONV = "backbone.stem.conv"


class TwoHeads(nn.Module):
    """The label head and the distillation head; see :meth:`CARE.forward` for their outputs."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.label = HeadBranch(in_channels, num_classes)
        self.distill = HeadBranch(in_channels, num_classes)
        self.distilled_training = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels) -> (B, num_classes), or a pair of such logits."""
        label, distill = self.label(x), self.distill(x)
        if not torch.jit.is_scripting() and self.training and self.distilled_training:
            return label, distill
        return (label + distill) / 2


class CARE(nn.Module):
    """The published classifier with timm's interface.

    Args:
        arch: As in :class:`CARETransformer`.
        num_classes: Number of classes of each head; 0 omits the heads and returns pooled features.
        in_chans: Channels of the input.
        global_pool: ``'avg'``, or ``''`` for none (with ``num_classes=0``).
        drop_rate: Dropout on the pooled features.
        drop_path_rate: As in :class:`CARETransformer`.

    Raises:
        ValueError: An unknown ``global_pool``, or arguments that :class:`CARETransformer` refuses.

    Example:
        >>> model = timm.create_model('care_s1', features_only=True, out_indices=(1, -1))
        >>> [tuple(y.shape) for y in model(torch.rand(1, 3, 64, 96))]
        [(1, 64, 8, 12), (1, 1024, 2, 3)]
    """

    def __init__(
        self,
        arch: str | Mapping = "s1",
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_chans = in_chans
        self._settings = dict(arch=arch, in_channels=in_chans, drop_path_rate=drop_path_rate)
        self.backbone = CARETransformer(**self._settings)
        self.num_features = self.head_hidden_size = self.backbone.out_channels[-1]
        maps = zip(self.backbone.out_channels, self.backbone.out_strides, strict=True)
        self.feature_info = [
            dict(num_chs=channels, reduction=stride, module=f"backbone.stages.{stage}")
            for stage, (channels, stride) in enumerate(maps)
        ]
        self.head_drop = nn.Dropout(drop_rate)
        self.reset_classifier(num_classes, global_pool)

    # Features

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, num_features, H // 32, W // 32)."""
        if torch.jit.is_scripting():
            x = self.backbone.stem(x)
            for stage in self.backbone.stages:
                x = stage(x)
            return x
        else:  # torch.jit.script rejects the backbone's tuple of variable length
            return self.backbone(x)[-1]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the outputs of some stages.

        Args:
            x: Images (B, in_chans, H, W).
            indices: Stages; negative numbers count from the last. An integer n means the last n
                stages, ``None`` all of them.
            norm: Ignored: CARE has no last norm.
            stop_early: Ignored: :meth:`prune_intermediate_layers` removes stages.
            output_fmt: ``'NCHW'``.
            intermediates_only: Return the list only, without the last stage's output.

        Raises:
            ValueError: ``output_fmt`` is not ``'NCHW'``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt={output_fmt!r}: CARE's maps are 'NCHW'")
        maps = self.backbone(x)
        selected = [maps[stage] for stage in _stages(indices, len(maps))]
        return selected if intermediates_only else (maps[-1], selected)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Remove the stages after the last of ``indices``, and the heads; return ``indices``."""
        kept = _stages(indices, len(self.backbone.stages))
        if max(kept) < len(self.backbone.stages) - 1:
            shorter = CARETransformer(**self._settings, out_indices=range(max(kept) + 1))
            state = self.backbone.state_dict()
            shorter.load_state_dict({key: state[key] for key in shorter.state_dict()})
            self.backbone = shorter.to(self.backbone.stem.conv.weight).train(self.training)
            self.num_features = self.head_hidden_size = self.backbone.out_channels[-1]
            prune_head = True  # the heads fit the last stage only
        if prune_head:
            self.reset_classifier(0, "")
        return kept

    # Classification

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, num_features, h, w) -> logits (B, num_classes), or the input of the heads."""
        if self.global_pool == "avg":
            x = x.mean((2, 3))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> mean logits of both heads, (B, num_classes).

        In training mode after ``set_distilled_training()``, returns the pair of the label head's
        and the distillation head's logits. A scripted model always returns the mean, so the
        annotation names one tensor: TorchScript and torch.fx read it.
        """
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """Return the last layers of the two heads, or the identity without heads."""
        return (self.head.label.fc, self.head.distill.fc) if self.num_classes else self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Build new heads for ``num_classes``, none for 0.

        Raises:
            ValueError: ``global_pool`` is neither ``'avg'`` nor ``''``, or ``''`` with heads.
        """
        pool = self.global_pool if global_pool is None else global_pool
        if pool != "avg" and (pool or num_classes):
            raise ValueError(f"global_pool={pool!r}: CARE's heads read an average ('avg')")
        self.global_pool = pool
        self.num_classes = num_classes
        heads = TwoHeads(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = heads.to(self.backbone.stem.conv.weight).train(self.training)

    def set_distilled_training(self, enable: bool = True) -> None:
        """Set whether the logits of both heads are returned in training mode."""
        self.head.distilled_training = enable

    # Training

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute blocks in the backward pass to save memory."""
        for stage in self.backbone.stages:
            stage.with_cp = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that group layers by depth, for layer-wise learning rates."""
        stage = r"^backbone\.stages\.(\d+)"
        fine = [(stage + r"\.downsample", (0,)), (stage + r"\.blocks\.(\d+)", None)]
        return dict(stem=r"^backbone\.stem", blocks=stage if coarse else fine)

    # Weights

    def load_pretrained(self, path: str, prefix: str = "") -> None:
        """Load a file of the classifier, ours or the authors'; called for ``pretrained=True``.

        As for all timm models, the first convolution is adapted to ``in_chans``, and heads for
        another number of classes start fresh. Everything else must match.

        Raises:
            InputError: The file is missing or unreadable, or does not fit.
        """
        state = checkpoint_filter_fn(state_dict_of(read_checkpoint(path), path))
        stem = f"{FIRST_CONV}.weight"
        if stem in state and self.in_chans != state[stem].shape[1]:
            state[stem] = adapt_input_conv(self.in_chans, state[stem])
        expected, classes = self.state_dict(), num_classes_of(state)
        if classes != self.num_classes:
            fresh = CLASSIFIERS if self.num_classes else ("head.",)
            print_log(
                f"{path} has {classes} classes, so these start fresh: {', '.join(fresh)}", "current"
            )
            state, expected = (
                {key: value for key, value in part.items() if not key.startswith(fresh)}
                for part in (state, expected)
            )
        match = Match.compare(expected, state, finite=True)
        match.refuse(f"checkpoint {path} does not fit this model")
        self.load_state_dict(state, strict=False)


def _stages(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Return stages as numbers from 0; raise IndexError for one that does not exist."""
    if isinstance(indices, int):
        indices = range(-indices, 0)
    return [range(count)[i] for i in (range(count) if indices is None else indices)]


def checkpoint_filter_fn(state_dict: Mapping[str, Tensor], model: nn.Module | None = None) -> dict:
    """Return a state dict under our keys; timm calls this for files that it reads itself."""
    return convert_official(state_dict) if is_official(state_dict) else dict(state_dict)


def _cfg(arch: str) -> dict[str, Any]:
    """Return timm's settings of a size: the file of the weights and the authors' evaluation."""
    return dict(
        file=f"checkpoints/care_{arch}_in1k.pth",
        custom_load=True,
        num_classes=1000,
        input_size=(3, 224, 224),
        min_input_size=(3, 32, 32),
        pool_size=(7, 7),
        crop_pct=0.875,
        interpolation="bicubic",
        mean=IMAGENET_DEFAULT_MEAN,
        std=IMAGENET_DEFAULT_STD,
        first_conv=FIRST_CONV,
        classifier=CLASSIFIERS,
        origin_url="https://github.com/zhouyuan888888/CARE-Transformer",
        paper_ids="arXiv:2411.16170",
    )


default_cfgs = generate_default_cfgs(
    {f"care_{arch}.dist_in1k": _cfg(arch) for arch in ("s0", "s1", "s2")}
)


def _create(variant: str, pretrained: bool, arch: str, **kwargs: Any) -> nn.Module:
    out_indices = kwargs.pop("out_indices", (0, 1, 2, 3))
    return build_model_with_cfg(
        CARE,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg=dict(out_indices=out_indices, feature_cls="getter"),
        arch=arch,
        **kwargs,
    )


@register_model
def care_s0(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CARE-S0; ``pretrained=True`` reads ``checkpoints/care_s0_in1k.pth``."""
    return _create("care_s0", pretrained, "s0", **kwargs)


@register_model
def care_s1(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CARE-S1; ``pretrained=True`` reads ``checkpoints/care_s1_in1k.pth``."""
    return _create("care_s1", pretrained, "s1", **kwargs)


@register_model
def care_s2(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CARE-S2; ``pretrained=True`` reads ``checkpoints/care_s2_in1k.pth``."""
    return _create("care_s2", pretrained, "s2", **kwargs)
