"""Detectors with fixed counts, so that a graph can hold them.

The numbers of candidates and detections in mmdet depend on the image, which no exporter accepts.
Here the numbers are fixed: the best ones are kept, and a mask marks those that count. Priors,
decoding, suppression, pooling and scores equal mmdet's.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.errors import InputError

# The number of pairs of box and class that enter the last suppression, best first. mmdet uses all
# above score_thr, which are some hundreds in a trained detector.
MAX_CANDIDATES = 2000
NO_SCORE = -1.0  # score of entries that fill up a fixed count; real scores start at 0


class Detector(nn.Module):
    """The base class of exported detectors.

    Args:
        model: The mmdet model; its data preprocessor pads images.
        dense: The network that sees the whole image. It returns a tuple of maps for an image
            (1, 3, H, W) whose sides are multiples of ``divisor``.

    Attributes:
        outputs: Names of the outputs.
        map_names: Names of the maps that ``dense`` returns.
        divisor: Images are padded to multiples of it.
        coarsest: Largest stride of the maps that a graph with open size is traced with.
    """

    outputs: tuple[str, ...]
    map_names: tuple[str, ...]
    coarsest = 32

    def __init__(self, model: nn.Module, dense: nn.Module) -> None:
        super().__init__()
        self.dense = dense
        self.divisor = model.data_preprocessor.pad_size_divisor
        self.pad_value = float(getattr(model.data_preprocessor, "pad_value", 0))

    @abstractmethod
    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in a normalised image (1, 3, H, W) of any size, which is padded here.

        Returns:
            ``boxes`` (D, 4) as x1, y1, x2, y2 in pixels, best first; ``scores`` (D,); ``labels``
            (D,); ``valid`` (D,), false for entries that do not count; and the masks, if there are
            any.
        """

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name; the steps between them have no weights."""
        return {"dense": self.dense}

    def pad(self, image: Tensor) -> Tensor:
        """Pad an image (1, 3, H, W) at the right and bottom as mmdet's preprocessor does."""
        return pad_to_multiple(image, self.divisor, self.pad_value)

    def maps(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of an image (1, 3, H, W) of any size, in the order of ``map_names``."""
        return self.dense(self.pad(image))


class RawMaps(nn.Module):
    """The maps of a detector as outputs, for runtimes without non-maximum suppression.

    Args:
        detector: The detector.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of an image (1, 3, H, W); see :meth:`Detector.maps`."""
        return self.detector.maps(image)


def check_nms(where: str, nms: Mapping[str, Any] | None, agnostic: bool = False) -> None:
    """Raise InputError unless mmcv's suppression is the plain one.

    Args:
        where: The key of the config, for the message.
        nms: The setting.
        agnostic: Suppression across classes is supported too.
    """
    options = dict(nms or {"type": None})
    plain = options.pop("type", "nms") == "nms" and "iou_threshold" in options
    across = options.pop("class_agnostic", False)
    others = set(options) - {"iou_threshold", "split_thr"}
    if not plain or others or (across and not agnostic):
        shown = None if nms is None else dict(nms)
        kind = "nms" if agnostic else "nms by class"
        raise InputError(f"{where}={shown}: export supports plain {kind} with an iou_threshold")


def pad_to_multiple(image: Tensor, divisor: int, value: float = 0.0) -> Tensor:
    """Pad (B, C, H, W) with ``value`` at the right and bottom to multiples of ``divisor``."""
    height, width = image.shape[2:]
    missing = (0, -width % divisor, 0, -height % divisor)
    if all(isinstance(side, int) and side == 0 for side in missing):  # unknown while tracing
        return image
    return F.pad(image, missing, value=value)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Clip boxes (N, 4) to an image of ``size`` (height, width)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack(
        (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), 1
    )


def best_of(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` highest of (N,) and their indices, best first; all of them for ``-1``.

    If N is smaller, all are returned. If N is unknown while tracing, ``count`` are returned, filled
    up with ``NO_SCORE`` and the last index.
    """
    total = scores.shape[0]
    if isinstance(total, int):
        return scores.topk(min(count, total) if count > 0 else total)
    scores, index = F.pad(scores, (0, count), value=NO_SCORE).topk(count)
    return scores, index.clamp(max=total - 1)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Apply greedy non-maximum suppression within groups and return the ``count`` best boxes.

    Args:
        boxes: (N, 4).
        scores: (N,); boxes with ``NO_SCORE`` are never kept.
        groups: (N,), the level or class; boxes suppress those of the same group only.
        iou_threshold: A box with a larger overlap with a better one is suppressed.
        count: Number of boxes to return, at most N.

    Returns:
        Scores (count,), best first, filled up with ``NO_SCORE``, and indices (count,).
    """
    from torchvision.ops import nms

    real = scores >= 0
    # Groups are moved apart, as in mmcv. Boxes that do not count are made identical, so that one of
    # them suppresses all others at once.
    offset = groups * real * (torch.where(real[:, None], boxes, 0.0).max() + 1)
    apart = torch.where(real[:, None], boxes + offset[:, None], boxes.new_tensor([-2, -2, -1, -1]))
    kept = nms(apart, scores, iou_threshold)
    left = torch.zeros_like(scores).scatter(0, kept, torch.ones_like(kept, dtype=scores.dtype))
    scores = torch.where((left > 0) & real, scores, NO_SCORE)
    return scores.topk(min(count, scores.shape[0]))
