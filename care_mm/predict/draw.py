"""Draw predictions and ground truth into images with the config's visualizer."""

from __future__ import annotations

import colorsys
from itertools import count
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.visualization import Visualizer

from care_mm.tasks import Task, task_of_sample

# mmengine returns the same visualizer for the same name, so each needs its own.
_NUMBERS = count()


def offline_visualizer(config: Config, dataset_meta: dict) -> Visualizer:
    """Return the config's visualizer, without a backend to write to."""
    settings = {**config.visualizer, "vis_backends": None, "name": f"care_mm_{next(_NUMBERS)}"}
    visualizer = VISUALIZERS.build(settings)
    classes = dataset_meta.get("classes") or ()
    # mmseg draws nothing without colours, which not every data set names.
    visualizer.dataset_meta = {"palette": _palette(len(classes)), **dataset_meta}
    return visualizer


def _palette(size: int) -> list[tuple[int, ...]]:
    """Return RGB colours whose hues are a golden section apart, so that neighbours differ."""
    hues = (0.618034 * i % 1 for i in range(size))
    return [tuple(int(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.65, 0.95)) for hue in hues]


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
        (H, W, 3) uint8 RGB, of the same size.
    """
    task, show = task_of_sample(sample), {"draw_gt": truth, "draw_pred": not truth}
    if task is Task.CLASSIFICATION:
        classes = visualizer.dataset_meta.get("classes")
        visualizer.visualize_cls(image, sample, classes=classes, **show)
    elif task is Task.SEGMENTATION:
        visualizer.add_datasample("image", image, sample, **show)
    else:
        sample = _without_invisible(sample)
        visualizer.add_datasample("image", image, sample, pred_score_thr=score_thr, **show)
    return visualizer.get_image()


def draw_pair(visualizer: Visualizer, sample: Any, score_thr: float) -> list[np.ndarray]:
    """Read the image of a data sample and return it twice: with the truth, with the prediction."""
    image = mmcv.imread(sample.img_path, channel_order="rgb")
    return [draw(visualizer, image, sample, truth, score_thr) for truth in (True, False)]


def _without_invisible(sample: Any) -> Any:
    """Remove predictions with an empty mask in an empty box; mmdet fails if all are like that.

    An empty box alone is normal: detectors without boxes predict them.
    """
    instances = sample.get("pred_instances")
    if instances is None or "masks" not in instances:
        return sample
    visible = torch.as_tensor(instances.masks).flatten(1).any(1)
    if "bboxes" in instances:
        has_area = (instances.bboxes[:, 2:] > instances.bboxes[:, :2]).all(1)
        visible = visible | has_area.to(visible.device)
    sample = sample.clone()
    sample.pred_instances = instances[visible]
    return sample
