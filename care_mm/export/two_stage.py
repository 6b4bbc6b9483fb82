"""mmdet's two-stage detectors with fixed counts; see :mod:`care_mm.export.detector`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.errors import InputError
from care_mm.export.detector import (
    MAX_CANDIDATES,
    NO_SCORE,
    Detector,
    best_of,
    check_nms,
    clip,
    suppress,
)


class DenseParts(nn.Module):
    """The networks that see the whole image: backbone, neck and the convolutions of the RPN."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck, self.rpn_head = model.backbone, model.neck, model.rpn_head

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return features (1, C, h, w), scores (1, A, h, w) and deltas (1, 4A, h, w) of an image.

        Args:
            image: (1, 3, H, W).

        Returns:
            The features of all levels, then the scores of all levels, then the deltas.
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
        """Return class scores (P, classes) and deltas (P, 4 or 4 * classes) for (P, C, 7, 7)."""
        scores, deltas = self.head(pooled)
        return scores.softmax(-1)[:, :-1], deltas


class MaskParts(nn.Module):
    """The mask head, on pooled features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.head = model.roi_head.mask_head

    def forward(self, pooled: Tensor) -> Tensor:
        """Return probabilities (D, classes or 1, 28, 28) for (D, C, 14, 14)."""
        return self.head(pooled).sigmoid()


def check_exportable(model: nn.Module) -> None:
    """Raise InputError unless the detector is built like Mask R-CNN or Faster R-CNN."""
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
                f"{type(model).__name__} with a {path} of type {type(part).__name__}: export "
                f"supports {name} only; --what backbone exports the feature pyramid of any model"
            )
    for stage, head in (("rpn", model.rpn_head), ("rcnn", model.roi_head)):
        check_nms(f"test_cfg.{stage}.nms", head.test_cfg.get("nms"))


class TwoStageDetector(Detector):
    """Mask R-CNN or Faster R-CNN with fixed counts, whose arithmetic equals mmdet's.

    Args:
        model: A detector that :func:`check_exportable` accepts.
        dense: See :class:`DenseParts`; built from ``model`` by default. With exported networks, the
            steps between them run in torch.
        boxes: See :class:`BoxParts`; built from ``model`` by default.
        masks: See :class:`MaskParts`; built from ``model`` by default.
    """

    def __init__(
        self,
        model: nn.Module,
        dense: nn.Module | None = None,
        boxes: nn.Module | None = None,
        masks: nn.Module | None = None,
    ) -> None:
        check_exportable(model)
        super().__init__(model, dense or DenseParts(model))
        roi_head = model.roi_head
        self.boxes = boxes or BoxParts(model)
        self.masks = (masks or MaskParts(model)) if roi_head.with_mask else None
        self.anchors = model.rpn_head.prior_generator
        self.box_coders = (model.rpn_head.bbox_coder, roi_head.bbox_head.bbox_coder)
        self.box_pooling = Pooling(roi_head.bbox_roi_extractor)
        self.mask_pooling = Pooling(roi_head.mask_roi_extractor) if roi_head.with_mask else None
        self.rpn_cfg, self.cfg = model.rpn_head.test_cfg, roi_head.test_cfg
        self.outputs = ("boxes", "scores", "labels", "valid")
        if roi_head.with_mask:
            self.outputs += ("masks",)
        self.map_names = tuple(
            f"{kind}{level}"
            for kind in ("features", "scores", "deltas")
            for level in range(self.anchors.num_levels)
        )

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name; the steps between them have no weights."""
        parts = {**super().networks(), "boxes": self.boxes, "masks": self.masks}
        return {name: part for name, part in parts.items() if part is not None}

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in a normalised image (1, 3, H, W) of any size, which is padded here.

        Returns:
            ``boxes`` (D, 4) as x1, y1, x2, y2 in pixels, best first; ``scores`` (D,); ``labels``
            (D,); ``valid`` (D,), false for detections with a score of ``score_thr`` or less and
            for padding entries; and for a detector with masks, ``masks`` (D, 28, 28),
            probabilities in the frame of each box.
        """
        height, width = image.shape[2:]
        levels = self.maps(image)
        num_levels = len(levels) // 3
        features = levels[:num_levels]
        proposals, real = self.propose(
            levels[num_levels : 2 * num_levels], levels[2 * num_levels :], (height, width)
        )
        class_scores, deltas = self.boxes(self.box_pooling(features, proposals))
        class_scores = torch.where(real[:, None], class_scores, NO_SCORE)
        boxes, scores, labels = self.detect(proposals, class_scores, deltas, (height, width))
        valid = scores > self.cfg["score_thr"]
        detections = (boxes, scores, labels, valid)
        if self.masks is None:
            return detections
        masks = self.masks(self.mask_pooling(features, boxes))
        if masks.shape[1] > 1:
            chosen = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
            masks = masks.gather(1, chosen)
        return (*detections, masks[:, 0])

    def propose(
        self, scores: Sequence[Tensor], deltas: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the best boxes of all levels (P, 4), and a mask of the real ones (P,).

        Boxes suppress those of the same level only.

        Args:
            scores: (1, A, h, w) for each level.
            deltas: (1, 4A, h, w) for each level.
            size: Height and width of the image, to which boxes are clipped.
        """
        anchors = self.anchors.grid_priors(
            [score.shape[2:] for score in scores], scores[0].dtype, scores[0].device
        )
        best_of_levels = [
            self._best_of_level(score, delta, anchor)
            for score, delta, anchor in zip(scores, deltas, anchors, strict=True)
        ]
        score, delta, anchor = (torch.cat(parts) for parts in zip(*best_of_levels, strict=True))
        level = torch.cat(
            [part[0].new_full(part[0].shape, i) for i, part in enumerate(best_of_levels)]
        )
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
        """Return the ``nms_pre`` best of one level, or all of fewer: (K,), (K, 4), (K, 4)."""
        score = score[0].permute(1, 2, 0).flatten()
        delta = delta[0].permute(1, 2, 0).reshape(-1, 4)
        score, index = best_of(score, self.rpn_cfg.get("nms_pre", -1))
        return score, delta[index], anchor[index]

    def detect(
        self, proposals: Tensor, class_scores: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (D, 4), scores (D,) and labels (D,), suppressed by class, best first.

        Args:
            proposals: (P, 4).
            class_scores: (P, classes).
            deltas: (P, 4), or (P, 4 * classes) with a box for every class.
            size: Height and width of the image, to which boxes are clipped.
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
    """RoIAlign of each box from the level that suits its size.

    Args:
        extractor: mmdet's ``SingleRoIExtractor``.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, features: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Pool boxes (N, 4) from the features (1, C, h, w) of each level; return (N, C, s, s)."""
        from torchvision.ops import roi_align

        layers = self.extractor.roi_layers
        rois = F.pad(boxes, (1, 0))  # the first column is the index of the image, 0
        levels = self.extractor.map_roi_levels(rois, len(layers))
        pooled = []
        for level, layer in enumerate(layers):
            on_level = levels == level
            # Every level pools all boxes, so that counts are fixed. Boxes of other levels are
            # empty, and RoIAlign, which samples by the size of the box, skips them.
            out = roi_align(
                features[level],
                rois * on_level[:, None],
                layer.output_size,
                layer.spatial_scale,
                layer.sampling_ratio,
                layer.aligned,
            )
            pooled.append(torch.where(on_level[:, None, None, None], out, 0.0))
        return torch.stack(pooled).sum(0)
