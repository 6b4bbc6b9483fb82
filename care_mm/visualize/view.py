"""Run a model on one image and collect maps of the stages of its backbone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
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
from care_mm.predict.draw import is_drawn_smaller
from care_mm.predict.predictor import Predictor, naming
from care_mm.visualize.attention import attention_map
from care_mm.visualize.cam import best_detection, choose_target, grad_cam

MIN_SIDE = 480  # pixels; smaller images are enlarged until their longer side has as many


@dataclass
class View:
    """The result of :func:`look`; maps are (H, W), like ``image``, by stage number from 1.

    Attributes:
        image: The network's input, resized and cropped, (H, W, 3) uint8 RGB.
        prediction: The image of the file with the predictions drawn in.
        energy: Root mean square over the channels of the features minus their spatial mean.
        attention: Mean attention over the heads and blocks of the stage; 1 is the average.
        attention_from: The same for a single query position.
        point: The query position in ``image``, column and row.
        cam: Grad-CAM, from 0 to 1; empty without a target.
        target: The class that ``cam`` explains.
        reduced: Whether ``prediction`` is smaller than the image of the file.
    """

    image: np.ndarray
    prediction: np.ndarray
    energy: dict[int, np.ndarray] = field(default_factory=dict)
    attention: dict[int, np.ndarray] = field(default_factory=dict)
    attention_from: dict[int, np.ndarray] = field(default_factory=dict)
    point: tuple[int, int] = (0, 0)
    cam: dict[int, np.ndarray] = field(default_factory=dict)
    target: str | None = None
    reduced: bool = False


def look(
    predictor: Predictor,
    path: Path,
    target: str | None = None,
    point: tuple[int, int] | None = None,
    score_thr: float = 0.3,
    cam: bool = True,
) -> View:
    """Predict on an image and collect maps of all stages of a CARE backbone.

    Args:
        predictor: The model.
        path: An image file.
        target: Class for Grad-CAM, by name or number; by default that of the highest score, in
            segmentation the largest.
        point: Query position of the attention, column and row in pixels of the file; by default
            the centre of the detection with the highest score, or of the image.
        score_thr: Detections below this score are ignored.
        cam: Compute Grad-CAM.

    Raises:
        InputError: The image cannot be read, the model has no CARE backbone or runs it more than
            once (sliding windows), or there is no such class or point.
    """
    backbone = _backbone_of(predictor.model)
    loaded = predictor.read(path)
    batch = predictor.prepare(loaded)
    with naming(path, "cannot be prepared"):
        data = predictor.model.data_preprocessor(batch, False)
    x: Tensor = data["inputs"]
    frame = _Frame(x.shape[-2:], batch["inputs"][0].shape[-2:])
    with naming(path, "cannot be predicted"):
        record, sample = _predict(predictor.model, backbone, data)
    position = _query(loaded, sample, point, score_thr)
    view = View(
        image=frame.image(_pixels(predictor.model, x)),
        prediction=predictor.draw(loaded, sample, score_thr),
        point=frame.point(position),
        reduced=is_drawn_smaller(loaded["img"]),
    )
    for stage, features in enumerate(record.stages, 1):
        view.energy[stage] = frame.fit(energy_map(features))
        if layers := record.attention[stage]:
            cell = frame.cell(position, layers[0][1].shape[-2:])
            view.attention[stage] = frame.fit(_mean(attention_map(*each) for each in layers))
            view.attention_from[stage] = frame.fit(
                _mean(attention_map(*each, cell) for each in layers)
            )
    if cam:
        classes = predictor.dataset_meta.get("classes") or ()
        chosen = choose_target(sample, classes, target, score_thr)
        if chosen is not None:
            view.target = chosen.name
            maps = grad_cam(predictor.model, backbone.stages, x, data["data_samples"], chosen)
            for stage, values in enumerate(maps, 1):
                view.cam[stage] = frame.fit(torch.from_numpy(values)[None, None], "bilinear")
    return view


def _backbone_of(model: Any) -> CARETransformer:
    backbone = getattr(model, "backbone", None)
    if not isinstance(backbone, CARETransformer):
        raise InputError(
            f"{type(model).__name__} has no CARETransformer as its backbone; this command shows "
            "no other backbone"
        )
    return backbone


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


@torch.no_grad()
def _predict(model: Any, backbone: CARETransformer, data: Mapping[str, Any]) -> tuple[_Record, Any]:
    """Return what the backbone computed, and the data sample with predictions."""
    with _recording(backbone) as record:
        (sample,) = model(data["inputs"], data["data_samples"], mode="predict")
    if len(record.stages) != len(backbone.stages):
        raise InputError(
            "the model runs its backbone more than once for an image (sliding windows): "
            "--cfg-options model.test_cfg.mode=whole"
        )
    return record, sample


@dataclass(frozen=True)
class _Frame:
    """The geometry of an image: positions are fractions of its height and width, in [0, 1).

    Attributes:
        padded: Height and width of the network's input.
        size: Height and width of the image in it, top left; the rest is padding.
    """

    padded: tuple[int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> float:
        """Factor from the network's input to the maps of a view."""
        return max(1.0, MIN_SIDE / max(self.size))

    def fit(self, values: Tensor, mode: str = "bicubic") -> np.ndarray:
        """Resize a map of the padded input, (1, 1, h, w), and crop the padding: (H, W)."""
        padded = [round(side * self.scale) for side in self.padded]
        height, width = (round(side * self.scale) for side in self.size)
        values = F.interpolate(values, padded, mode=mode, align_corners=False)
        return values[0, 0, :height, :width].cpu().numpy()

    def image(self, pixels: Tensor) -> np.ndarray:
        """Return (3, h, w) pixels of the padded input as (H, W, 3) uint8."""
        bands = [self.fit(band[None, None]) for band in pixels]
        return np.stack(bands, -1).clip(0, 255).astype(np.uint8)

    def point(self, position: tuple[float, float]) -> tuple[int, int]:
        """Return the column and row of a position in the maps of a view."""
        height, width = (round(side * self.scale) for side in self.size)
        return int(position[1] * width), int(position[0] * height)

    def cell(self, position: tuple[float, float], grid: tuple[int, int]) -> tuple[int, int]:
        """Return the row and column of a position in features of the padded input."""
        row, column = (
            int(part * size / padded * cells)
            for part, size, padded, cells in zip(
                position, self.size, self.padded, grid, strict=True
            )
        )
        return row, column


