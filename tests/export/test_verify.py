"""The comparison of a file with its model finds differences, in any order of the detections."""

from __future__ import annotations

import pytest
import torch
from export.conftest import MakeFile, MakeJob
from torch import Tensor

from care_mm.config import load_config
from care_mm.export import compare, verify
from care_mm.export.compare import Detections, ImageComparison, compare_image
from care_mm.export.graphs import graph_of
from care_mm.export.stand_in import open_program
from care_mm.predict.predictor import Predictor

LIMITS = compare.LIMITS["fp32"]
BOXES = torch.tensor([[0.0, 0, 40, 40], [50, 0, 90, 40], [0, 50, 40, 90]])
SCORES = torch.tensor([0.9, 0.8, 0.7])


def detections(boxes: Tensor = BOXES, scores: Tensor = SCORES, mask: float = 0.5) -> Detections:
    """Return detections with constant masks, of the classes 0, 1, 2."""
    masks = torch.full((len(scores), 8, 8), mask)
    return Detections(boxes, scores, torch.arange(len(scores)), masks)


@pytest.mark.parametrize("task", ["classifier", "segmentor", "detector"])
def test_other_weights_are_noticed(job: MakeJob, exported: MakeFile, task: str) -> None:
    config, checkpoint = job(task)
    model = Predictor(load_config(config), checkpoint, "cpu").model
    with torch.no_grad():
        model.backbone.stages[2].blocks[0].token_mixer.global_branch.qk.weight.mul_(1.3)
    program = open_program(exported(task, f"{task[0]}.onnx"))
    batches = [verify.drawn_images((96, 128), program.about)]
    findings = verify.differences(model, graph_of(model), program, batches, "fp32")
    assert not all(finding.ok for finding in findings), list(map(str, findings))


def test_equal_detections_match_in_any_order() -> None:
    reference = detections()
    order = [2, 0, 1]
    shuffled = Detections(*(getattr(reference, k)[order] for k in ("boxes", "scores", "labels")))
    actual = compare_image(reference, reference, 0.05, LIMITS)
    assert actual == ImageComparison(total=6, unmatched=0)
    cut = float(SCORES.min())  # fixed counts may have cut off a tie
    actual = compare_image(reference, reference, 0.05, LIMITS, cut)
    assert actual == ImageComparison(total=4, unmatched=0)
    assert (compare.match(reference, shuffled, LIMITS) == torch.tensor([1, 2, 0])).all()


def test_a_moved_box_matches_on_neither_side() -> None:
    moved = BOXES + torch.tensor([[0.0], [5], [0]])
    actual = compare_image(detections(), detections(moved), 0.05, LIMITS)
    assert actual == ImageComparison(total=6, unmatched=2)


def test_differences_of_scores_and_masks_are_measured() -> None:
    candidate = detections(scores=SCORES - 5e-4, mask=0.75)
    actual = compare_image(detections(), candidate, 0.05, LIMITS)
    assert (actual.total, actual.unmatched) == (6, 0)
    assert actual.score_error == pytest.approx(5e-4, rel=1e-3)
    assert actual.mask_error == pytest.approx(0.25 - compare.MASK_STEP)
    rounded = compare_image(detections(), detections(mask=0.5 + compare.MASK_STEP), 0.05, LIMITS)
    assert rounded.mask_error == pytest.approx(0, abs=1e-6)


def test_findings_sum_up_the_images() -> None:
    moved = detections(BOXES + torch.tensor([[0.0], [5], [0]]), mask=0.75)
    findings = list(
        compare.compare_detections([detections()] * 2, [detections(), moved], 0.05, LIMITS)
    )
    assert [finding.name for finding in findings] == [
        "matched share of 12 detections",
        "scores, largest difference",
        "masks, largest difference beyond rounding, in the mean",
    ]
    assert [finding.value for finding in findings] == pytest.approx(
        [1 - 2 / 12, 0, 0.25 - compare.MASK_STEP]
    )
    assert [finding.ok for finding in findings] == [False, True, False]


def test_tensors_of_another_shape_differ_without_limit() -> None:
    assert compare.relative_difference(torch.zeros(2), torch.zeros(3)) == float("inf")
    assert not compare.Finding("x", float("nan"), 1.0).ok
