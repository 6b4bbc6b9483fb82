"""Decode the maps of one-stage detectors: from raw maps to boxes, scores, labels and masks.

Everything that decoding needs is plain data, :class:`Decoding`, which a file carries in its
description. So one module decodes inside a graph and behind a runtime that has no non-maximum
suppression, without mmdet. ``docs/decoding.md`` specifies it for authors of applications.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from care_mm.export.detector import MAX_CANDIDATES, NO_SCORE, best_of, clip, suppress

# mmdet divides the coordinates that enter dynamic convolutions by this many strides.
_COORDINATE_SCALE = 8
_MAX_LOG_RATIO = abs(math.log(16 / 1000))  # of mmdet's coder


@dataclass(frozen=True)
class DynamicMasks:
    """The masks of RTMDet-Ins: small convolutions whose weights are predicted for each box.

    Attributes:
        channels: Channels between the convolutions.
        prototypes: Channels of ``mask_features``.
        layers: Number of convolutions; all have a kernel of 1 x 1.
        threshold: The probability above which a pixel belongs to the object.
    """

    channels: int
    prototypes: int
    layers: int
    threshold: float

    def split(self, kernels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return weight (D, out, in) and bias (D, out) of each layer for kernels (D, P)."""
        inner = [self.channels] * (self.layers - 1)
        widths = [2 + self.prototypes, *inner, 1]
        pairs = list(zip(widths[1:], widths, strict=False))
        sizes = [a * b for a, b in pairs] + [a for a, _ in pairs]
        parts = kernels.split(sizes, 1)
        return [
            (weight.reshape(-1, *pair), bias)
            for pair, weight, bias in zip(pairs, parts, parts[len(pairs) :], strict=False)
        ]


