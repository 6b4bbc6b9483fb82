"""Whether an exported file gives what the model gives, and how far it is off."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from care_mm.datasets.shapes.layouts import scene_at
from care_mm.export.detector import pad_to_multiple
from care_mm.export.graphs import Graph
from care_mm.export.stand_in import instances_of

NUM_PICTURES = 2


@dataclass(frozen=True)
class Limits:
    """How far a file may be off.

    Args:
        relative: max|difference| / max|reference| of tensors.
        labels: Share of pixels of one class in both.
        iou, score: Of two detections that are taken for the same one; they are of one class.
        found: Share of detections that have to be found in the other set.
        masks: Largest difference of probabilities, in the mean over the detections.
    """

    relative: float
    labels: float
    iou: float
    score: float
    found: float
    masks: float


LIMITS = {
    # Masks are compared in eight bits, so that rounding may make a step of 0.004.
    "fp32": Limits(1e-4, 0.999, 0.99, 1e-3, 0.99, 4e-3),
    "fp16": Limits(2e-2, 0.99, 0.95, 2e-2, 0.95, 2e-2),
    "bf16": Limits(1e-1, 0.97, 0.9, 5e-2, 0.9, 5e-2),
    # Not rounding but another model; what it is worth is measured with tools/test.py. Where the
    # edge of a mask moves by a pixel, probabilities there differ by much.
    "int8": Limits(1.0, 0.8, 0.5, 0.5, 0.5, 0.8),
}


@dataclass(frozen=True)
class Finding:
    """One figure of a comparison and its limit."""

    what: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        """Whether it is within the limit; NaN is not."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        side = "at least" if self.at_least else "at most"
        return f"{self.what}: {self.value:.3g} ({side} {self.limit:g})"


def pictures(shape: tuple[int, int], about: Mapping[str, Any]) -> Tensor:
    """Drawn pictures with objects, (2, 3, H, W), normalised as the model wants them."""
    height, width = shape
    found = []
    for number in range(NUM_PICTURES):
        image = scene_at("val", number, max(96, min(max(shape), 384)), seed=11).image
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        image = image if about["channels"] == "RGB" else image[..., ::-1]
        mean, std = (np.float32(about.get(k, d)) for k, d in (("mean", 0.0), ("std", 1.0)))
        found.append(((image - mean) / std).astype(np.float32).transpose(2, 0, 1))
    # Stacked, they keep the channels last, which mmcv's RoIAlign misreads on the CPU.
    return torch.from_numpy(np.ascontiguousarray(np.stack(found)))


def relative_difference(actual: Tensor, expected: Tensor) -> float:
    """max|actual - expected| / max|expected|; infinite where the shapes differ."""
    if actual.shape != expected.shape:
        return float("inf")
    scale = expected.double().abs().max().clamp(min=1e-30)
    return float((actual.double() - expected.double()).abs().max() / scale)


def compare_tensors(
    names: Sequence[str],
    expected: Sequence[Mapping[str, Tensor]],
    actual: Sequence[Mapping[str, Tensor]],
    limits: Limits,
    segmentor: bool = False,
) -> Iterator[Finding]:
    """Findings over several batches, the worst of each.

    Args:
        names: Of the outputs.
        expected, actual: For each batch, the tensors by name.
        limits: What is allowed.
        segmentor: The output is logits by pixel, or the best class by pixel, whose labels count.
    """
    for name in names:
        pairs = [(there[name], here[name]) for here, there in zip(expected, actual, strict=True)]
        if name != "labels":
            worst = max(relative_difference(*pair) for pair in pairs)
            yield Finding(f"{name}, largest relative difference", worst, limits.relative)
        if segmentor:
            labels = [[t if name == "labels" else t.argmax(1) for t in pair] for pair in pairs]
            least = min(float((a == b).float().mean()) for a, b in labels)
            yield Finding("pixels of the same class", least, limits.labels, at_least=True)


class Folded:
    """The folded module itself, in place of a file that cannot be run here."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> outputs by name."""
        found = self.graph.module(images)
        found = found if isinstance(found, tuple) else (found,)
        return dict(zip(self.graph.outputs, found, strict=True))


