"""Make the visualizers of MM draw at a size at which one sees masks, and with our labels.

All that care_mm draws goes through :func:`clarify`: predictions of commands, images of the report,
and what MM's visualization hooks draw with the visualizer of a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.structures import InstanceData, PixelData
from mmengine.visualization import Visualizer

from care_mm.drawing.scenes import draw_class_map, draw_instances
from care_mm.palette import drawable, palette_of

# Larger images are drawn smaller: the time grows with the size, to minutes for 100 megapixels.
MAX_PIXELS = 10_000_000
_SHARP = 640  # small images are enlarged to about this side
_OURS = ("DetLocalVisualizer", "SegLocalVisualizer", "UniversalVisualizer")


def clarify(visualizer: Visualizer, dataset_meta: Mapping[str, Any] | None) -> None:
    """Make a visualizer draw clearly, in place.

    Small images are enlarged, large ones are reduced, and labels cover no objects. Visualizers of
    other types than mmdet's, mmseg's and mmpretrain's get names and colours only.

    Args:
        visualizer: A visualizer.
        dataset_meta: Classes and palette, in any form.
    """
    kind = type(visualizer).__name__
    # Only what is drawn with matplotlib reads dollar signs as a formula.
    visualizer.dataset_meta = drawable(dataset_meta, kind != "SegLocalVisualizer")
    if kind not in _OURS or getattr(visualizer, "is_clear", False):
        return
    visualizer.is_clear = True
    name = "visualize_cls" if kind == "UniversalVisualizer" else "add_datasample"
    draw_at_size = getattr(visualizer, name)

    def add(*args: Any, **kwargs: Any) -> Any:
        names = ("image", "data_sample") if name == "visualize_cls" else _ARGUMENTS
        kwargs.update(zip(names, args, strict=False))
        kwargs["image"], kwargs["data_sample"] = _resized(
            kwargs["image"], kwargs.get("data_sample")
        )
        return draw_at_size(**kwargs)

    setattr(visualizer, name, add)
    if kind == "DetLocalVisualizer":
        _draw_like(visualizer, "_draw_instances", _instances)
    elif kind == "SegLocalVisualizer":
        _draw_like(visualizer, "_draw_sem_seg", _class_map)


_ARGUMENTS = ("name", "image", "data_sample", "draw_gt", "draw_pred")


def _draw_like(visualizer: Visualizer, name: str, draw: Any) -> None:
    """Replace one of the methods by which a visualizer draws a part of a data sample."""

    def method(image: np.ndarray, part: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        drawn = draw(visualizer, image, part, *args, **kwargs)
        visualizer.set_image(drawn)
        return drawn

    setattr(visualizer, name, method)


def _instances(
    visualizer: Visualizer,
    image: np.ndarray,
    instances: InstanceData,
    classes: Sequence[str] | None,
    palette: Sequence | None,
) -> np.ndarray:
    if not len(instances):
        return image.copy()
    labels = np.asarray(instances.labels).tolist()
    colours = palette or palette_of(max(labels) + 1)
    boxes = instances.get("bboxes")
    if boxes is not None:
        boxes = np.asarray(getattr(boxes, "tensor", boxes)).reshape(len(labels), -1)[:, :4]
    masks = instances.get("masks")
    if hasattr(masks, "to_ndarray"):
        masks = masks.to_ndarray()
    masks = None if masks is None else np.asarray(masks).astype(bool)
    names = instances.get("label_names")  # of a detector with open vocabulary
    texts = [] if names is None else list(map(str, names))
    if names is None and (classes is None or len(classes) > 1):
        texts = [f"class {n}" if classes is None else classes[n] for n in labels]
    if "scores" in instances:
        scores = np.asarray(instances.scores)
        texts = [f"{t} {100 * s:.0f}" for t, s in zip(texts, scores, strict=False)]
    return draw_instances(
        image,
        [colours[label] for label in labels],
        boxes,
        masks,
        [text.replace(r"\$", "$") for text in texts],
        visualizer.alpha,
        visualizer.line_width,
    )


def _class_map(
    visualizer: Visualizer,
    image: np.ndarray,
    sem_seg: PixelData,
    classes: Sequence[str],
    palette: Sequence,
    with_labels: bool = True,
) -> np.ndarray:
    # mmseg's binary models predict classes as floating point.
    class_map = torch.as_tensor(sem_seg.data).cpu().long().numpy().reshape(image.shape[:2])
    return draw_class_map(image, class_map, classes, palette, visualizer.alpha, with_labels)


def size_to_draw(height: int, width: int) -> tuple[int, int]:
    """Return height and width at which an image is drawn."""
    if height * width > MAX_PIXELS:
        scale = math.sqrt(MAX_PIXELS / (height * width))
        return max(1, int(height * scale)), max(1, int(width * scale))
    factor = max(1, round(_SHARP / max(height, width)))
    return height * factor, width * factor


def _resized(image: np.ndarray, sample: Any) -> tuple[np.ndarray, Any]:
    """Return an image and its data sample at the size at which they are drawn."""
    height, width = image.shape[:2]
    size = size_to_draw(height, width)
    if size == (height, width):
        return image, sample
    rows = torch.arange(size[0]) * height // size[0]
    columns = torch.arange(size[1]) * width // size[1]
    image = mmcv.imresize(image, size[::-1])
    if sample is None:
        return image, sample
    sample = sample.clone().cpu()
    for name, part in list(sample.items()):
        if isinstance(part, PixelData):
            maps = {key: torch.as_tensor(value) for key, value in part.items()}
            maps = {key: value[..., rows, :][..., columns] for key, value in maps.items()}
            setattr(sample, name, PixelData(metainfo=part.metainfo, **maps))
        elif isinstance(part, InstanceData):
            resized = {}
            for key, value in part.items():
                if key == "bboxes":
                    factors = (size[1] / width, size[0] / height) * 2
                    value = getattr(value, "tensor", value)
                    value = value * value.new_tensor(factors)
                elif key == "masks":
                    value = value.to_ndarray() if hasattr(value, "to_ndarray") else value
                    value = torch.as_tensor(value)[..., rows, :][..., columns]
                resized[key] = value
            setattr(sample, name, InstanceData(metainfo=part.metainfo, **resized))
    return image, sample
