"""Exported files stand in for the model: same result objects, same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from export.conftest import Job, MakeFile, MakeJob

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.export import verify
from care_mm.export.stand_in import open_program, stand_in
from care_mm.predict.predictor import Predictor


def predict(job: Job, weights: Path, image_file: Path) -> Any:
    """Return the data sample of an image, by a checkpoint or by an exported file."""
    predictor = Predictor(load_config(job[0]), weights, "cpu")
    return predictor(predictor.read(image_file))


def both(job: Job, file: Path, image_file: Path) -> tuple[Any, Any]:
    return predict(job, job[1], image_file), predict(job, file, image_file)


def test_a_classifier_has_the_same_scores(
    job: MakeJob, exported: MakeFile, image_file: Path
) -> None:
    expected, actual = both(job("classifier"), exported("classifier", "c.onnx"), image_file)
    torch.testing.assert_close(actual.pred_score, expected.pred_score, rtol=1e-4, atol=1e-6)
    assert float(expected.pred_score.max()) < 0.99, "saturated: nothing was compared"


def test_a_segmentor_has_the_same_labels_and_logits(
    job: MakeJob, exported: MakeFile, image_file: Path
) -> None:
    expected, actual = both(job("segmentor"), exported("segmentor", "s.onnx"), image_file)
    labels = expected.pred_sem_seg.data
    assert labels.shape == (1, 131, 192) and len(labels.unique()) > 2
    assert float((labels == actual.pred_sem_seg.data).float().mean()) >= 0.999
    error = verify.relative_difference(actual.seg_logits.data, expected.seg_logits.data)
    assert error <= 1e-4


def test_a_detector_has_the_same_detections(
    job: MakeJob, exported: MakeFile, image_file: Path
) -> None:
    expected, actual = both(job("detector"), exported("detector", "d.onnx"), image_file)
    assert len(expected.pred_instances) > 5
    assert actual.pred_instances.masks.shape[1:] == (131, 192)
    reference, candidate = (
        verify.Detections(p.bboxes, p.scores, p.labels, p.masks.float())
        for p in (expected.pred_instances, actual.pred_instances)
    )
    partner = verify.match(reference, candidate, verify.LIMITS["fp32"])
    assert (partner >= 0).all() and len(reference) == len(candidate)
    overlap = (reference.masks * candidate.masks[partner]).sum((1, 2))
    union = (reference.masks + candidate.masks[partner]).clamp(max=1).sum((1, 2))
    iou = torch.where(union > 0, overlap / union, 1.0)  # two empty masks are equal
    assert float(iou.mean()) > 0.99


def test_labels_of_a_segmentor_are_the_best_classes(exported: MakeFile) -> None:
    file = exported("segmentor", "labels.onnx", "--argmax", "--shape", 128, 192)
    program = open_program(file)
    images = verify.drawn_images((128, 192), program.about)[:1]
    labels = program(images)["labels"]
    logits = open_program(exported("segmentor", "s.onnx"))(images)["logits"]
    assert labels.dtype == torch.int32
    assert float((labels == logits.argmax(1)).float().mean()) >= 0.999
    with pytest.raises(InputError, match="128x192"):
        program(images[..., :160])


def test_a_file_for_another_task_is_refused(job: MakeJob, exported: MakeFile) -> None:
    model = Predictor(load_config(job("segmentor")[0]), job("segmentor")[1], "cpu").model
    with pytest.raises(InputError, match="holds a classifier, which cannot replace"):
        stand_in(model, open_program(exported("classifier", "c.onnx")))


def test_a_damaged_file_is_refused(exported: MakeFile, tmp_path: Path) -> None:
    damaged = tmp_path / "half.onnx"
    content = exported("classifier", "c.onnx").read_bytes()
    damaged.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"half\.onnx: damaged"):
        open_program(damaged)


def test_a_file_without_a_runtime_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.mlpackage: not a file that runs here"):
        open_program(tmp_path / "x.mlpackage")
