"""The two-headed classification head, registered in mmpretrain.

Source: the authors' released classifier, trained with hard distillation (DeiT).
"""

from __future__ import annotations

import torch
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn


class HeadBranch(nn.Module):
    """GELU -> LayerNorm -> Linear on pooled features."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels) -> (B, num_classes)."""
        return self.fc(self.norm(self.act(x)))


@MODELS.register_module()
class CAREHead(ClsHead):
    """Two heads of one form: one learns the labels, the other the teacher's; inference averages.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the pooled features.
        loss: The label loss.
        topk, cal_acc, init_cfg: As in mmpretrain's ``ClsHead``.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: dict = dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk: int | tuple[int, ...] = (1,),
        cal_acc: bool = False,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        self.label = HeadBranch(in_channels, num_classes)
        self.distill = HeadBranch(in_channels, num_classes)

    def branches(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Logits of the label head and of the distillation head, each (B, num_classes)."""
        pooled = self.pre_logits(feats)
        return self.label(pooled), self.distill(pooled)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Mean logits (B, num_classes) of pooled features, a tuple whose last is (B, C)."""
        label, distill = self.branches(feats)
        return (label + distill) / 2

    def loss(self, feats: tuple[Tensor, ...], data_samples: list, **kwargs) -> dict[str, Tensor]:
        """Mean of the label loss of both heads."""
        label, distill = self.branches(feats)
        losses = self._get_loss(label, data_samples, **kwargs)
        other = self._get_loss(distill, data_samples, **kwargs)
        return {**losses, "loss": torch.stack((losses["loss"], other["loss"])).mean()}
