"""Compare tensors and detections of two sides, a file and its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from care_mm.export.graphs import BINARY_THRESHOLD, labels_of

NOTHING_DETECTED = "neither the model nor the file detects anything"


@dataclass(frozen=True)
class Limits:
    """How far a file may differ from its model.

    Attributes:
        relative_error: Largest max|difference| / max|reference| of a tensor.
        equal_pixels: Smallest share of pixels with the same class.
        iou: Smallest overlap of two detections that match; they are of the same class.
        score_error: Largest difference of their scores.
        matched: Smallest share of detections with a match on the other side.
        mask_error: Largest difference of mask probabilities beyond the rounding to 8 bits, averaged
            over detections.
    """

    relative_error: float
    equal_pixels: float
    iou: float
    score_error: float
    matched: float
    mask_error: float


# Masks are compared in 8 bits, so rounding alone may make a step. In large masks it almost always
# does somewhere.
MASK_STEP = 1 / 255
LIMITS = {
    "fp32": Limits(1e-4, 0.999, 0.99, 1e-3, 0.99, 2e-3),
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


def num_not_finite(tensor: Tensor | None) -> int:
    """Return how many values of a tensor are NaN or infinite."""
    return 0 if tensor is None else int((~torch.isfinite(tensor)).sum())


def not_finite_finding(name: str, count: int) -> Finding:
    """Return the finding that so many values of a side are NaN or infinite."""
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
                yield not_finite_finding(f"{name} of the {side}", broken)
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


@dataclass(frozen=True)
class ImageComparison:
    """The comparison of the detections in one image.

    Attributes:
        total: Detections that count, of both sides.
        unmatched: Those of them that have no match on the other side.
        score_error: Largest difference of the scores of matched detections.
        mask_error: Largest difference of their mask probabilities beyond :data:`MASK_STEP`,
            averaged over detections.
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
    beyond_rounding = (difference.flatten(1).max(1).values - MASK_STEP).clamp(min=0)
    mask_error = float(beyond_rounding.mean())
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
            yield not_finite_finding(f"detections of the {name}", broken)
    images = [
        compare_image(reference, candidate, score_thr, limits, cut)
        for reference, candidate, cut in zip(
            references, candidates, cuts or [-1.0] * len(references), strict=True
        )
    ]
    total = sum(image.total for image in images)
    unmatched = sum(image.unmatched for image in images)
    share = 1 - unmatched / total if total else float("nan")
    obstacle = "" if total else NOTHING_DETECTED
    title = f"matched share of {total} detections"
    yield Finding(title, share, limits.matched, at_least=True, obstacle=obstacle)
    score_error = _worst(image.score_error for image in images)
    yield Finding("scores, largest difference", score_error, limits.score_error)
    if any(reference.masks is not None for reference in references):
        mask_error = _worst(image.mask_error for image in images)
        title = "masks, largest difference beyond rounding, in the mean"
        yield Finding(title, mask_error, limits.mask_error)
