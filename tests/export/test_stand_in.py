"""Exported files stand in for the model: same result objects, same values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tool
import torch
from export.conftest import Job, MakeFile, MakeJob
from torch import nn

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.export import compare, verify
from care_mm.export.graphs import graph_of_module, labels_of, read_metadata
from care_mm.export.stand_in import logits_of_labels, open_program, stand_in
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
    error = compare.relative_difference(actual.seg_logits.data, expected.seg_logits.data)
    assert error <= 1e-4


def test_a_detector_has_the_same_detections(
    job: MakeJob, exported: MakeFile, image_file: Path
) -> None:
    expected, actual = both(job("detector"), exported("detector", "d.onnx"), image_file)
    assert len(expected.pred_instances) > 5
    assert actual.pred_instances.masks.shape[1:] == (131, 192)
    reference, candidate = (
        compare.Detections(p.bboxes, p.scores, p.labels, p.masks.float())
        for p in (expected.pred_instances, actual.pred_instances)
    )
    partner = compare.match(reference, candidate, compare.LIMITS["fp32"])
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


@pytest.mark.parametrize(
    "meta",
    [
        {"classes": ("ball", "cube"), "palette": [(1, 2, 3), (4, 5, 6)]},
        {"classes": ("ball",), "palette": [(1, 2, 3)], "label_map": {0: 1, 255: -1}},
        {"classes": (), "palette": (1, 2, 3), "thing_classes": ("a",), "note": None},
        {"classes": ("7", "ball"), "palette": "coco"},
    ],
)
def test_metadata_survives_the_round_trip(meta: dict[str, Any]) -> None:
    graph = graph_of_module(nn.Identity(), torch.zeros(1, 3, 2, 2))
    graph = replace(graph, about={"dataset_meta": meta})
    assert read_metadata(graph.metadata(shape=None), "x.onnx")["dataset_meta"] == meta


def test_metadata_takes_arrays_and_lists() -> None:
    graph = graph_of_module(nn.Identity(), torch.zeros(1, 3, 2, 2))
    meta = {"classes": ["a", "b"], "palette": np.array([[1, 2, 3], [4, 5, 6]])}
    text = replace(graph, about={"dataset_meta": meta}).metadata()
    expected = {"classes": ("a", "b"), "palette": [(1, 2, 3), (4, 5, 6)]}
    assert read_metadata(text, "x.onnx")["dataset_meta"] == expected


@pytest.mark.parametrize("text", [None, "", "{}", "[]", "7", '{"outputs": 1, "task": "x"}'])
def test_a_description_of_another_kind_is_refused(text: str | None) -> None:
    with pytest.raises(InputError, match=r"x\.onnx: was not written by"):
        read_metadata(text, "x.onnx")


@pytest.mark.parametrize("threshold", [None, 1e-5, 0.3, 0.5, 1.0])
def test_labels_of_one_channel_stay_the_same_in_mmseg(threshold: float | None) -> None:
    head = SimpleNamespace(out_channels=1, threshold=threshold)
    labels = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.int32)
    logits = logits_of_labels(labels, head)
    value = 0.3 if threshold is None else threshold
    assert logits.shape == (1, 1, 2, 2) and torch.isfinite(logits).all()
    possible = labels_of(torch.tensor([[[[-1e9, 1e9]]]]), value).unique()
    for label in possible.int().tolist():
        assert (labels_of(logits, value)[labels == label] == label).all()


def test_the_message_about_the_size_gives_the_step_that_fits(exported: MakeFile) -> None:
    program = open_program(exported("segmentor", "labels.onnx", "--argmax", "--shape", 128, 192))
    step = r"dict\(type='Resize', scale=\(192, 128\), keep_ratio=False\)"
    with pytest.raises(InputError, match=f"not 96x96: let the test pipeline resize by {step}"):
        program(torch.zeros(1, 3, 96, 96))


def test_a_segmentor_of_one_channel_is_exported(
    job: MakeJob, tmp_path: Path, image_file: Path
) -> None:
    config, checkpoint = job("segmentor")
    binary = tmp_path / "binary.py"
    binary.write_text(
        f"_base_ = {str(config)!r}\n"
        "model = dict(decode_head=dict(num_classes=2, out_channels=1, threshold=0.4,\n"
        "    loss_decode=dict(_delete_=True, type='CrossEntropyLoss', use_sigmoid=True)))\n"
    )
    content = torch.load(checkpoint, weights_only=False)
    state = content["state_dict"]
    for key in [key for key in state if key.startswith("decode_head.conv_seg")]:
        state[key] = state[key][1:2] - state[key][:1]
    content["meta"]["dataset_meta"] = {"classes": ("ground", "thing")}
    weights = tmp_path / "binary.pth"
    torch.save(content, weights)
    files = {"logits.onnx": (), "labels.onnx": ("--argmax", "--shape", 128, 192)}
    for name, options in files.items():
        out = ("--format", "onnx", "--out", tmp_path / name)
        tool.call("export", binary, weights, *out, *options)
    expected, actual = both((binary, weights), tmp_path / "logits.onnx", image_file)
    assert len(expected.pred_sem_seg.data.unique()) == 2
    assert float((expected.pred_sem_seg.data == actual.pred_sem_seg.data).float().mean()) >= 0.999
    logits = open_program(tmp_path / "logits.onnx")
    labels = open_program(tmp_path / "labels.onnx")
    images = verify.drawn_images((128, 192), logits.about)[:1]
    equal = labels(images)["labels"] == labels_of(logits(images)["logits"], 0.4)
    assert float(equal.float().mean()) >= 0.999