def energy_map(features: Tensor) -> Tensor:
    """Return the distance of each position from the image's mean feature.

    Root mean square over the channels. Without subtracting the mean, a few channels that are
    large everywhere would dominate the map.

    Args:
        features: (1, C, H, W).

    Returns:
        (1, 1, H, W).
    """
    features = features.float()
    return (features - features.mean((2, 3), keepdim=True)).square().mean(1, keepdim=True).sqrt()


def _pixels(model: Any, x: Tensor) -> Tensor:
    """Undo the normalisation: (1, C, H, W) -> (3, H, W) RGB from 0 to 255."""
    mean, std = (getattr(model.data_preprocessor, name, None) for name in ("mean", "std"))
    pixels = x[0] if mean is None or std is None else x[0] * std + mean
    return pixels[:3] if len(pixels) >= 3 else pixels[:1].expand(3, -1, -1)


def _mean(maps: Iterable[Tensor]) -> Tensor:
    """Average over layers and heads: (1, heads, H, W) each -> (1, 1, H, W)."""
    return torch.stack([each.mean(1, keepdim=True) for each in maps]).mean(0)


def _query(
    loaded: Mapping[str, Any], sample: Any, point: tuple[int, int] | None, score_thr: float
) -> tuple[float, float]:
    """Return the query position as fractions of the height and width, in [0, 1)."""
    height, width = loaded["ori_shape"][:2]
    if point is not None:
        if not (0 <= point[0] < width and 0 <= point[1] < height):
            raise InputError(f"--point {point[0]} {point[1]}: the image is {width} x {height}")
        return (point[1] + 0.5) / height, (point[0] + 0.5) / width
    best = best_detection(sample, score_thr)
    if best is None:
        return 0.5, 0.5
    left, top, right, bottom = best.bboxes[0].tolist()
    y, x = (top + bottom) / 2 / height, (left + right) / 2 / width
    return min(max(y, 0), 0.999), min(max(x, 0), 0.999)
