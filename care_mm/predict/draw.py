"""Draw predictions and ground truth into images with the config's visualizer."""

from __future__ import annotations

from itertools import count
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.visualization import Visualizer

from care_mm.config import type_name
from care_mm.drawing import MAX_PIXELS, clarify
from care_mm.tasks import Task, task_of_config, task_of_sample

# For a config without a visualizer that draws predictions.
_VISUALIZERS = {
    Task.DETECTION: "mmdet.DetLocalVisualizer",
    Task.SEGMENTATION: "mmseg.SegLocalVisualizer",
    Task.CLASSIFICATION: "mmpretrain.UniversalVisualizer",
}
# mmengine returns the same visualizer for the same name, so each needs its own.
_NUMBERS = count()


def offline_visualizer(config: Config, dataset_meta: dict) -> Visualizer:
    """Return the config's visualizer, without a backend to write to."""
    settings = config.get("visualizer") or {}
    if type_name(settings) in ("", "Visualizer"):
        settings = {"type": _VISUALIZERS[task_of_config(config)]}
    name = f"care_mm_{next(_NUMBERS)}"
    visualizer = VISUALIZERS.build({**settings, "vis_backends": None, "name": name})
    clarify(visualizer, dataset_meta)
    return visualizer


def as_rgb(image: np.ndarray) -> np.ndarray:
    """Return a loaded image in a form that can be drawn into: (H, W, 3) uint8 RGB.

    Args:
        image: (H, W) or (H, W, C) of any dtype; the first three channels are BGR, as mmcv loads
            them. Values beyond 255 are scaled down to the range from 0 to 255.
    """
    image = np.atleast_3d(image)
    image = image[..., 2::-1] if image.shape[2] >= 3 else image[..., :1]
    if image.dtype != np.uint8:
        image = np.nan_to_num(image.astype(np.float32))
        image = image * (255 / max(255.0, float(image.max(initial=0))))
        image = image.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(image, (*image.shape[:2], 3)))


def is_drawn_smaller(image: np.ndarray) -> bool:
    """Whether :func:`draw` reduces an image, (H, W, ...)."""
    return image.shape[0] * image.shape[1] > MAX_PIXELS


def draw(
    visualizer: Visualizer,
    image: np.ndarray,
    sample: Any,
    truth: bool = False,
    score_thr: float = 0.3,
) -> np.ndarray:
    """Draw the predictions or the ground truth of a data sample into an image.

    Args:
        visualizer: From :func:`offline_visualizer`.
        image: (H, W, 3) uint8 RGB.
        sample: The data sample of any task.
        truth: Draw the ground truth instead of the predictions.
        score_thr: Detections below this score are not drawn.

    Returns:
        (H, W, 3) uint8 RGB, enlarged if it is small, reduced to ``MAX_PIXELS`` if it is larger.
    """
    task, show = task_of_sample(sample), {"draw_gt": truth, "draw_pred": not truth}
    if task is Task.DETECTION:
        sample = _visible(sample, score_thr)
    if task is Task.CLASSIFICATION:
        classes = visualizer.dataset_meta.get("classes")
        visualizer.visualize_cls(image, sample, classes=classes, **show)
    elif task is Task.DETECTION or "pred_panoptic_seg" in sample:
        visualizer.add_datasample("image", image, sample, pred_score_thr=score_thr, **show)
    else:
        visualizer.add_datasample("image", image, sample, **show)
    return visualizer.get_image()


def draw_pair(
    visualizer: Visualizer, sample: Any, score_thr: float, image: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return the image of a data sample twice: with the truth, and with the prediction.

    Args:
        visualizer: From :func:`offline_visualizer`.
        sample: The data sample of any task.
        score_thr: Detections below this score are not drawn.
        image: The image as the data set loads it, (H, W, C) BGR; by default it is read as BGR.
    """
    image = as_rgb(mmcv.imread(sample.img_path) if image is None else image)
    return [draw(visualizer, image, sample, truth, score_thr) for truth in (True, False)]


def _visible(sample: Any, score_thr: float) -> Any:
    """Remove predictions below the threshold, and those with an empty mask in an empty box.

    mmdet fails if all masks and boxes are empty. An empty box alone is normal: detectors without
    boxes predict them.
    """
    instances = sample.pred_instances
    visible = instances.scores > score_thr
    if "masks" in instances:
        filled = torch.as_tensor(instances.masks).flatten(1).any(1).to(visible.device)
        if "bboxes" in instances:
            filled = filled | (instances.bboxes[:, 2:] > instances.bboxes[:, :2]).all(1)
        visible = visible & filled
    sample = sample.clone()
    sample.pred_instances = instances[visible]
    return sample
