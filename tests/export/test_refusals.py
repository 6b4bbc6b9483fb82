"""What is refused, in one line, and that nothing is left behind."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tool
import torch
from export.conftest import Job

from care_mm.engine.config import load_config
from care_mm.engine.inference import Predictor
from care_mm.errors import InputError
from care_mm.export import verify
from care_mm.export.graphs import graph_of
from care_mm.export.runtime import open_program, stand_in

MakeJob, MakeFile = Callable[[str], Job], Callable[..., Path]


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
