"""Grad-CAM for detection, segmentation and classification, by the grad-cam package.

Grad-CAM weighs a channel by its gradient's mean over the picture. The gradients of a detection or a
region come from one place; the mean takes them everywhere, and the map lights up other objects. For
these two tasks each position is weighed by its own gradient instead (``GradCAMElementWise``).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from care_mm.errors import InputError


@dataclass(frozen=True)
class Target:
    """A class in a task's data sample, as a number that grows with the model's belief in it.

    Detection takes the log-odds of the class's detections, segmentation the mean logit where the
    class is predicted, classification its log-odds. Log-odds, since the gradient of a score near 1
    is nearly none.

    Attributes:
        label: The class.
        name: What to call it.
        score_thr: Detections below it do not count.
        local: The class is predicted at places of the picture, not for the whole of it.
    """

    label: int
    name: str
    score_thr: float
    local: bool

    def __call__(self, sample: Any) -> Tensor:
        """The number, with its gradient.

        Raises:
            InputError: There is nothing of the class, or the model's scores have no gradient.
        """
        if "pred_instances" in sample:
            found = sample.pred_instances
            chosen = (found.labels == self.label) & (found.scores >= self.score_thr)
            values = torch.logit(found.scores[chosen], eps=1e-6)
        elif "pred_sem_seg" in sample:
            chosen = sample.pred_sem_seg.data[0] == self.label
            values = sample.seg_logits.data[self.label][chosen] / max(int(chosen.sum()), 1)
        else:
            values = torch.logit(sample.pred_score[self.label], eps=1e-6)[None]
        if not len(values):
            raise InputError(f"Grad-CAM: no {self.name!r} is predicted in this picture")
        if not values.requires_grad:
            raise InputError("Grad-CAM: the scores of this model have no gradient")
        return values.sum()


def choose_target(
    sample: Any, classes: Sequence[str], wanted: str | None, score_thr: float
) -> Target | None:
    """The class that was asked for by name or number, or else the one that is surest or largest.

    Returns:
        ``None`` for a picture without detections.

    Raises:
        InputError: The model knows no such class.
    """
    if wanted is not None:
        if wanted.isdigit() and (not classes or int(wanted) < len(classes)):
            label = int(wanted)
        elif wanted in classes:
            label = list(classes).index(wanted)
        else:
            near = difflib.get_close_matches(wanted, classes, n=1)
            hint = f"did you mean {near[0]!r}" if near else f"choose of {', '.join(classes)}"
            raise InputError(f"--target {wanted}: the model has no such class; {hint}")
    elif "pred_instances" in sample:
        found = sample.pred_instances
        if not len(found.scores) or float(found.scores.max()) < score_thr:
            return None
        label = int(found.labels[found.scores.argmax()])
    elif "pred_sem_seg" in sample:
        label = int(sample.pred_sem_seg.data.flatten().bincount().argmax())
    else:
        label = int(sample.pred_label.item())
    name = str(classes[label]) if label < len(classes) else str(label)
    return Target(label, name, score_thr, local="pred_label" not in sample)


class _Predicting(nn.Module):
    """A model of MM's as the package wants one: a tensor in, a sequence of outputs out."""

    def __init__(self, model: nn.Module, samples: list) -> None:
        super().__init__()
        self.model, self.samples = model, samples

    def forward(self, x: Tensor) -> list:
        return self.model(x, self.samples, mode="predict")


def grad_cam(
    model: nn.Module, layers: Sequence[nn.Module], x: Tensor, samples: list, target: Target
) -> list[np.ndarray]:
    """Grad-CAM at each of the layers.

    Args:
        model: In evaluation mode; its parameters get gradients.
        layers: Modules that return (1, C, h, w).
        x: A preprocessed picture, (1, 3, H, W).
        samples: Its data sample, in a list.
        target: What to explain.

    Returns:
        For each layer (H, W) from 0 to 1.

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
