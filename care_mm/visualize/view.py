"""One picture through a model, with what its backbone makes of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from care_mm.errors import InputError
from care_mm.models.backbone import CARETransformer
from care_mm.models.layers import LinearAttention
from care_mm.predict.predictor import Predictor
from care_mm.visualize.attention import attention_map
from care_mm.visualize.cam import choose_target, grad_cam

SHOWN = 480  # pixels that the longer side of a small picture is brought to


@dataclass
class View:
    """What :func:`look` saw. Maps are (H, W), as ``image`` is, by the number of the stage from 1.

    Attributes:
        image: The picture as the network sees it, resized and cropped, (H, W, 3) uint8 RGB.
        prediction: The file's picture with the predictions drawn in.
        energy: Standard deviation of the features over the channels' means, in their unit.
        attention: Of the stage's linear attention, over its heads and blocks; 1 is the average.
        attention_from: The same from one position.
        point: That position in ``image``, column and row.
        cam: Grad-CAM, from 0 to 1; empty without a target.
        target: The class that ``cam`` explains.
    """

    image: np.ndarray
    prediction: np.ndarray
    energy: dict[int, np.ndarray] = field(default_factory=dict)
    attention: dict[int, np.ndarray] = field(default_factory=dict)
    attention_from: dict[int, np.ndarray] = field(default_factory=dict)
    point: tuple[int, int] = (0, 0)
    cam: dict[int, np.ndarray] = field(default_factory=dict)
    target: str | None = None


class _Record:
    """Outputs of the stages, and inputs of their attention layers."""

    def __init__(self) -> None:
        self.stages: list[Tensor] = []
        self.attention: dict[int, list[tuple[LinearAttention, Tensor]]] = defaultdict(list)


@contextmanager
def _recording(backbone: CARETransformer) -> Iterator[_Record]:
    record, handles = _Record(), []
    for number, stage in enumerate(backbone.stages, 1):
        handles.append(stage.register_forward_hook(lambda _, __, y: record.stages.append(y)))
        for layer in stage.modules():
            if isinstance(layer, LinearAttention):
                handles.append(
                    layer.register_forward_hook(
                        lambda layer, x, _, n=number: record.attention[n].append((layer, x[0]))
                    )
                )
    try:
        yield record
    finally:
        for handle in handles:
            handle.remove()


def energy_map(features: Tensor) -> Tensor:
    """(1, C, H, W) -> (1, 1, H, W): how far a position is from the picture's mean feature.

    Root mean square over the channels; without taking the mean off, a few channels that are large
    everywhere would be all that is seen.
    """
    features = features.float()
    return (features - features.mean((2, 3), keepdim=True)).square().mean(1, keepdim=True).sqrt()


def look(
    predictor: Predictor,
    path: Path,
    target: str | None = None,
    point: tuple[int, int] | None = None,
    score_thr: float = 0.3,
    cam: bool = True,
) -> View:
    """Predict on a picture and collect maps of all stages of a CARE backbone.

    Args:
        predictor: The model.
        path: An image file.
        target: Class for Grad-CAM, by name or number; the surest or largest if ``None``.
        point: Column and row, in pixels of the file, from where attention is shown. ``None`` is
            the middle of the surest detection, or of the picture.
        score_thr: Detections below it count for nothing.
        cam: Compute Grad-CAM.

    Raises:
        InputError: The image cannot be read, the model has no CARE backbone or runs it more than
            once (sliding windows), or there is no such class or point.
    """
    model = predictor.model
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, CARETransformer):
        raise InputError(
            f"{type(model).__name__} has no CARETransformer as its backbone, which is what this "
            "command looks into"
        )
    loaded = predictor.read(path)
    batch = predictor.prepare(loaded)
    height, width = batch["inputs"][0].shape[-2:]  # of the rest, padding
    data = model.data_preprocessor(batch, False)
    x: Tensor = data["inputs"]
    with _recording(backbone) as record, torch.no_grad():
        (sample,) = model(x, data["data_samples"], mode="predict")
    if len(record.stages) != len(backbone.stages):
        raise InputError(
            "the model runs its backbone more than once for a picture (sliding windows): "
            "--cfg-options model.test_cfg.mode=whole"
        )
    scale = max(1.0, SHOWN / max(height, width))

    def fit(values: Tensor, mode: str = "bicubic") -> np.ndarray:
        """A map over the padded picture, (1, 1, h, w) -> (H, W) of the shown one."""
        full = [round(side * scale) for side in x.shape[-2:]]
        values = F.interpolate(values, full, mode=mode, align_corners=False)
        return values[0, 0, : round(height * scale), : round(width * scale)].cpu().numpy()

    view = View(
        image=np.stack([fit(band[None, None]) for band in _pixels(model, x)], -1)
        .clip(0, 255)
        .astype(np.uint8),
        prediction=predictor.picture(loaded, sample, score_thr),
    )
    y_of_1, x_of_1 = _position(loaded, sample, point, score_thr)
    shown_height, shown_width = view.image.shape[:2]
    view.point = (int(x_of_1 * shown_width), int(y_of_1 * shown_height))
    for number, features in enumerate(record.stages, 1):
        view.energy[number] = fit(energy_map(features))
        layers = record.attention[number]
        if layers:
            rows, columns = layers[0][1].shape[-2:]
            at = (
                int(y_of_1 * height / x.shape[-2] * rows),
                int(x_of_1 * width / x.shape[-1] * columns),
            )
            view.attention[number] = fit(_mean(attention_map(*each) for each in layers))
            view.attention_from[number] = fit(_mean(attention_map(*each, at) for each in layers))
    if cam:
        classes = predictor.dataset_meta.get("classes") or ()
        chosen = choose_target(sample, classes, target, score_thr)
        if chosen is not None:
            view.target = chosen.name
            maps = grad_cam(model, backbone.stages, x, data["data_samples"], chosen)
            for number, values in enumerate(maps, 1):
                view.cam[number] = fit(torch.from_numpy(values)[None, None], "bilinear")
    return view


def _pixels(model: Any, x: Tensor) -> Tensor:
    """A preprocessed picture (1, 3, H, W) -> (3, H, W) RGB from 0 to 255."""
    mean, std = (getattr(model.data_preprocessor, name, None) for name in ("mean", "std"))
    if mean is None or std is None:
        return x[0]
    return x[0] * std + mean


def _mean(maps: Iterator[Tensor]) -> Tensor:
    """Over layers and heads, (1, heads, H, W) each -> (1, 1, H, W)."""
    return torch.stack([each.mean(1, keepdim=True) for each in maps]).mean(0)


def _position(
    loaded: Any, sample: Any, point: tuple[int, int] | None, score_thr: float
) -> tuple[float, float]:
    """Where attention is shown from: parts of the height and width, at least 0 and below 1."""
    height, width = loaded["ori_shape"][:2]
    if point is not None:
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise InputError(f"--point {point[0]} {point[1]}: the picture is {width} x {height}")
        return (point[1] + 0.5) / height, (point[0] + 0.5) / width
    found = sample.pred_instances if "pred_instances" in sample else None
    if found is None or not len(found.scores) or float(found.scores.max()) < score_thr:
        return 0.5, 0.5
    left, top, right, bottom = found.bboxes[found.scores.argmax()].tolist()
    inside = (min(max((top + bottom) / 2 / height, 0), 0.999), (left + right) / 2 / width)
    return inside[0], min(max(inside[1], 0), 0.999)
