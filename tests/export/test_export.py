"""Exported files stand in for the model, in every runtime: same result objects, same values.

All of it is in one file so that each export is made once; see ``conftest.exported``.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tool
import torch
from export.conftest import Job

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.export import verify
from care_mm.export.graphs import graph_of
from care_mm.export.stand_in import open_program, stand_in
from care_mm.predict.predictor import Predictor

MakeJob, MakeFile = Callable[[str], Job], Callable[..., Path]


# ONNX


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


# Other runtimes


def test_openvino_equals_onnx(exported: MakeFile) -> None:
    file = exported("segmentor", "s.xml")
    assert file.with_suffix(".bin").is_file()
    programs = open_program(file), open_program(exported("segmentor", "s.onnx"))
    images = verify.pictures((96, 64), programs[0].about)
    here, there = (program(images)["logits"] for program in programs)
    assert verify.relative_difference(here, there) <= 1e-4


def test_executorch_equals_onnx(exported: MakeFile) -> None:
    file = exported("classifier", "c.pte", "--shape", 64, 96)
    programs = open_program(file), open_program(exported("classifier", "c.onnx"))
    images = verify.pictures((64, 96), programs[0].about)
    here, there = (program(images)["logits"] for program in programs)
    assert here.shape == (len(images), 6)
    assert verify.relative_difference(here, there) <= 1e-4


def test_core_ml_has_its_own_operators_only(exported: MakeFile, capsys) -> None:
    file = exported("detector", "b.mlpackage", "--what", "backbone", "--shape", 64, 96)
    said = capsys.readouterr().out
    assert "operators of Core ML's own" in said and "needs macOS" in said
    assert (file / "Manifest.json").is_file()


def test_core_ml_has_a_function_for_each_network_of_a_detector(exported: MakeFile, capsys) -> None:
    exported("detector", "d.mlpackage", "--shape", 64, 96, "--precision", "fp16")
    lines = capsys.readouterr().out.splitlines()
    functions = {line.split(":")[0] for line in lines if "operators of Core ML's own" in line}
    assert functions == {"dense", "boxes", "masks"}


# What is refused, and that nothing is left behind


def test_difference_beyond_the_limit_leaves_no_file(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = dataclasses.replace(verify.LIMITS["fp32"], relative=0.0)
    monkeypatch.setitem(verify.LIMITS, "fp32", strict)
    with pytest.raises(SystemExit, match="largest relative difference") as caught:
        options = ("--format", "onnx", "--out", tmp_path / "x.onnx", "--shape", 64, 96)
        tool.call("export", *job("classifier"), *options)
    assert isinstance(caught.value.code, str)  # which Python prints, with status 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("task", ["classifier", "segmentor", "detector"])
def test_other_weights_are_found_out(job: MakeJob, exported: MakeFile, task: str) -> None:
    config, checkpoint = job(task)
    model = Predictor(load_config(config), checkpoint, "cpu").model
    with torch.no_grad():
        model.backbone.stages[2].blocks[0].token_mixer.global_branch.qk.weight.mul_(1.3)
    program = open_program(exported(task, f"{task[0]}.onnx"))
    batches = [verify.pictures((96, 128), program.about)]
    found = verify.differences(model, graph_of(model), program, batches, "fp32")
    assert not all(finding.ok for finding in found), list(map(str, found))


def test_existing_file_is_kept(job: MakeJob, tmp_path: Path, capsys) -> None:
    out = tmp_path / "x.onnx"
    out.write_text("mine")
    line = tool.refusal(capsys, "export", *job("classifier"), "--format", "onnx", "--out", out)
    assert "exists already" in line and out.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "onnx", "--out", "x.xml"), "ends in .onnx"),
        (("--format", "onnx", "--out", "no/x.onnx"), "there is no folder"),
        (("--format", "executorch", "--out", "x.pte", "--precision", "int8"), "fp32, fp16"),
        (("--format", "onnx", "--out", "x.onnx", "--precision", "int8"), "--calibration"),
        (("--format", "onnx", "--out", "x.onnx", "--shape", 16, 64), "at least 32"),
        (("--format", "onnx", "--out", "x.onnx", "--argmax"), "for segmentors"),
    ],
)
def test_wishes_that_cannot_be_met(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, options, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in tool.refusal(capsys, "export", *job("classifier"), *options)
    assert not list(tmp_path.iterdir())


def test_missing_runtime_is_named(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    options = ("--format", "onnx", "--out", tmp_path / "x.onnx")
    line = tool.refusal(capsys, "export", *job("classifier"), *options)
    assert "onnxscript is not installed" in line and "pip install care-mm[export]" in line


def test_file_of_another_task_or_hand(job: MakeJob, exported: MakeFile, tmp_path: Path) -> None:
    model = Predictor(load_config(job("segmentor")[0]), job("segmentor")[1], "cpu").model
    with pytest.raises(InputError, match="holds a classifier"):
        stand_in(model, open_program(exported("classifier", "c.onnx")))
    damaged = tmp_path / "half.onnx"
    whole = exported("classifier", "c.onnx").read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"half\.onnx: damaged"):
        open_program(damaged)
