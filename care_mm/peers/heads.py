"""The peers' ImageNet heads for mmpretrain: norm, mean over the map, linear layer.

The classifier is mmpretrain's ``ImageClassifier`` with a peer as its backbone, no neck, and the
peer's head.
"""

from __future__ import annotations

from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from care_mm.peers.layers import NormLayer, layer_norm
from care_mm.peers.prep_bn import PRepBN, fold_into_linear


class NormHead(ClsHead):
    """Norm per pixel, mean over the map, linear layer.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the last feature map.
        loss: As in mmpretrain's ``ClsHead``.
        topk: As in mmpretrain's ``ClsHead``.
        cal_acc: As in mmpretrain's ``ClsHead``.
        init_cfg: As in mmpretrain's ``ClsHead``.
    """

    norm_layer: NormLayer | None = None
    """Builds the norm for a number of channels; ``None`` builds none."""

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: dict | None = None,
        topk: int | tuple[int, ...] = (1,),
        cal_acc: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        loss = loss or dict(type="CrossEntropyLoss", loss_weight=1.0)
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        self.num_classes = num_classes
        build = type(self).norm_layer
        self.norm = nn.Identity() if build is None else build(in_channels)
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def normalise(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return the mean (B, C) of the last map (B, C, H, W), after the norm."""
        return self.normalise(feats[-1]).mean((2, 3))

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return logits (B, num_classes) for maps, of which the last one (B, C, H, W) is used."""
        return self.fc(self.pre_logits(feats))

    def switch_to_deploy(self) -> None:
        """Fold a PRepBN into the linear layer; a second call does nothing."""
        if isinstance(self.norm, PRepBN):
            self.fc = fold_into_linear(self.norm, self.fc)
            self.norm = nn.Identity()


@MODELS.register_module(force=True)  # replaces the entry of care_mm.registration, as below
class MLLAHead(NormHead):
    """The head of MLLA."""

    norm_layer = layer_norm(1e-5)


@MODELS.register_module(force=True)
class FLattenSwinHead(NormHead):
    """The head of FLatten-Swin."""

    norm_layer = layer_norm(1e-5)


@MODELS.register_module(force=True)
class FLattenPVTHead(NormHead):
    """The head of FLatten-PVT.

    The authors' model has a norm that its forward pass does not use. It is kept, without gradients,
    so that their checkpoints and parameter counts fit completely.
    """

    norm_layer = layer_norm(1e-6)

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.norm.requires_grad_(False)

    def normalise(self, x: Tensor) -> Tensor:
        """Return the map unchanged."""
        return x


@MODELS.register_module(force=True)
class SLABPVTHead(NormHead):
    """The head of SLAB-PVT, without a norm."""


@MODELS.register_module(force=True)
class SLABSwinHead(NormHead):
    """The head of SLAB-Swin."""

    norm_layer = PRepBN.layer(eps=1e-5, total_step=60_000)
