"""Two-stage detectors of mmdet with fixed counts, so that a graph can hold them.

mmdet keeps as many proposals and detections as there are, which no exporter takes. Here there are
always equally many, the best ones, and a mask says which of them count. What is computed is what
mmdet computes: same anchors, decoding, suppression and pooling, same scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.errors import InputError

# Boxes that enter the second suppression, the best by score. mmdet takes all above score_thr, of
# which a trained detector has some hundreds.
MAX_CANDIDATES = 2000
NO_SCORE = -1.0  # of what fills up a fixed count; true scores are from 0


class DenseParts(nn.Module):
    """What looks at the whole picture: backbone, neck and the convolutions of the RPN."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn_head = model.backbone, model.neck, model.rpn_head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, 3, H, W) -> features (1, C, h, w) of all levels, then
        scores (1, A, h, w), then deltas (1, 4A, h, w).
        """
        features = self.neck(self.backbone(image))
        scores, deltas = self.rpn_head(features)
        return (*features, *(score.sigmoid() for score in scores), *deltas)


class BoxParts(nn.Module):
    """The box head, on pooled features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.roi_head.bbox_head

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(P, C, 7, 7) -> class scores (P, classes), deltas (P, 4 or 4 * classes)."""
        scores, deltas = self.head(pooled)
        return scores.softmax(-1)[:, :-1], deltas


class MaskParts(nn.Module):
    """The mask head, on pooled features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.roi_head.mask_head

    def forward(self, pooled: Tensor) -> Tensor:
        """(D, C, 14, 14) -> probabilities (D, classes or 1, 28, 28)."""
        return self.head(pooled).sigmoid()


def check_exportable(model: nn.Module) -> None:
    """Raise InputError for a detector of another build than Mask R-CNN's or Faster R-CNN's."""
    expected = {
        "rpn_head": "RPNHead",
        "roi_head": "StandardRoIHead",
        "roi_head.bbox_roi_extractor": "SingleRoIExtractor",
        "roi_head.mask_roi_extractor": "SingleRoIExtractor",
        "roi_head.mask_head": "FCNMaskHead",
        "rpn_head.bbox_coder": "DeltaXYWHBBoxCoder",
        "roi_head.bbox_head.bbox_coder": "DeltaXYWHBBoxCoder",
    }
    for path, name in expected.items():
        part: object = model
        for attribute in path.split("."):
            part = getattr(part, attribute, None)
        optional = "mask" in path
        if type(part).__name__ != name and not (optional and part is None):
            raise InputError(
                f"{type(model).__name__} with a {path} of type {type(part).__name__}: export knows "
                f"{name} only; --what backbone exports the feature pyramid of any model"
            )
    for stage, head in (("rpn", model.rpn_head), ("rcnn", model.roi_head)):
        nms = head.test_cfg["nms"]
        if nms.get("type", "nms") != "nms" or nms.get("class_agnostic"):
            raise InputError(f"test_cfg.{stage}.nms={dict(nms)}: export knows plain nms by class")


