"""Grad-CAM for detection, segmentation and classification, by the grad-cam package.

Grad-CAM weighs a channel by the mean of its gradient over the image. The gradient of a detection or
a region comes from one place, but the mean applies it everywhere, so the map highlights other
objects too. For these two tasks each position is weighed by its own gradient instead
(``GradCAMElementWise``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from care_mm.errors import InputError, did_you_mean
from care_mm.tasks import Task, task_of_sample


@dataclass(frozen=True)
class Target:
    """A class in a data sample, as a number that grows with the model's confidence in it.

    Detection: the log-odds of the class's detections. Segmentation: its mean logit where it is
    predicted. Classification: its log-odds. Log-odds, because the gradient of a score near 1 almost
    vanishes.

    Attributes:
        label: Index of the class.
        name: Name of the class.
        score_thr: Detections below this score are ignored.
        local: Whether the class is predicted for places in the image, not for all of it.
    """

    label: int
    name: str
    score_thr: float
    local: bool

    def __call__(self, sample: Any) -> Tensor:
        """Return the number, with its gradient.

        Raises:
            InputError: The class is not predicted, or the model's scores have no gradient.
        """
        task = task_of_sample(sample)
        if task is Task.DETECTION:
            instances = sample.pred_instances
            chosen = (instances.labels == self.label) & (instances.scores >= self.score_thr)
            values = torch.logit(instances.scores[chosen], eps=1e-6)
        elif task is Task.SEGMENTATION:
            chosen = sample.pred_sem_seg.data[0] == self.label
            values = _logits(sample.seg_logits.data, self.label)[chosen]
            values = values / max(int(chosen.sum()), 1)
        else:
            values = torch.logit(sample.pred_score[self.label], eps=1e-6)[None]
        if not len(values):
            raise InputError(f"Grad-CAM: no {self.name!r} is predicted in this image")
        if not values.requires_grad:
            raise InputError("Grad-CAM: the scores of this model have no gradient")
        return values.sum()


def _logits(logits: Tensor, label: int) -> Tensor:
    """Return the (H, W) logits of a class from (C, H, W).

    mmseg's binary models have a single channel, with the probability of class 1.
    """
    if len(logits) > 1:
        return logits[label]
    values = torch.logit(logits[0], eps=1e-6)
    return values if label else -values


def best_detection(sample: Any, score_thr: float) -> Any:
    """Return the instance with the highest score, or ``None`` if none reaches the threshold."""
    if task_of_sample(sample) is not Task.DETECTION:
        return None
    scores = sample.pred_instances.scores
    if not len(scores) or float(scores.max()) < score_thr:
        return None
    return sample.pred_instances[int(scores.argmax())]


def choose_target(
    sample: Any, classes: Sequence[str], wanted: str | None, score_thr: float
) -> Target | None:
    """Return the requested class, or else that of the highest score or the largest area.

    Args:
        sample: The data sample with predictions.
        classes: Names of the classes.
        wanted: Name or number of a class.
        score_thr: Detections below this score are ignored.

    Returns:
        ``None`` for an image without detections.

    Raises:
        InputError: The model has no such class, or predicts panoptic segments.
    """
    task = task_of_sample(sample)
    if task is None:
        kind = "panoptic segments" if "pred_panoptic_seg" in sample else "these predictions"
        raise InputError(f"Grad-CAM does not explain {kind}: give --no-cam")
    if wanted is not None:
        if wanted.isdigit() and (not classes or int(wanted) < len(classes)):
            label = int(wanted)
        elif wanted in classes:
            label = list(classes).index(wanted)
        else:
            hint = did_you_mean(wanted, classes) or f"; choose from {', '.join(classes)}"
            raise InputError(f"--target {wanted}: the model has no such class{hint}")
    elif task is Task.DETECTION:
        best = best_detection(sample, score_thr)
        if best is None:
            return None
        label = int(best.labels)
    elif task is Task.SEGMENTATION:
        label = int(sample.pred_sem_seg.data.flatten().long().bincount().argmax())
    else:
        label = int(sample.pred_score.argmax())
    name = str(classes[label]) if label < len(classes) else str(label)
    return Target(label, name, score_thr, local=task is not Task.CLASSIFICATION)


class _Predicting(nn.Module):
    """An MM model with the interface of the grad-cam package: a tensor in, a list of outputs."""

    def __init__(self, model: nn.Module, samples: list) -> None:
        super().__init__()
        self.model, self.samples = model, samples

    def forward(self, x: Tensor) -> list:
        return self.model(x, self.samples, mode="predict")


def grad_cam(
    model: nn.Module, layers: Sequence[nn.Module], x: Tensor, samples: list, target: Target
) -> list[np.ndarray]:
    """Compute Grad-CAM at each of the layers.

    Args:
        model: In evaluation mode; gradients of its parameters are switched on.
        layers: Modules that return (1, C, h, w).
        x: A preprocessed image, (1, 3, H, W).
        samples: A list with its data sample.
        target: The class to explain.

    Returns:
        For each layer (H, W), from 0 to 1.

    Raises:
        InputError: The package is missing, or as :class:`Target`.
    """
    try:
        from pytorch_grad_cam import GradCAM, GradCAMElementWise
    except ImportError:
        raise InputError(
            "Grad-CAM needs `pip install grad-cam`; --no-cam does without it"
        ) from None
    model.requires_grad_(True)  # frozen stages too: activations need their gradients
    kind = GradCAMElementWise if target.local else GradCAM
    cam = kind(_Predicting(model, samples), list(layers))
    try:
        cam(x, [target])
        maps = cam.compute_cam_per_layer(x, [target], False)
    finally:
        cam.activations_and_grads.release()
        model.zero_grad()
    return [np.asarray(each[0, 0]) for each in maps]
