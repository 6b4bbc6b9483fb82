"""Compare an exported file with its model on drawn images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from care_mm.datasets.shapes import scene_at
from care_mm.export.detector import MAX_CANDIDATES, pad_to_multiple
from care_mm.export.graphs import BINARY_THRESHOLD, Graph, Segmentor, labels_of
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
    """One figure of a comparison and its limit.

    Attributes:
        name: What was compared.
        value: The figure.
        limit: Its limit.
        at_least: The limit is a lower one.
        obstacle: The reason why nothing could be compared; such a finding is not ok.
    """

    name: str
    value: float
    limit: float
    at_least: bool = False
    obstacle: str = ""

    @property
    def ok(self) -> bool:
        """Whether something was compared and the value is within the limit; NaN is not."""
        within = self.value >= self.limit if self.at_least else self.value <= self.limit
        return within and not self.obstacle

    def __str__(self) -> str:
        """Return name, value and limit in one line, or the obstacle."""
        if self.obstacle:
            return f"{self.name}: could not be compared, {self.obstacle}"
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
        segmentor = reference.task == Task.SEGMENTATION.model
        threshold = reference.module.threshold if segmentor else BINARY_THRESHOLD
        names = reference.outputs
        return list(compare_tensors(names, expected, actual, limits, segmentor, threshold))
    images = [image for batch in batches for image in batch.split(1)]
    outputs = [candidate(image) for image in images]
    broken = sum(num_not_finite(output) for image in outputs for output in image.values())
    if broken:
        return [_not_finite_finding("the file", broken)]
    score_thr = model.roi_head.test_cfg["score_thr"]
    model = unfiltered(model)
    expected, cuts = zip(*(detections_of_model(model, image) for image in images), strict=True)
    actual = [
        detections_of_outputs(model, output, image)
        for output, image in zip(outputs, images, strict=True)
    ]
    cuts = [max(*pair) for pair in zip(cuts, map(cut_of_outputs, outputs), strict=True)]
    expected = [
        counterparts(model, *sides, image, limits) if tied(*sides, score_thr, cut) else sides[0]
        for *sides, image, cut in zip(expected, actual, images, cuts, strict=True)
    ]
    return list(compare_detections(expected, actual, score_thr, limits, cuts))


def num_not_finite(tensor: Tensor | None) -> int:
    """Return how many values of a tensor are NaN or infinite."""
    return 0 if tensor is None else int((~torch.isfinite(tensor)).sum())


def _not_finite_finding(name: str, count: int) -> Finding:
    return Finding(f"{name}, values that are not finite", count, 0)


def _worst(values: Iterable[float], pick: Callable[..., Any] = np.max) -> float:
    """Return the largest value, or by ``np.min`` the smallest; NaN if there is one or no value."""
    values = list(values)
    return float(pick(values)) if values else float("nan")


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
    threshold: float = BINARY_THRESHOLD,
) -> Iterator[Finding]:
    """Yield the worst differences over several batches.

    Equal values everywhere are no comparison: a file that ignores its input would pass.

    Args:
        names: Names of the outputs.
        references: The model's outputs by name, for each batch.
        candidates: The program's outputs by name, for each batch.
        limits: The limits to compare with.
        segmentor: The output is logits by pixel or the best class by pixel; compare the classes.
        threshold: See :func:`care_mm.export.graphs.labels_of`.
    """
    for name in names:
        expected, actual = ([batch[name] for batch in side] for side in (references, candidates))
        for side, tensors in (("model", expected), ("file", actual)):
            if broken := sum(map(num_not_finite, tensors)):
                yield _not_finite_finding(f"{name} of the {side}", broken)
        if name != "labels":
            worst = _worst(map(relative_difference, actual, expected))
            obstacle = "all values are equal" if worst == 0 and _constant(expected) else ""
            title = f"{name}, largest relative difference"
            yield Finding(title, worst, limits.relative_error, obstacle=obstacle)
        if segmentor:
            if name != "labels":
                expected, actual = (
                    [labels_of(t, threshold) for t in side] for side in (expected, actual)
                )
            constant = _constant([*expected, *actual])
            if constant and name != "labels":
                continue  # the logits were compared
            share = _worst(map(equal_share, actual, expected), np.min)
            obstacle = "all pixels of the drawn images have one class" if constant else ""
            title = "pixels of the same class"
            yield Finding(title, share, limits.equal_pixels, at_least=True, obstacle=obstacle)


def equal_share(actual: Tensor, expected: Tensor) -> float:
    """Return the share of equal values; 0 if the shapes differ."""
    if actual.shape != expected.shape:
        return 0.0
    return float((actual == expected).float().mean())


def _constant(tensors: Sequence[Tensor]) -> bool:
    """Whether all values of all tensors are the same; also if there are none."""
    values = torch.cat([tensor.flatten() for tensor in tensors]) if tensors else torch.empty(0)
    return not bool((values != values[:1]).any())


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

    def num_not_finite(self) -> int:
        """Return how many values are NaN or infinite."""
        return sum(map(num_not_finite, (self.boxes, self.scores, self.masks)))


def unfiltered(model: nn.Module) -> nn.Module:
    """Return a copy of a detector without score threshold, whose masks are values of 0 to 255."""
    model = copy.deepcopy(model)
    model.roi_head.test_cfg["score_thr"] = 0.0
    model.roi_head.test_cfg["mask_thr_binary"] = -1
    return model


def detections_of_model(model: nn.Module, image: Tensor) -> tuple[Detections, float]:
    """Return mmdet's detections in one image (1, 3, H, W), and a score.

    Fixed counts may lack detections up to that score: those beyond ``max_per_img``, and those
    beyond the pairs of box and class that enter the second suppression. It is -1 if there are none.
    """
    from mmdet.structures import DetDataSample

    scores = []
    hook = model.roi_head.bbox_head.register_forward_hook(
        lambda module, args, outputs: scores.append(outputs[0].softmax(-1)[:, :-1].flatten())
    )
    try:
        sample = DetDataSample(metainfo=_meta(image))
        padded = pad_to_multiple(image, model.data_preprocessor.pad_size_divisor)
        (sample,) = model.predict(padded, [sample])
    finally:
        hook.remove()
    detections = _detections(sample.pred_instances)
    cut = _lowest_kept(detections.scores, model.roi_head.test_cfg["max_per_img"])
    return detections, max(cut, *(_lowest_kept(pairs, MAX_CANDIDATES) for pairs in scores), -1.0)


def _lowest_kept(scores: Tensor, count: int) -> float:
    """Return the lowest of the ``count`` best scores; -1 if there are fewer."""
    return float(scores.topk(count).values[-1]) if 0 < count <= len(scores) else -1.0


def cut_of_outputs(outputs: Mapping[str, Tensor]) -> float:
    """Return the lowest score of a program's outputs; -1 if there are entries that fill up."""
    return float(outputs["scores"].min())


