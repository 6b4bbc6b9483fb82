"""A comparison can fail: of nothing, of constants and of values that are not finite it does."""

from __future__ import annotations

import copy
import dataclasses
import math
from pathlib import Path

import pytest
import torch
from export.conftest import MakeJob
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.export import compare, pipeline, verify
from care_mm.export.compare import Detections, Finding, compare_detections, compare_tensors
from care_mm.export.graphs import Segmentor, graph_of, labels_of
from care_mm.predict.predictor import Predictor

LIMITS = compare.LIMITS["fp32"]
NAN, INF = float("nan"), float("inf")


def detections(count: int, scores: Tensor | None = None) -> Detections:
    """Return detections that do not overlap, with masks, of the classes 0, 1, 2, 0, ..."""
    corner = 50.0 * torch.arange(count)[:, None]
    boxes = torch.cat([corner, corner, corner + 40, corner + 30], 1)
    scores = torch.linspace(0.9, 0.1, count) if scores is None else scores
    return Detections(boxes, scores, torch.arange(count) % 3, torch.rand(count, 4, 4))


def subset(source: Detections, index: list[int]) -> Detections:
    parts = (source.boxes, source.scores, source.labels, source.masks)
    return Detections(*(part[index].clone() for part in parts))


def passes(findings: object) -> bool:
    return all(finding.ok for finding in findings)


def agrees(reference: Detections, candidate: Detections, cut: float = -1.0) -> bool:
    return passes(compare_detections([reference], [candidate], 0.05, LIMITS, [cut]))


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 20), equal=st.booleans(), full=st.booleans(), data=st.data())
def test_detections_agree_with_themselves_and_with_no_others(
    count: int, equal: bool, full: bool, data: st.DataObject
) -> None:
    reference = detections(count, torch.full((count,), 0.5) if equal else None)
    cut = float(reference.scores.min()) if full else -1.0
    order = data.draw(st.permutations(range(count)))
    assert agrees(reference, subset(reference, order), cut)
    fewer = order[: data.draw(st.integers(0, count - 1))]
    assert not agrees(reference, subset(reference, fewer))
    assert not agrees(subset(reference, fewer), reference)  # which has more
    assert not agrees(reference, subset(reference, [*order, order[0]]))  # one of them twice
    changed = data.draw(st.integers(0, count - 1))
    part = data.draw(st.sampled_from(["boxes", "scores", "labels", "masks"]))
    value = 1 if part == "labels" else data.draw(st.sampled_from([5.0, NAN, INF, -INF]))
    candidate = subset(reference, list(range(count)))
    getattr(candidate, part)[changed] += value
    assert not agrees(reference, candidate), (part, value)


def test_two_of_five_detections_fail() -> None:
    reference = detections(5)
    assert not agrees(reference, subset(reference, [0, 1]))
    # Three more may be missing in a file whose fixed count is two.
    assert agrees(reference, subset(reference, [0, 1]), cut=float(reference.scores[1]))


def test_no_detection_at_all_is_no_comparison() -> None:
    (share, *_) = compare_detections([detections(0)], [detections(0)], 0.05, LIMITS)
    assert not share.ok
    assert "could not be compared, neither the model nor the file detects anything" in str(share)


def test_empty_boxes_match_themselves() -> None:
    corner = torch.tensor([[96.0, 96, 96, 96], [96, 0, 96, 40]])
    sides = [Detections(corner, torch.tensor([0.9, 0.8]), torch.tensor([0, 1]))] * 2
    assert agrees(*sides)
    assert not agrees(sides[0], Detections(corner + 1, sides[0].scores, sides[0].labels))


def test_missing_or_other_masks_fail() -> None:
    reference = detections(3)
    without = Detections(reference.boxes, reference.scores, reference.labels)
    larger = dataclasses.replace(without, masks=torch.rand(3, 8, 8))
    assert not agrees(reference, without) and not agrees(reference, larger)


@pytest.mark.parametrize("name", ["logits", "stage2"])
@pytest.mark.parametrize("batch", [0, 1])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_tensors_that_are_not_finite_fail(name: str, batch: int, value: float) -> None:
    references = [{"logits": torch.rand(1, 4), "stage2": torch.rand(1, 2, 3, 3)} for _ in range(2)]
    names = list(references[0])
    candidates = copy.deepcopy(references)
    assert passes(compare_tensors(names, references, candidates, LIMITS))
    candidates[batch][name].flatten()[-1] = value
    assert not passes(compare_tensors(names, references, candidates, LIMITS))
    assert not passes(compare_tensors(names, candidates, candidates, LIMITS))  # a broken model


