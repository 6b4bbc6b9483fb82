"""Compare an exported file with its model on drawn images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from care_mm.datasets.shapes import scene_at
from care_mm.export.detector import pad_to_multiple
from care_mm.export.graphs import Graph
from care_mm.export.stand_in import instances_of
from care_mm.tasks import Task

NUM_IMAGES = 2


@dataclass(frozen=True)
class Limits:
    """How far a file may differ from its model.

    Attributes:
        relative_error: Largest max|difference| / max|reference| of a tensor.
        equal_pixels: Smallest share of pixels with the same class.
        iou: Smallest overlap of two detections that match; they are of the same class.
        score_error: Largest difference of their scores.
        matched: Smallest share of detections with a match on the other side.
        mask_error: Largest difference of mask probabilities, averaged over detections.
    """

    relative_error: float
    equal_pixels: float
    iou: float
    score_error: float
    matched: float
    mask_error: float


LIMITS = {
    # Masks are compared in 8 bits, so rounding alone may make a step of 0.004.
    "fp32": Limits(1e-4, 0.999, 0.99, 1e-3, 0.99, 4e-3),
    "fp16": Limits(2e-2, 0.99, 0.95, 2e-2, 0.95, 2e-2),
    "bf16": Limits(1e-1, 0.97, 0.9, 5e-2, 0.9, 5e-2),
    # int8 is another model rather than a rounding; tools/test.py measures its accuracy. Where the
    # edge of a mask moves by one pixel, its probabilities change by much.
    "int8": Limits(1.0, 0.8, 0.5, 0.5, 0.5, 0.8),
}


@dataclass(frozen=True)
class Finding:
    """One figure of a comparison and its limit."""

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """Whether the value is within the limit; NaN is not."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        """Return name, value and limit in one line."""
        side = "at least" if self.at_least else "at most"
        return f"{self.name}: {self.value:.3g} ({side} {self.limit:g})"


def drawn_images(shape: tuple[int, int], about: Mapping[str, Any]) -> Tensor:
    """Return drawn images with objects, (2, 3, H, W), normalised as a graph's ``about`` says."""
    height, width = shape
    images = []
    for index in range(NUM_IMAGES):
        image = scene_at("val", index, max(96, min(max(shape), 384)), seed=11).image
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = image if about["channels"] == "RGB" else image[..., ::-1]
        mean, std = np.float32(about.get("mean", 0.0)), np.float32(about.get("std", 1.0))
        images.append(((image - mean) / std).astype(np.float32).transpose(2, 0, 1))
    # np.stack keeps the channels last in memory, which mmcv's RoIAlign misreads on the CPU.
    return torch.from_numpy(np.ascontiguousarray(np.stack(images)))


class Folded:
    """The folded module, in place of a file that cannot be run here."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs by name for images (B, 3, H, W)."""
        outputs = self.graph.module(images)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return dict(zip(self.graph.outputs, outputs, strict=True))


@torch.no_grad()
def differences(
    model: nn.Module,
    reference: Graph,
    candidate: Callable[[Tensor], Mapping[str, Tensor]],
    batches: Sequence[Tensor],
    precision: str,
) -> list[Finding]:
    """Compare a program with its model.

    Args:
        model: MM's model, neither folded nor changed.
        reference: The graph of that model.
        candidate: The exported program.
        batches: Images (B, 3, H, W), in batches of one size each.
        precision: The precision whose limits hold.
    """
    limits = LIMITS[precision]
    if reference.task != Task.DETECTION.model:
        expected = [Folded(reference)(batch) for batch in batches]
        actual = [candidate(batch) for batch in batches]
        is_segmentor = reference.task == Task.SEGMENTATION.model
        return list(compare_tensors(reference.outputs, expected, actual, limits, is_segmentor))
    images = [image for batch in batches for image in batch.split(1)]
    score_thr = model.roi_head.test_cfg["score_thr"]
    model = unfiltered(model)
    expected = [detections_of_model(model, image) for image in images]
    actual = [detections_of_outputs(model, candidate(image), image) for image in images]
    return list(compare_detections(expected, actual, score_thr, limits))


# Tensors


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """Return max|actual - expected| / max|expected|; infinity if the shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = expected.double().abs().max().clamp(min=1e-30)
    return float((actual.double() - expected.double()).abs().max() / scale)


def compare_tensors(
    names: Sequence[str],
    references: Sequence[Mapping[str, Tensor]],
    candidates: Sequence[Mapping[str, Tensor]],
    limits: Limits,
    segmentor: bool = False,
) -> Iterator[Finding]:
    """Yield the worst differences over several batches.

    Args:
        names: Names of the outputs.
        references: The model's outputs by name, for each batch.
        candidates: The program's outputs by name, for each batch.
        limits: The limits to compare with.
        segmentor: The output is logits by pixel or the best class by pixel; compare the classes.
    """
    for name in names:
        pairs = [(c[name], r[name]) for c, r in zip(candidates, references, strict=True)]
        if name != "labels":
            worst = max(relative_difference(*pair) for pair in pairs)
            yield Finding(f"{name}, largest relative difference", worst, limits.relative_error)
        if segmentor:
            labels = [[t if name == "labels" else t.argmax(1) for t in pair] for pair in pairs]
            equal = min(float((a == b).float().mean()) for a, b in labels)
            yield Finding("pixels of the same class", equal, limits.equal_pixels, at_least=True)


# Detections


@dataclass(frozen=True)
class Detections:
    """Detections in one image, best first: boxes (N, 4), scores, labels, masks (N, H, W)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.scores)

    def above(self, score: float) -> Detections:
        """Return the detections with a higher score."""
        keep = self.scores > score
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks)


