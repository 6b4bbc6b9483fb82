"""The ImageNet classifier for mmpretrain: two heads, and hard distillation.

Source: the authors' released classifier; hard distillation is DeiT's (arXiv 2012.12877, eq. 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.models.heads import ClsHead
from mmpretrain.registry import MODELS
from torch import Tensor, nn

from care_mm.checkpoint.matching import load_model
from care_mm.models.fold import fold_mean_of_linears
from care_mm.models.head import HeadBranch


@MODELS.register_module(force=True)  # replaces the entry of care_mm.registration
class CAREHead(ClsHead):
    """Two equal heads: one learns the labels, the other the teacher's; inference averages them.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the pooled features.
        loss: The label loss.
        topk: As in mmpretrain's ``ClsHead``.
        cal_acc: As in mmpretrain's ``ClsHead``.
        init_cfg: As in mmpretrain's ``ClsHead``.
        deploy: Build the folded form, see :meth:`switch_to_deploy`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss: dict = dict(type="CrossEntropyLoss", loss_weight=1.0),
        topk: int | tuple[int, ...] = (1,),
        cal_acc: bool = False,
        init_cfg: dict | None = None,
        deploy: bool = False,
    ) -> None:
        super().__init__(loss=loss, topk=topk, cal_acc=cal_acc, init_cfg=init_cfg)
        self.num_classes = num_classes
        self.label = HeadBranch(in_channels, num_classes)
        self.distill = HeadBranch(in_channels, num_classes)
        self.deploy = False
        if deploy:
            self.switch_to_deploy()

    def branches(self, feats: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Return the logits of the label head and the distillation head, each (B, num_classes).

        Args:
            feats: Pooled features, a tuple whose last entry is (B, C).

        Raises:
            RuntimeError: The head is deployed, so its branches are merged.
        """
        if self.deploy:
            raise RuntimeError("a deployed CAREHead has no branches left to train")
        pooled = self.pre_logits(feats)
        return self.label(pooled), self.distill(pooled)

    def forward(self, feats: tuple[Tensor, ...]) -> Tensor:
        """Return mean logits (B, num_classes) for pooled features, a tuple ending with (B, C)."""
        if self.deploy:
            return self.mean(self.pre_logits(feats))
        label, distill = self.branches(feats)
        return (label + distill) / 2

    def switch_to_deploy(self) -> None:
        """Fold both branches into one, exactly; a second call does nothing.

        Both normalise the same activations by the same statistics, so the mean of their logits is
        one normalisation without weights and one linear layer.
        """
        if self.deploy:
            return
        self.mean = HeadBranch(self.label.fc.in_features, self.num_classes)
        self.mean.norm = nn.LayerNorm(
            self.label.norm.normalized_shape, eps=self.label.norm.eps, elementwise_affine=False
        )
        self.mean.fc = fold_mean_of_linears(
            (self.label.norm, self.label.fc), (self.distill.norm, self.distill.fc)
        )
        del self.label, self.distill
        self.deploy = True

    def loss(
        self,
        feats: tuple[Tensor, ...],
        data_samples: list,
        teacher_labels: Tensor | None = None,
        **kwargs,
    ) -> dict[str, Tensor]:
        """Return half the loss of the label head and half the loss of the distillation head.

        Args:
            feats: Pooled features, a tuple whose last entry is (B, C).
            data_samples: Samples with ``gt_label``, or with ``gt_score`` if images were mixed.
            teacher_labels: Targets (B,) of the distillation head; ``None`` uses the labels.
            kwargs: Arguments of the label loss.

        Returns:
            ``loss_label`` and ``loss_distill``, whose sum is the loss, and the accuracy of the
            label head if ``cal_acc`` is set.
        """
        label, distill = self.branches(feats)
        losses = self._get_loss(label, data_samples, **kwargs)
        if teacher_labels is None:
            other = self._get_loss(distill, data_samples, **kwargs)["loss"]
        else:
            other = F.cross_entropy(distill, teacher_labels)
        return {"loss_label": 0.5 * losses.pop("loss"), "loss_distill": 0.5 * other, **losses}


class Teacher:
    """A frozen classifier that labels images.

    It is not an ``nn.Module`` and is copied by reference, so that it is not part of the student's
    parameters, state dict, optimizer, gradient synchronisation or EMA.

    Args:
        config: Config of any mmpretrain classifier; ``TimmClassifier`` for a timm model.
        checkpoint: Path or URL of the weights, which must fit completely. ``None`` only for a
            ``TimmClassifier`` with ``pretrained=True``.

    Raises:
        ValueError: The weights would be random.
        care_mm.errors.InputError: The checkpoint cannot be read or does not fit.
    """

    def __init__(self, config: Mapping, checkpoint: str | None = None) -> None:
        if checkpoint is None and not config.get("pretrained"):
            raise ValueError(
                "the teacher would have random weights: set teacher_checkpoint, or for a "
                "TimmClassifier pretrained=True"
            )
        self.model = MODELS.build(dict(config)).requires_grad_(False)
        if checkpoint is not None:
            load_model(self.model, checkpoint, "the teacher")
        self.model.eval()

    def __deepcopy__(self, memo: dict) -> Teacher:
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Label normalised images: (B, 3, H, W) on any device -> (B,)."""
        return self.model.to(images.device)(images, mode="tensor").argmax(dim=1)


@MODELS.register_module(force=True)  # replaces the entry of care_mm.registration
class CAREClassifier(ImageClassifier):
    """An mmpretrain ``ImageClassifier`` that can learn from a teacher (hard distillation).

    With a teacher, the distillation head of :class:`CAREHead` learns the class that the teacher
    predicts for the same mixed image. Without one, both heads learn the labels. The teacher is
    built only for training; testing and inference do not need it.

    Args:
        args: As in ``ImageClassifier``.
        teacher: Config of the teacher, see :class:`Teacher`. Its input is normalised by this
            model's preprocessor.
        teacher_checkpoint: Path or URL of the teacher's weights; ignored without a teacher.
        kwargs: As in ``ImageClassifier``.
    """

    def __init__(
        self,
        *args: Any,
        teacher: Mapping | None = None,
        teacher_checkpoint: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._teacher_config = teacher
        self._teacher_checkpoint = teacher_checkpoint
        self._teacher: Teacher | None = None

    @property
    def teacher(self) -> Teacher | None:
        """The teacher, built on first use; ``None`` if none is configured."""
        if self._teacher is None and self._teacher_config is not None:
            self._teacher = Teacher(self._teacher_config, self._teacher_checkpoint)
        return self._teacher

    def __dir__(self) -> list[str]:
        """List the attributes without the teacher, because ``torch.jit.trace`` reads them all."""
        return [name for name in super().__dir__() if name != "teacher"]

    def init_weights(self) -> None:
        """Apply ``init_cfg``, and build the teacher, so that its errors appear before training."""
        super().init_weights()
        _ = self.teacher

    def loss(self, inputs: Tensor, data_samples: Sequence) -> dict[str, Tensor]:
        """Return the losses of normalised, possibly mixed images (B, 3, H, W).

        See :meth:`CAREHead.loss`.
        """
        feats = self.extract_feat(inputs)
        if self.teacher is None:
            return self.head.loss(feats, data_samples)
        return self.head.loss(feats, data_samples, teacher_labels=self.teacher(inputs))