class Detector(nn.Module):
    """A picture's detections, in fixed numbers, with the arithmetic of mmdet.

    Args:
        model: A detector that :func:`check_exportable` lets pass.
        dense, boxes, masks: The three networks in it; from ``model`` when not given. With exported
            ones in their place, all that is between them runs in torch.
    """

    def __init__(
        self,
        model: nn.Module,
        dense: nn.Module | None = None,
        boxes: nn.Module | None = None,
        masks: nn.Module | None = None,
    ) -> None:
        super().__init__()
        check_exportable(model)
        roi_head = model.roi_head
        self.divisor = model.data_preprocessor.pad_size_divisor
        self.dense = dense or DenseParts(model)
        self.boxes = boxes or BoxParts(model)
        self.masks = (masks or MaskParts(model)) if roi_head.with_mask else None
        self.anchors = model.rpn_head.prior_generator
        self.box_coders = (model.rpn_head.bbox_coder, roi_head.bbox_head.bbox_coder)
        self.box_pooling = Pooling(roi_head.bbox_roi_extractor)
        self.mask_pooling = Pooling(roi_head.mask_roi_extractor) if roi_head.with_mask else None
        self.rpn_cfg, self.cfg = model.rpn_head.test_cfg, roi_head.test_cfg

    def networks(self) -> dict[str, nn.Module]:
        """What has weights."""
        parts = {"dense": self.dense, "boxes": self.boxes, "masks": self.masks}
        return {name: part for name, part in parts.items() if part is not None}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detections in a normalised picture (1, 3, H, W) of any size; it is padded here.

        Returns:
            ``boxes`` (D, 4) as x1, y1, x2, y2 in pixels, best first; ``scores`` (D,); ``labels``
            (D,); ``valid`` (D,), false for what is not above ``score_thr`` or fills up; and, from
            a detector with masks, ``masks`` (D, 28, 28), probabilities in the frame of each box.
        """
        height, width = image.shape[2:]
        levels = self.dense(pad_to_multiple(image, self.divisor))
        num_levels = len(levels) // 3
        features = levels[:num_levels]
        proposals, real = self.propose(
            levels[num_levels : 2 * num_levels], levels[2 * num_levels :], (height, width)
        )
        class_scores, deltas = self.boxes(self.box_pooling(features, proposals))
        class_scores = torch.where(real[:, None], class_scores, NO_SCORE)
        boxes, scores, labels = self.detect(proposals, class_scores, deltas, (height, width))
        valid = scores > self.cfg["score_thr"]
        found = (boxes, scores, labels, valid)
        if self.masks is None:
            return found
        masks = self.masks(self.mask_pooling(features, boxes))
        if masks.shape[1] > 1:
            chosen = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
            masks = masks.gather(1, chosen)
        return (*found, masks[:, 0])

    def propose(
        self, scores: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The best boxes of all levels (P, 4), suppressed level by level, and which are real (P,).

        Args:
            scores, deltas: Of each level, (1, A, h, w) and (1, 4A, h, w).
            size: Height and width of the picture, to which boxes are clipped.
        """
        anchors = self.anchors.grid_priors(
            [score.shape[2:] for score in scores], scores[0].dtype, scores[0].device
        )
        found = [
            self._best_of_level(score, delta, anchor)
            for score, delta, anchor in zip(scores, deltas, anchors, strict=True)
        ]
        score, delta, anchor = (torch.cat(parts) for parts in zip(*found, strict=True))
        level = torch.cat([part[0].new_full(part[0].shape, i) for i, part in enumerate(found)])
        boxes = clip(self.box_coders[0].decode(anchor, delta), size)
        if self.rpn_cfg.get("min_bbox_size", -1) >= 0:
            sides = boxes[:, 2:] - boxes[:, :2]
            large = (sides > self.rpn_cfg["min_bbox_size"]).all(1)
            score = torch.where(large, score, NO_SCORE)
        kept, best = suppress(
            boxes, score, level, self.rpn_cfg["nms"]["iou_threshold"], self.rpn_cfg["max_per_img"]
        )
        real = kept >= 0
        return boxes[best] * real[:, None], real

    def _best_of_level(
        self, score: Tensor, delta: Tensor, anchor: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The ``nms_pre`` best of one level: (K,), (K, 4), (K, 4); all where there are fewer."""
        score = score[0].permute(1, 2, 0).flatten()
        delta = delta[0].permute(1, 2, 0).reshape(-1, 4)
        score, index = best_of(score, self.rpn_cfg.get("nms_pre", -1))
        return score, delta[index], anchor[index]

    def detect(
        self, proposals: Tensor, class_scores: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (D, 4), scores (D,) and labels (D,), suppressed class by class, best first.

        Args:
            proposals: (P, 4).
            class_scores: (P, classes).
            deltas: (P, 4), or for every class (P, 4 * classes).
            size: Height and width of the picture, to which boxes are clipped.
        """
        num_classes = class_scores.shape[1]
        scores, index = best_of(class_scores.flatten(), MAX_CANDIDATES)
        row, labels = index // num_classes, index % num_classes
        deltas = deltas.reshape(-1, 4)
        deltas = deltas[row if len(deltas) == len(proposals) else index]
        boxes = clip(self.box_coders[1].decode(proposals[row], deltas), size)
        scores, best = suppress(
            boxes, scores, labels, self.cfg["nms"]["iou_threshold"], self.cfg["max_per_img"]
        )
        real = scores >= 0
        return boxes[best] * real[:, None], scores, labels[best] * real


class Pooling(nn.Module):
    """RoIAlign of every box from the level that suits its size.

    Args:
        extractor: mmdet's ``SingleRoIExtractor``.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Features (1, C, h, w) of L levels or more, boxes (N, 4) -> (N, C, size, size)."""
        from torchvision.ops import roi_align

        layers = self.extractor.roi_layers
        rois = F.pad(boxes, (1, 0))  # in front the number of the picture, 0
        levels = self.extractor.map_roi_levels(rois, len(layers))
        pooled = []
        for level, layer in enumerate(layers):
            here = levels == level
            # Every level sees as many boxes; those that are not its own are empty, which costs
            # RoIAlign nothing where it samples by the size of the box.
            out = roi_align(
                features[level],
                rois * here[:, None],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            pooled.append(torch.where(here[:, None, None, None], out, 0.0))
        return torch.stack(pooled).sum(0)


def pad_to_multiple(image: Tensor, divisor: int) -> Tensor:
    """Zeros at the right and below, so that ``divisor`` divides both sides of (B, C, H, W)."""
    height, width = image.shape[2:]
    return F.pad(image, (0, -width % divisor, 0, -height % divisor))


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes (N, 4) within a picture of ``size`` (height, width)."""
    height, width = size
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack(
        (x1.clamp(0, width), y1.clamp(0, height), x2.clamp(0, width), y2.clamp(0, height)), 1
    )


def best_of(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` highest of (N,) with their indices, best first; all of fewer or of ``-1``.

    Where N is not known yet, always ``count``; what fills up has ``NO_SCORE`` and the last index.
    """
    total = scores.shape[0]
    if isinstance(total, int):
        return scores.topk(min(count, total) if count > 0 else total)
    scores, index = F.pad(scores, (0, count), value=NO_SCORE).topk(count)
    return scores, index.clamp(max=total - 1)


def suppress(
    boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Greedy non-maximum suppression within groups, then the ``count`` best that are left.

    Args:
        boxes: (N, 4).
        scores: (N,); ``NO_SCORE`` for what must not be kept.
        groups: (N,) level or class; boxes suppress those of their own group.
        iou_threshold: Boxes that overlap a better one by more go.
        count: How many, at most N.

    Returns:
        Scores (count,), best first, ``NO_SCORE`` where nothing is left, and indices (count,).
    """
    from torchvision.ops import nms

    real = scores >= 0
    # Groups lie apart, as in mmcv. What does not count is one and the same box, and quickly gone.
    offset = groups * real * (boxes.max() + 1)
    apart = torch.where(real[:, None], boxes + offset[:, None], boxes.new_tensor([-2, -2, -1, -1]))
    kept = nms(apart, scores, iou_threshold)
    left = torch.zeros_like(scores).scatter(0, kept, torch.ones_like(kept, dtype=scores.dtype))
    scores = torch.where((left > 0) & real, scores, NO_SCORE)
    return scores.topk(min(count, scores.shape[0]))