@dataclass(frozen=True)
class Decoding:
    """How the maps of a one-stage detector become detections.

    Attributes:
        head: Type of mmdet's head; informative.
        strides: Pixels between cells for each level, as (x, y).
        priors: For each level the boxes (x1, y1, x2, y2) of the cell at the origin, in pixels; for
            a point both corners are the same.
        classes: Number of classes.
        activation: ``'sigmoid'``, or ``'softmax'`` with the background as the last channel.
        factor: Whether there are ``factors``, a centerness or objectness that multiplies scores.
        best_class: A prior detects its best class alone, and ``score_thr`` applies to the product
            of score and factor. Otherwise each pair of prior and class is a candidate, and
            ``score_thr`` and ``nms_pre`` apply to the score without factor.
        boxes: ``'deltas'``, ``'distances'``, ``'distribution'`` or ``'centers'``.
        means: Of the deltas.
        stds: Of the deltas.
        max_log_ratio: Largest magnitude of the logarithm of a box's side over its prior's.
        bins: Number of values that a distance is distributed over.
        clip: Whether boxes are clipped to the image.
        score_thr: Detections with this score or less do not count.
        nms_pre: Best pairs of each level; 0 for all.
        min_size: Smallest width and height of a box, exclusive; -1 for none.
        iou_threshold: A box with a larger overlap with a better one is suppressed.
        class_agnostic: Boxes suppress those of other classes too.
        max_per_img: Number of detections.
        masks: The dynamic convolutions; ``None`` for boxes alone.
    """

    head: str
    strides: list[list[float]]
    priors: list[list[list[float]]]
    classes: int
    activation: str
    factor: bool
    best_class: bool
    boxes: str
    score_thr: float
    iou_threshold: float
    max_per_img: int
    clip: bool = True
    means: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    stds: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
    max_log_ratio: float = _MAX_LOG_RATIO
    bins: int = 1
    nms_pre: int = 0
    min_size: float = -1
    class_agnostic: bool = False
    masks: DynamicMasks | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Decoding:
        """Return the decoding that :meth:`as_dict` described."""
        masks = content.get("masks")
        return cls(**{**content, "masks": DynamicMasks(**masks) if masks else None})

    def as_dict(self) -> dict[str, Any]:
        """Return a description for JSON."""
        return asdict(self)

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of the maps, in the order of a file's outputs."""
        kinds = ["scores", "boxes"]
        kinds += ["factors"] if self.factor else []
        kinds += ["kernels"] if self.masks else []
        names = [f"{kind}{level}" for kind in kinds for level in range(len(self.strides))]
        return (*names, "mask_features") if self.masks else tuple(names)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :class:`Decoder` returns."""
        names = ("boxes", "scores", "labels", "valid")
        return (*names, "mask_logits") if self.masks else names


class Decoder(nn.Module):
    """Decode maps with fixed counts.

    Args:
        decoding: The description of the maps.
    """

    def __init__(self, decoding: Decoding) -> None:
        super().__init__()
        self.decoding = decoding

    def forward(self, maps: Mapping[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, ...]:
        """Return the detections of one image.

        Args:
            maps: The maps by name, (1, C, h, w) each.
            size: Height and width of the image without padding, to which boxes are clipped.

        Returns:
            ``boxes`` (D, 4) as x1, y1, x2, y2 in pixels, best first; ``scores`` (D,); ``labels``
            (D,); ``valid`` (D,), false for entries that do not count; and with masks
            ``mask_logits`` (D, h, w) at the resolution of ``mask_features``.
        """
        about = self.decoding
        found = self.candidates(maps)
        boxes = self._boxes(found)
        if about.clip:
            boxes = clip(boxes, size)
        scores = found["scores"]
        if about.min_size >= 0:
            large = (boxes[:, 2:] - boxes[:, :2] > about.min_size).all(1)
            scores = torch.where(large, scores, NO_SCORE)
        groups = torch.zeros_like(found["labels"]) if about.class_agnostic else found["labels"]
        scores, best = suppress(boxes, scores, groups, about.iou_threshold, about.max_per_img)
        valid = scores >= 0
        detections = (boxes[best] * valid[:, None], scores, found["labels"][best] * valid, valid)
        if about.masks is None:
            return detections
        kept = {name: values[best] for name, values in found.items()}
        return (*detections, self._masks(maps["mask_features"], kept))

    def candidates(self, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the best candidates of all levels, best first, at most ``MAX_CANDIDATES``.

        Returns:
            ``scores`` (K,), with ``NO_SCORE`` for those that do not count; ``labels`` (K,);
            ``boxes`` (K, 4 or more), encoded; ``priors`` (K, 4); ``strides`` (K,); with masks
            ``kernels`` (K, P).
        """
        levels = [self._level(level, maps) for level in range(len(self.decoding.strides))]
        joined = {name: torch.cat([level[name] for level in levels]) for name in levels[0]}
        scores, best = best_of(joined.pop("scores"), MAX_CANDIDATES)
        return {"scores": scores, **{name: values[best] for name, values in joined.items()}}

    def _level(self, level: int, maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the candidates of one level; see :meth:`candidates`."""
        about = self.decoding
        background = about.activation == "softmax"
        outputs = _rows(maps[f"scores{level}"], about.classes + background)
        factors = _rows(maps[f"factors{level}"], 1)[:, 0].sigmoid() if about.factor else None
        if background:
            outputs = outputs.softmax(-1)[:, :-1]
        if about.best_class:
            scores, labels = outputs.max(1)
            scores = scores if background else scores.sigmoid()
            scores = scores if factors is None else scores * factors
            scores, row = best_of(
                torch.where(scores >= about.score_thr, scores, NO_SCORE), MAX_CANDIDATES
            )
            labels = labels[row]
        else:
            count = min(about.nms_pre or MAX_CANDIDATES, MAX_CANDIDATES)
            scores, row, labels = _best_pairs(outputs, count, activated=background)
            counts = (scores > about.score_thr) & (scores >= 0)
            product = scores if factors is None else scores * factors[row]
            scores = torch.where(counts, product, NO_SCORE)
        found = {
            "scores": scores,
            "labels": labels,
            "boxes": _rows(maps[f"boxes{level}"], 4 * about.bins)[row],
            "priors": self._priors(level, row, tuple(maps[f"scores{level}"].shape[2:]), scores),
            "strides": torch.full_like(scores, about.strides[level][0]),
        }
        if about.masks:
            found["kernels"] = _rows(maps[f"kernels{level}"], maps[f"kernels{level}"].shape[1])[row]
        return found

    def _priors(self, level: int, row: Tensor, size: tuple[int, int], like: Tensor) -> Tensor:
        """Return the priors (K, 4) of rows (K,) of a map of ``size`` (height, width)."""
        first = like.new_tensor(self.decoding.priors[level])
        # Converters lack the remainder by a width that is open, so columns and rows are looked up.
        position = _cells(size, like)[row // len(first)]
        offset = position * like.new_tensor(self.decoding.strides[level])
        return first[row % len(first)] + torch.cat((offset, offset), 1)

    def _boxes(self, found: Mapping[str, Tensor]) -> Tensor:
        """Return decoded boxes (K, 4)."""
        about, encoded, priors = self.decoding, found["boxes"], found["priors"]
        stride = found["strides"][:, None]
        center = (priors[:, :2] + priors[:, 2:]) / 2
        if about.boxes in ("distances", "distribution"):
            if about.boxes == "distribution":
                shares = encoded.reshape(-1, 4, about.bins).softmax(-1)
                encoded = (shares * torch.arange(about.bins).to(shares)).sum(-1) * stride
            return torch.cat((center - encoded[:, :2], center + encoded[:, 2:]), 1)
        if about.boxes == "centers":
            center = center + encoded[:, :2] * stride
            half = encoded[:, 2:].exp() * stride / 2
        else:
            deltas = encoded * encoded.new_tensor(about.stds) + encoded.new_tensor(about.means)
            sides = priors[:, 2:] - priors[:, :2]
            center = center + deltas[:, :2] * sides
            limit = about.max_log_ratio
            half = sides * deltas[:, 2:].clamp(-limit, limit).exp() / 2
        return torch.cat((center - half, center + half), 1)

    def _masks(self, features: Tensor, kept: Mapping[str, Tensor]) -> Tensor:
        """Return mask logits (D, h, w) of detections.

        A convolution sees the features and, as two more channels, the way from each pixel to the
        prior in strides. These channels differ between detections by a constant only, which goes
        into the bias, so that all detections share one product.

        Args:
            features: (1, prototypes, h, w), at the resolution of the first level.
            kept: ``kernels`` (D, P), ``priors`` (D, 4) and ``strides`` (D,).
        """
        about, (height, width) = self.decoding, features.shape[2:]
        (weight, bias), *others = about.masks.split(kept["kernels"])
        toward_prior = weight[..., :2] / (kept["strides"] * _COORDINATE_SCALE)[:, None, None]
        bias = bias + (toward_prior * kept["priors"][:, None, :2]).sum(-1)
        grid = _cells((height, width), features) * features.new_tensor(about.strides[0])
        grid = grid + features.new_tensor(about.priors[0][0][:2])
        inputs = torch.cat((-grid.T, features[0].flatten(1)))
        weight = torch.cat((toward_prior, weight[..., 2:]), -1).flatten(0, 1)
        masks = (weight @ inputs).reshape(*bias.shape, -1) + bias[..., None]
        for weight, bias in others:
            masks = weight @ masks.relu() + bias[..., None]
        return masks.reshape(-1, height, width)


def _cells(size: tuple[int, int], like: Tensor) -> Tensor:
    """Return column and row (height * width, 2) of the cells of a map, row by row."""
    height, width = size
    x = torch.arange(width).to(like).expand(height, width)
    y = torch.arange(height).to(like)[:, None].expand(height, width)
    return torch.stack((x, y), -1).reshape(-1, 2)


def _rows(values: Tensor, width: int) -> Tensor:
    """Return a map (1, A * width, h, w) as rows (h * w * A, width)."""
    return values[0].permute(1, 2, 0).reshape(-1, width)


def _best_pairs(outputs: Tensor, count: int, activated: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ``count`` best pairs of prior and class: scores, rows and labels, (K,) each.

    The best pairs belong to the priors with the best classes, which are found first.

    Args:
        outputs: (N, classes), probabilities or logits of a sigmoid.
        count: Number of pairs.
        activated: Whether they are probabilities.
    """
    best = outputs.max(1).values
    best, row = best_of(best if activated else best.sigmoid(), count)
    scores = outputs[row] if activated else outputs[row].sigmoid()
    scores = torch.where(best[:, None] >= 0, scores, NO_SCORE)
    scores, index = best_of(scores.flatten(), count)
    classes = outputs.shape[1]
    return scores, row[index // classes], index % classes
