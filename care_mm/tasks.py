"""The task of a config, a model or a data sample: detection, segmentation or classification."""

from __future__ import annotations

from enum import Enum
from typing import Any

from mmengine.config import Config
from torch import nn

from care_mm.errors import InputError


class Task(str, Enum):
    """The kind of prediction of a model; detection includes instance segmentation.

    Attributes:
        model: The noun for a model of the task, such as ``'detector'``.
    """

    DETECTION = "detection"
    SEGMENTATION = "segmentation"
    CLASSIFICATION = "classification"

    def __str__(self) -> str:
        """Return the name, as in messages."""
        return self.value

    @property
    def model(self) -> str:
        """The noun for a model of the task, as exported files and the benchmark name it."""
        return {"detection": "detector", "segmentation": "segmentor"}.get(self.value, "classifier")


SCOPES = {
    "mmdet": Task.DETECTION,
    "mmseg": Task.SEGMENTATION,
    "mmpretrain": Task.CLASSIFICATION,
}
# (H, W) at which cost is usually reported for the task.
DEFAULT_SHAPES = {
    Task.DETECTION: (800, 1280),
    Task.SEGMENTATION: (512, 512),
    Task.CLASSIFICATION: (224, 224),
}
# Names of parts that only detectors have.
_DETECTION_HEADS = ("roi_head", "rpn_head", "bbox_head", "mask_head", "panoptic_head")


def task_of_config(config: Config) -> Task:
    """Return the task of a config by its ``default_scope``.

    Raises:
        InputError: The scope is not mmdet, mmseg or mmpretrain.
    """
    scope = config.get("default_scope")
    if scope not in SCOPES:
        raise InputError(
            f"config {config.filename}: default_scope is {scope!r}, none of {', '.join(SCOPES)}"
        )
    return SCOPES[scope]


def task_of_model(model: nn.Module) -> Task | None:
    """Return the task of a model by its heads; ``None`` if it has none of the known ones."""
    parts = dict(model.named_children())
    if "decode_head" in parts:
        return Task.SEGMENTATION
    if any(name in parts for name in _DETECTION_HEADS):
        return Task.DETECTION
    return Task.CLASSIFICATION if "head" in parts else None


def task_of_sample(sample: Any) -> Task | None:
    """Return the task of a data sample by its predictions; ``None`` if it has none."""
    if "pred_instances" in sample:
        return Task.DETECTION
    if "pred_sem_seg" in sample:
        return Task.SEGMENTATION
    return Task.CLASSIFICATION if "pred_score" in sample or "pred_label" in sample else None


def default_shape(config: Config) -> tuple[int, int]:
    """Return the (H, W) at which cost is usually reported for the config.

    It is the size to which the config pads every test image, or else the usual one of its task.

    Raises:
        InputError: The config has another scope.
    """
    dataset = (config.get("test_dataloader") or {}).get("dataset") or {}
    for step in dataset.get("pipeline") or ():
        if step["type"] == "Pad" and step.get("size"):
            width, height = step["size"]
            return height, width
    try:
        return DEFAULT_SHAPES[task_of_config(config)]
    except InputError as error:
        raise InputError(f"{error}: give --shape") from error
