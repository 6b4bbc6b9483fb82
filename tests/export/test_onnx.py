"""ONNX files of the three tasks stand in for the model: same result objects, same values."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from export.conftest import Job

from care_mm.engine.config import load_config
from care_mm.engine.inference import Predictor
from care_mm.export import verify
from care_mm.export.runtime import open_program

MakeJob, MakeFile = Callable[[str], Job], Callable[..., Path]


def predict(job: Job, weights: Path, picture: Path) -> Any:
    """The data sample of a picture, by a checkpoint or by an exported file."""
    predictor = Predictor(load_config(job[0]), weights, "cpu")
    return predictor(predictor.read(picture))


def both(job: Job, file: Path, picture: Path) -> tuple[Any, Any]:
    return predict(job, job[1], picture), predict(job, file, picture)


def test_classifier(job: MakeJob, exported: MakeFile, picture: Path) -> None:
    expected, actual = both(job("classifier"), exported("classifier", "c.onnx"), picture)
    torch.testing.assert_close(actual.pred_score, expected.pred_score, rtol=1e-4, atol=1e-6)
    assert float(expected.pred_score.max()) < 0.99, "saturated: nothing was compared"


def test_segmentor(job: MakeJob, exported: MakeFile, picture: Path) -> None:
    expected, actual = both(job("segmentor"), exported("segmentor", "s.onnx"), picture)
    labels, others = expected.pred_sem_seg.data, actual.pred_sem_seg.data
    assert labels.shape == (1, 131, 192) and len(labels.unique()) > 2
    assert float((labels == others).float().mean()) >= 0.999
    error = verify.relative_difference(actual.seg_logits.data, expected.seg_logits.data)
    assert error <= 1e-4


def test_detector(job: MakeJob, exported: MakeFile, picture: Path) -> None:
    expected, actual = both(job("detector"), exported("detector", "d.onnx"), picture)
    assert len(expected.pred_instances) > 5
    assert actual.pred_instances.masks.shape[1:] == (131, 192)
    here, there = (
        verify.Detections(p.bboxes, p.scores, p.labels, p.masks.float())
        for p in (expected.pred_instances, actual.pred_instances)
    )
    partner = verify.match(here, there, verify.LIMITS["fp32"])
    assert (partner >= 0).all() and len(here.scores) == len(there.scores)
    overlap = (here.masks * there.masks[partner]).sum((1, 2))
    union = (here.masks + there.masks[partner]).clamp(max=1).sum((1, 2))
    assert float(torch.where(union > 0, overlap / union, 1.0).mean()) > 0.99  # none equals none


def test_labels_of_a_segmentor(job: MakeJob, exported: MakeFile, picture: Path) -> None:
    file = exported("segmentor", "labels.onnx", "--argmax", "--shape", 128, 192)
    program = open_program(file)
    image = verify.pictures((128, 192), program.about)[:1]
    found = program(image)["labels"]
    logits = open_program(exported("segmentor", "s.onnx"))(image)["logits"]
    assert found.dtype == torch.int32
    assert float((found == logits.argmax(1)).float().mean()) >= 0.999
    with pytest.raises(Exception, match="128x192"):
        program(image[..., :160])


def test_pyramid_of_the_backbone(job: MakeJob, exported: MakeFile) -> None:
    program = open_program(exported("detector", "b.onnx", "--what", "backbone"))
    found = program(torch.rand(3, 3, 64, 32))
    assert {name: tuple(t.shape) for name, t in found.items()} == {
        "stage1": (3, 32, 16, 8),
        "stage2": (3, 64, 8, 4),
        "stage3": (3, 128, 4, 2),
        "stage4": (3, 1024, 2, 1),
    }


def test_file_says_what_it_is(exported: MakeFile) -> None:
    model = onnx.load(exported("detector", "d.onnx"))
    about = json.loads({p.key: p.value for p in model.metadata_props}["care_mm"])
    assert about["task"] == "detector" and about["mean"] == [123.675, 116.28, 103.53]
    assert about["dataset_meta"]["classes"][0] == "ball"
    kinds = {node.op_type for node in model.graph.node}
    assert {"NonMaxSuppression", "RoiAlign"} <= kinds
    assert {node.domain for node in model.graph.node} == {""}