def test_constant_tensors_are_no_comparison() -> None:
    sides = [[{"logits": torch.full((2, 4), value)}] for value in (0.0, 0.0, 1.0)]
    (equal,) = compare_tensors(["logits"], sides[0], sides[1], LIMITS)
    assert not equal.ok and "all values are equal" in str(equal)
    assert not passes(compare_tensors(["logits"], sides[0], sides[2], LIMITS))
    assert not passes(compare_tensors(["logits"], [], [], LIMITS))


def test_labels_of_one_class_are_no_comparison() -> None:
    zeros, mixed = torch.zeros(2, 8, 8, dtype=torch.int32), torch.arange(128).reshape(2, 8, 8) % 2

    def findings(expected: Tensor, actual: Tensor) -> list[Finding]:
        return list(
            compare_tensors(["labels"], [{"labels": expected}], [{"labels": actual}], LIMITS, True)
        )

    assert "all pixels of the drawn images have one class" in str(*findings(zeros, zeros))
    assert not passes(findings(zeros, zeros)) and not passes(findings(mixed, zeros))
    assert not passes(findings(zeros, mixed)) and not passes(findings(mixed, mixed[:, :4]))
    assert passes(findings(mixed, mixed))


def test_logits_of_one_channel_are_compared_by_their_threshold() -> None:
    expected = torch.linspace(-2, 2, 128).reshape(2, 1, 8, 8)
    assert float(labels_of(expected, 0.3).float().mean()) == pytest.approx(0.71, abs=0.01)
    assert float(labels_of(expected, 0.5).float().mean()) == 0.5
    sides = [{"logits": expected}], [{"logits": expected.clone()}]
    relative, pixels = compare_tensors(["logits"], *sides, LIMITS, True, 0.3)
    assert relative.ok and pixels.ok
    sides[1][0]["logits"] = expected - 0.2
    assert [finding.ok for finding in compare_tensors(["logits"], *sides, LIMITS, True, 0.3)] == [
        False,
        False,
    ]


def test_a_file_that_cannot_be_compared_is_refused_with_the_reason(tmp_path: Path) -> None:
    obstacle = Finding("labels", math.nan, 1.0, obstacle="all pixels have one class")
    difference = Finding("scores", 2.0, 1.0)
    with pytest.raises(InputError, match="could not be verified: labels: could not be compared"):
        pipeline._refuse(tmp_path, [obstacle, Finding("x", 0.0, 1.0)])
    with pytest.raises(pipeline.VerificationError, match=r"differs from the model: labels.*scores"):
        pipeline._refuse(tmp_path, [obstacle, difference])


class Flat(nn.Module):
    """A segmentor that gives one class to images of ordinary contrast."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.decode_head = nn.Conv2d(3, channels, 1)
        self.align_corners = False
        nn.init.constant_(self.decode_head.bias, -4)
        with torch.no_grad():
            self.decode_head.bias[0] = 0 if channels > 1 else -4

    def extract_feat(self, images: Tensor) -> Tensor:
        return images


@pytest.mark.parametrize("channels", [1, 3])
def test_images_with_one_class_are_changed_until_there_are_two(channels: int) -> None:
    torch.manual_seed(0)
    segmentor, images = Segmentor(Flat(channels), labels=True), 0.1 * torch.rand(1, 3, 16, 16)
    assert len(segmentor(images).unique()) == 1
    changed = verify.with_two_classes(segmentor, images)
    assert len(segmentor(changed).unique()) > 1
    assert torch.equal(verify.with_two_classes(segmentor, changed), changed)


def test_a_detector_with_equal_scores_is_compared(job: MakeJob) -> None:
    config, checkpoint = job("detector")
    model = Predictor(load_config(config), checkpoint, "cpu").model.requires_grad_(False)
    head = model.roi_head.bbox_head
    head.fc_cls.weight.zero_()
    head.fc_cls.bias.zero_()[0] = 30.0  # all scores are exactly 1
    graph = graph_of(model)
    images = [verify.drawn_images((96, 128), graph.about)]

    def differences(change: float) -> list[Finding]:
        other = copy.deepcopy(model)
        other.roi_head.bbox_head.fc_reg.bias.add_(change)
        return verify.differences(model, graph, verify.Folded(graph_of(other)), images, "fp32")

    assert passes(differences(0.0)), list(map(str, differences(0.0)))
    assert not passes(differences(0.5))