@torch.no_grad()
def differences(
    model: nn.Module,
    reference: Graph,
    program: Callable[[Tensor], Mapping[str, Tensor]],
    batches: Sequence[Tensor],
    precision: str,
) -> list[Finding]:
    """What a program gives against what the model gives.

    Args:
        model: MM's, neither folded nor changed.
        reference: The graph of that model.
        program: The exported file.
        batches: Pictures (B, 3, H, W), of one size each.
        precision: Whose limits hold.
    """
    limits = LIMITS[precision]
    if reference.task != "detector":
        expected = [Folded(reference)(batch) for batch in batches]
        actual = [program(batch) for batch in batches]
        is_segmentor = reference.task == "segmentor"
        return list(compare_tensors(reference.outputs, expected, actual, limits, is_segmentor))
    images = [image for batch in batches for image in batch.split(1)]
    score_thr = model.roi_head.test_cfg["score_thr"]
    model = unfiltered(model)
    expected = [expected_detections(model, image) for image in images]
    actual = [actual_detections(model, program(image), image) for image in images]
    return list(compare_detections(expected, actual, score_thr, limits))


@dataclass(frozen=True)
class Detections:
    """Detections in one picture, best first: boxes (N, 4), scores, labels, masks (N, H, W)."""

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None = None

    def above(self, score: float) -> Detections:
        """Those with a higher score."""
        keep = self.scores > score
        masks = None if self.masks is None else self.masks[keep]
        return Detections(self.boxes[keep], self.scores[keep], self.labels[keep], masks)


def unfiltered(model: nn.Module) -> nn.Module:
    """A copy of a detector that gives detections of any score, and masks as 0 to 255."""
    model = copy.deepcopy(model)
    model.roi_head.test_cfg["score_thr"] = 0.0
    model.roi_head.test_cfg["mask_thr_binary"] = -1
    return model


def expected_detections(model: nn.Module, image: Tensor) -> Detections:
    """What mmdet finds in one picture (1, 3, H, W)."""
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=_meta(image))
    padded = pad_to_multiple(image, model.data_preprocessor.pad_size_divisor)
    (sample,) = model.predict(padded, [sample])
    return _detections(sample.pred_instances)


def actual_detections(model: nn.Module, found: Mapping[str, Tensor], image: Tensor) -> Detections:
    """What a program has found in the same picture, without what fills up."""
    keep = found["scores"] >= 0
    found = {name: values[keep] for name, values in found.items() if name != "valid"}
    return _detections(instances_of(model, found, _meta(image)))


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


def match(these: Detections, those: Detections, limits: Limits) -> Tensor:
    """For each of ``these`` the index of its counterpart in ``those``, -1 where it has none."""
    from torchvision.ops import box_iou

    iou = box_iou(these.boxes, those.boxes)
    alike = these.labels[:, None] == those.labels[None]
    alike &= (these.scores[:, None] - those.scores[None]).abs() <= limits.score
    iou = torch.where(alike, iou, -1.0)
    if iou.shape[1] == 0:
        return torch.full((len(iou),), -1)
    best, index = iou.max(1)
    return torch.where(best >= limits.iou, index, -1)


def compare_detections(
    expected: Sequence[Detections],
    actual: Sequence[Detections],
    score_thr: float,
    limits: Limits,
) -> Iterator[Finding]:
    """Findings over several pictures, by class and overlap, never by order.

    Detections above ``score_thr`` count, and where there are hardly any (an untrained model), the
    better half of all.
    """
    total, lost, scores, masks = 0, 0, [0.0], [0.0]
    for here, there in zip(expected, actual, strict=True):
        floor = min(score_thr, float(here.scores.median())) if len(here.scores) else score_thr
        # What fixed counts cut off is not missed.
        floor = max(floor, float(there.scores.min())) if len(there.scores) else floor
        wanted, found = here.above(floor + 1e-5), there.above(floor + 1e-5)
        forth, back = match(wanted, there, limits), match(found, here, limits)
        total += len(forth) + len(back)
        lost += int((forth < 0).sum() + (back < 0).sum())
        rows = forth >= 0
        partner = forth[rows]
        if not len(partner):
            continue
        scores.append(float((wanted.scores[rows] - there.scores[partner]).abs().max()))
        if wanted.masks is not None:
            difference = (wanted.masks[rows] - there.masks[partner]).abs()
            masks.append(float(difference.flatten(1).max(1).values.mean()))
    share = 1 - lost / total if total else float("nan")
    yield Finding(f"share found of {total} detections", share, limits.found, at_least=True)
    yield Finding("scores, largest difference", max(scores), limits.score)
    if any(here.masks is not None for here in expected):
        yield Finding("masks, largest difference in the mean", max(masks), limits.masks)