def detections_of_outputs(
    model: nn.Module, outputs: Mapping[str, Tensor], image: Tensor
) -> Detections:
    """Return the detections in a program's outputs for one image, without the fill-ups."""
    keep = outputs["scores"] > 0  # as mmdet with a threshold of 0
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
    """Return the index of each source's own counterpart among the targets, -1 for none."""
    from torchvision.ops import box_iou

    index = torch.full((len(sources),), -1)
    if not len(sources) or not len(targets):
        return index
    # Empty boxes have no overlap; equal ones are counterparts all the same.
    distance = (sources.boxes[:, None] - targets.boxes[None]).abs().amax(2)
    iou = torch.where(distance <= 1 - limits.iou, 1.0, box_iou(sources.boxes, targets.boxes))
    score_error = (sources.scores[:, None] - targets.scores[None]).abs()
    alike = (sources.labels[:, None] == targets.labels[None]) & (iou >= limits.iou)
    pairs = (alike & (score_error <= limits.score_error)).nonzero()
    error = (1 - iou + score_error)[pairs[:, 0], pairs[:, 1]]
    taken = set()
    for source, target in pairs[error.argsort(stable=True)].tolist():
        if index[source] < 0 and target not in taken:
            index[source] = target
            taken.add(target)
    return index


def _floor(reference: Detections, score_thr: float, cut: float) -> float:
    """Return the score from which detections count; see :func:`compare_image`."""
    floor = min(score_thr, float(reference.scores.median())) if len(reference) else score_thr
    return max(floor, cut + 1e-5)


def tied(reference: Detections, candidate: Detections, score_thr: float, cut: float) -> bool:
    """Whether no score is higher than that at which fixed counts cut off, as with equal scores."""
    floor = _floor(reference, score_thr, cut)
    return cut >= 0 and not any((side.scores >= floor).any() for side in (reference, candidate))


