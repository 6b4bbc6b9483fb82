"""Draw predictions and ground truth into images with the config's visualizer."""

from __future__ import annotations

import colorsys
from itertools import count
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.visualization import Visualizer

_NUMBERS = count()  # visualizers of one name are one


def offline_visualizer(config: Config, dataset_meta: dict) -> Visualizer:
    """The config's visualizer, without a backend to write to."""
    settings = {**config.visualizer, "vis_backends": None, "name": f"care_mm_{next(_NUMBERS)}"}
    visualizer = VISUALIZERS.build(settings)
    classes = dataset_meta.get("classes") or ()
    # mmseg draws nothing without colours, which not every data set names.
    visualizer.dataset_meta = {"palette": _palette(len(classes)), **dataset_meta}
    return visualizer


def _palette(count: int) -> list[tuple[int, ...]]:
    """RGB colours that neighbours do not share: hues a golden section apart."""
    hues = (0.618034 * i % 1 for i in range(count))
    return [tuple(int(255 * v) for v in colorsys.hsv_to_rgb(hue, 0.65, 0.95)) for hue in hues]


def draw(
    visualizer: Visualizer,
    image: np.ndarray,
    sample: Any,
    truth: bool = False,
    score_thr: float = 0.3,
) -> np.ndarray:
    """Predictions, or the truth, drawn into an (H, W, 3) uint8 RGB image of the same size."""
    show = {"draw_gt": truth, "draw_pred": not truth}
    if "pred_label" in sample:
        classes = visualizer.dataset_meta.get("classes")
        visualizer.visualize_cls(image, sample, classes=classes, **show)
    elif "pred_sem_seg" in sample and "pred_instances" not in sample:
        visualizer.add_datasample("picture", image, sample, **show)
    else:
        sample = _without_invisible(sample)
        visualizer.add_datasample("picture", image, sample, pred_score_thr=score_thr, **show)
    return visualizer.get_image()


def _without_invisible(sample: Any) -> Any:
    """Without predictions of an empty mask in an empty box; mmdet fails where there are only such.

    Empty boxes alone are what detectors without boxes give.
    """
    instances = sample.get("pred_instances")
    if instances is None or "masks" not in instances:
        return sample
    seen = torch.as_tensor(instances.masks).flatten(1).any(1)
    if "bboxes" in instances:
        seen = seen | (instances.bboxes[:, 2:] > instances.bboxes[:, :2]).all(1).to(seen.device)
    sample = sample.clone()
    sample.pred_instances = instances[seen]
    return sample
