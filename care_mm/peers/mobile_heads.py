"""The ImageNet heads of EMO and MobileViG for mmpretrain.

The classifier is mmpretrain's ``ImageClassifier`` with the backbone, no neck, and its head.
"""

from __future__ import annotations

import copy

import torch
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from care_mm.models.classifier import CAREHead
from care_mm.peers.heads import NormHead
from care_mm.peers.layers import layer_norm
from care_mm.peers.mobilevig import ConvNorm


@MODELS.register_module(force=True)  # replaces the entry of care_mm.registration, as below
class EMOHead(NormHead):
    """The head of EMO: layer norm per pixel, mean over the map, linear layer."""

    norm_layer = layer_norm(1e-6)


@MODELS.register_module(force=True)
class MobileViGHead(ClsHead):
    """The head of MobileViG: mean over the map, a hidden layer, and two linear layers.

    One layer learns the labels, the other the labels of a teacher. Inference averages them. Without
    a teacher, both learn the labels.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the last feature map.
        hidden_channels: Channels of the hidden layer: 512 (Ti, S) or 768 (M, B).
        loss: As in mmpretrain's ``ClsHead``.
        topk: As in mmpretrain's ``ClsHead``.
        cal_acc: As in mmpretrain's ``ClsHead``.
        init_cfg: As in mmpretrain's ``ClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        hidden_channels: int = 512,
        loss: dict | None = None,
        topk: int | tuple[int, ...] = (1,),
        cal_acc: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        loss = loss or dict(type="CrossEntropyLoss", loss_weight=1.0)
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        self.num_classes = num_classes
        self.enter = ConvNorm(in_channels, hidden_channels)
        self.act = nn.GELU()
        self.label = nn.Conv2d(hidden_channels, num_classes, 1)
        self.distill = nn.Conv2d(hidden_channels, num_classes, 1)
        for conv in (self.label, self.distill):
            nn.init.kaiming_normal_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.deploy = False

    def pre_logits(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return hidden features (B, hidden_channels, 1, 1) of the last map (B, C, H, W)."""
        return self.act(self.enter(feats[-1].mean((2, 3), keepdim=True)))

    def branches(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the logits for the labels and for the teacher's, each (B, num_classes).

        Raises:
            RuntimeError: The head is deployed, so its branches are merged.
        """
        if self.deploy:
            raise RuntimeError("a deployed MobileViGHead has no branches left to train")
        hidden = self.pre_logits(feats)
        return self.label(hidden).flatten(1), self.distill(hidden).flatten(1)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return mean logits (B, num_classes) for maps, of which the last one is used."""
        if self.deploy:
            return self.mean(self.pre_logits(feats)).flatten(1)
        label, distill = self.branches(feats)
        return (label + distill) / 2

    # Half the loss of each branch; a CAREClassifier with a teacher gives the labels of the second.
    loss = CAREHead.loss

    def switch_to_deploy(self) -> None:
        """Merge the two linear layers into one, exactly; a second call does nothing."""
        if self.deploy:
            return
        self.enter.switch_to_deploy()
        self.mean = copy.deepcopy(self.label)
        with torch.no_grad():
            for name, parameter in self.mean.named_parameters():
                parameter.add_(self.distill.get_parameter(name)).div_(2)
        del self.label, self.distill
        self.deploy = True