def unfiltered(model: nn.Module) -> nn.Module:
    """Return a copy of a detector without score threshold, whose masks are values of 0 to 255."""
    model = copy.deepcopy(model)
    model.roi_head.test_cfg["score_thr"] = 0.0
    model.roi_head.test_cfg["mask_thr_binary"] = -1
    return model


def detections_of_model(model: nn.Module, image: Tensor) -> Detections:
    """Return mmdet's detections in one image (1, 3, H, W)."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=_meta(image))
    padded = pad_to_multiple(image, model.data_preprocessor.pad_size_divisor)
    (sample,) = model.predict(padded, [sample])
    return _detections(sample.pred_instances)


def detections_of_outputs(
    model: nn.Module, outputs: Mapping[str, Tensor], image: Tensor
) -> Detections:
    """Return the detections in a program's outputs for one image, without the fill-ups."""
    keep = outputs["scores"] >= 0
    outputs = {name: values[keep] for name, values in outputs.items() if name != "valid"}
    return _detections(instances_of(model, outputs, _meta(image)))


def _meta(image: Tensor) -> dict[str, Any]:
    size = tuple(image.shape[2:])
    return {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}


def _detections(instances: Any) -> Detections:
    masks = instances.get("masks")
    return Detections(
        instances.bboxes,
        instances.scores,
        instances.labels,
        None if masks is None else masks.float() / 255,
    )


def match(sources: Detections, targets: Detections, limits: Limits) -> Tensor:
    """Return the index of each source's counterpart among the targets, -1 for none."""
    from torchvision.ops import box_iou

    iou = box_iou(sources.boxes, targets.boxes)
    alike = sources.labels[:, None] == targets.labels[None]
    alike &= (sources.scores[:, None] - targets.scores[None]).abs() <= limits.score_error
    iou = torch.where(alike, iou, -1.0)
    if iou.shape[1] == 0:
        return torch.full((len(iou),), -1)
    best, index = iou.max(1)
    return torch.where(best >= limits.iou, index, -1)


@dataclass(frozen=True)
class ImageComparison:
    """The comparison of the detections in one image.

    Attributes:
        total: Detections that count, of both sides.
        unmatched: Those of them that have no match on the other side.
        score_error: Largest difference of the scores of matched detections.
        mask_error: Largest difference of their mask probabilities, averaged over detections.
    """

    total: int
    unmatched: int
    score_error: float = 0.0
    mask_error: float = 0.0


def compare_image(
    reference: Detections, candidate: Detections, score_thr: float, limits: Limits
) -> ImageComparison:
    """Match the detections of two sides in one image by class and overlap, never by order.

    Detections above ``score_thr`` count, and the better half of all where few reach it, as in an
    untrained model. Each of them may match any detection of the other side.
    """
    floor = min(score_thr, float(reference.scores.median())) if len(reference) else score_thr
    if len(candidate):
        floor = max(floor, float(candidate.scores.min()))  # fixed counts cut off the rest
    expected, actual = reference.above(floor + 1e-5), candidate.above(floor + 1e-5)
    index = match(expected, candidate, limits)
    matched = index >= 0
    unmatched = int((~matched).sum() + (match(actual, reference, limits) < 0).sum())
    total = len(expected) + len(actual)
    if not matched.any():
        return ImageComparison(total, unmatched)
    partner = index[matched]
    score_error = float((expected.scores[matched] - candidate.scores[partner]).abs().max())
    if expected.masks is None:
        return ImageComparison(total, unmatched, score_error)
    difference = (expected.masks[matched] - candidate.masks[partner]).abs()
    mask_error = float(difference.flatten(1).max(1).values.mean())
    return ImageComparison(total, unmatched, score_error, mask_error)


def compare_detections(
    references: Sequence[Detections],
    candidates: Sequence[Detections],
    score_thr: float,
    limits: Limits,
) -> Iterator[Finding]:
    """Yield the differences of detections over several images; see :func:`compare_image`."""
    images = [
        compare_image(reference, candidate, score_thr, limits)
        for reference, candidate in zip(references, candidates, strict=True)
    ]
    total = sum(image.total for image in images)
    unmatched = sum(image.unmatched for image in images)
    share = 1 - unmatched / total if total else float("nan")
    yield Finding(f"matched share of {total} detections", share, limits.matched, at_least=True)
    score_error = max(image.score_error for image in images)
    yield Finding("scores, largest difference", score_error, limits.score_error)
    if any(reference.masks is not None for reference in references):
        mask_error = max(image.mask_error for image in images)
        yield Finding("masks, largest difference in the mean", mask_error, limits.mask_error)
