"""Compare an exported file with its model on drawn images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from care_mm.datasets.shapes import scene_at
from care_mm.export.compare import (
    LIMITS,
    NOTHING_DETECTED,
    Finding,
    compare_detections,
    compare_tensors,
    not_finite_finding,
    num_not_finite,
)
from care_mm.export.detector import Detector, RawMaps
from care_mm.export.graphs import BINARY_THRESHOLD, Graph, Segmentor
from care_mm.export.sides import one_stage_sides, two_stage_sides
from care_mm.export.two_stage import TwoStageDetector
from care_mm.tasks import Task

NUM_IMAGES = 2
Run = Callable[[Tensor], Mapping[str, Tensor]]


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


def with_two_classes(segmentor: Segmentor, images: Tensor) -> Tensor:
    """Return images to which a segmentor does not give one class alone.

    If nine tenths of the pixels have the same class, the left half of each image is changed along
    the gradient, in growing steps, until they have not. A model may resist; its labels cannot be
    compared then.

    Args:
        segmentor: The segmentor, in float32.
        images: Normalised images (B, 3, H, W).
    """
    for step in range(20):
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            logits = segmentor.logits(images)
            labels = segmentor.labels_of(logits).int()
            if float((labels == labels.flatten().mode().values).float().mean()) < 0.9:
                break
            if logits.shape[1] == 1:
                margin = (logits - torch.logit(torch.tensor(segmentor.threshold), 1e-6)).abs()
            else:
                margin = logits.topk(2, 1).values.diff(dim=1).abs()
            (gradient,) = torch.autograd.grad(margin[..., : margin.shape[-1] // 2].mean(), images)
        images = images - 0.05 * 1.3**step * gradient.sign()
    return images.detach()


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
    model: nn.Module, reference: Graph, candidate: Run, batches: Sequence[Tensor], precision: str
) -> list[Finding]:
    """Compare a program with its model.

    Args:
        model: MM's model, neither folded nor changed.
        reference: The graph of that model.
        candidate: The exported program; that of a detector returns its detections.
        batches: Images (B, 3, H, W), in batches of one size each.
        precision: The precision whose limits hold.
    """
    limits = LIMITS[precision]
    if reference.task != Task.DETECTION.model:
        expected = [Folded(reference)(batch) for batch in batches]
        actual = [candidate(batch) for batch in batches]
        segmentor = reference.task == Task.SEGMENTATION.model
        threshold = reference.module.threshold if segmentor else BINARY_THRESHOLD
        names = reference.outputs
        return list(compare_tensors(names, expected, actual, limits, segmentor, threshold))
    images = _one_by_one(batches)
    outputs = [candidate(image) for image in images]
    broken = sum(num_not_finite(output) for image in outputs for output in image.values())
    if broken:
        return [not_finite_finding("the file", broken)]
    detector = detector_in(reference)
    if isinstance(detector, TwoStageDetector):
        sides = two_stage_sides(model, outputs, images, limits)
    else:
        sides = one_stage_sides(model, detector, outputs, images)
    return list(
        compare_detections(
            [side.expected for side in sides],
            [side.actual for side in sides],
            sides[0].score_thr,
            limits,
            [side.cut for side in sides],
        )
    )


@torch.no_grad()
def map_differences(
    detector: Detector, candidate: Run, batches: Sequence[Tensor], precision: str
) -> list[Finding]:
    """Compare the raw maps of a detector, from which it computes boxes and scores.

    A map may be constant, as scores are that saturate, unless all maps are.

    Args:
        detector: Of the model, neither folded nor changed.
        candidate: The exported program of the maps.
        batches: Images (B, 3, H, W), in batches of one size each.
        precision: The precision whose limits hold.
    """
    images = _one_by_one(batches)
    expected = [dict(zip(detector.map_names, detector.maps(i), strict=True)) for i in images]
    actual = [candidate(image) for image in images]
    findings = list(compare_tensors(detector.map_names, expected, actual, LIMITS[precision]))
    return [finding for finding in findings if not finding.obstacle] or findings


def nothing_detected(findings: Sequence[Finding]) -> bool:
    """Whether a comparison found no detections to compare."""
    return any(finding.obstacle == NOTHING_DETECTED for finding in findings)


def detector_in(graph: Graph) -> Detector:
    """Return the detector of a graph of its detections or of its raw maps."""
    return graph.module.detector if isinstance(graph.module, RawMaps) else graph.module


def _one_by_one(batches: Sequence[Tensor]) -> list[Tensor]:
    return [image for batch in batches for image in batch.split(1)]