def counterparts(
    model: nn.Module, reference: Detections, candidate: Detections, image: Tensor, limits: Limits
) -> Detections:
    """Return the model's detections that match a program's, before any suppression.

    Among equal scores, each runtime keeps others. All are the model's nevertheless, so the class,
    the score and the box must be one of its pairs of proposal and class, and the mask must be the
    model's for that box.

    Args:
        model: From :func:`unfiltered`.
        reference: The model's detections. If there are more than the program's, as many of them
            are added as the program lacks.
        candidate: The program's detections.
        image: (1, 3, H, W).
        limits: The limits of a match.
    """
    loose = copy.deepcopy(model)
    loose.roi_head.mask_head = None
    for cfg, count in ((loose.rpn_head.test_cfg, 10**5), (loose.roi_head.test_cfg, -1)):
        cfg["nms"] = {**cfg["nms"], "iou_threshold": 1.0}
        cfg["max_per_img"] = count
    if len(candidate):
        lowest = float(candidate.scores.min())
        loose.roi_head.test_cfg["score_thr"] = max(0.0, lowest - limits.score_error)
    pairs, _ = detections_of_model(loose, image)
    index = match(candidate, pairs, limits)
    index = index[index >= 0]
    missing = slice(max(0, len(reference) - len(candidate)))
    boxes = torch.cat([pairs.boxes[index], reference.boxes[missing]])
    scores = torch.cat([pairs.scores[index], reference.scores[missing]])
    labels = torch.cat([pairs.labels[index], reference.labels[missing]])
    if reference.masks is None or not len(boxes):
        return Detections(boxes, scores, labels)
    features = model.extract_feat(pad_to_multiple(image, model.data_preprocessor.pad_size_divisor))
    instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    (instances,) = model.roi_head.predict_mask(features, [_meta(image)], [instances], rescale=True)
    return _detections(instances)


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
    reference: Detections,
    candidate: Detections,
    score_thr: float,
    limits: Limits,
    cut: float = -1.0,
) -> ImageComparison:
    """Match the detections of two sides in one image by class and overlap, never by order.

    Detections from ``score_thr`` on count, and the better half of all where few reach it, as in an
    untrained model. Each of them may match any detection of the other side, which is then taken.

    Args:
        reference: The model's detections, without a threshold.
        candidate: The program's detections, without a threshold.
        score_thr: The model's threshold.
        limits: The limits of a match.
        cut: A score up to which fixed counts may have cut off detections of one side. These count
            only if there are no others.
    """
    floor = _floor(reference, score_thr, cut)
    if tied(reference, candidate, score_thr, cut):
        floor = 0.0
    index = match(reference, candidate, limits)
    matched = index >= 0
    partner = index[matched]
    has_match = torch.zeros(len(candidate), dtype=torch.bool)
    has_match[partner] = True
    expected, actual = reference.scores >= floor, candidate.scores >= floor
    unmatched = int((expected & ~matched).sum() + (actual & ~has_match).sum())
    total = int(expected.sum() + actual.sum())
    counted = expected[matched]
    matched, partner = matched.nonzero()[:, 0][counted], partner[counted]
    if not len(partner):
        return ImageComparison(total, unmatched)
    score_error = float((reference.scores[matched] - candidate.scores[partner]).abs().max())
    if reference.masks is None:
        return ImageComparison(total, unmatched, score_error)
    if candidate.masks is None or candidate.masks.shape[1:] != reference.masks.shape[1:]:
        return ImageComparison(total, unmatched, score_error, float("inf"))
    difference = (reference.masks[matched] - candidate.masks[partner]).abs()
    mask_error = float(difference.flatten(1).max(1).values.mean())
    return ImageComparison(total, unmatched, score_error, mask_error)


def compare_detections(
    references: Sequence[Detections],
    candidates: Sequence[Detections],
    score_thr: float,
    limits: Limits,
    cuts: Sequence[float] | None = None,
) -> Iterator[Finding]:
    """Yield the differences of detections over several images; see :func:`compare_image`."""
    for name, detections in (("model", references), ("file", candidates)):
        if broken := sum(side.num_not_finite() for side in detections):
            yield _not_finite_finding(f"detections of the {name}", broken)
    images = [
        compare_image(reference, candidate, score_thr, limits, cut)
        for reference, candidate, cut in zip(
            references, candidates, cuts or [-1.0] * len(references), strict=True
        )
    ]
    total = sum(image.total for image in images)
    unmatched = sum(image.unmatched for image in images)
    share = 1 - unmatched / total if total else float("nan")
    obstacle = "" if total else "neither the model nor the file detects anything"
    title = f"matched share of {total} detections"
    yield Finding(title, share, limits.matched, at_least=True, obstacle=obstacle)
    score_error = _worst(image.score_error for image in images)
    yield Finding("scores, largest difference", score_error, limits.score_error)
    if any(reference.masks is not None for reference in references):
        mask_error = _worst(image.mask_error for image in images)
        yield Finding("masks, largest difference in the mean", mask_error, limits.mask_error)
