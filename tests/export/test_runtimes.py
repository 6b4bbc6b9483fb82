"""OpenVINO, ExecuTorch and Core ML: files that the command has compared, opened again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from care_mm.export import verify
from care_mm.export.runtime import open_program

MakeFile = Callable[..., Path]


@pytest.mark.parametrize("task", ["classifier", "segmentor"])
def test_openvino_equals_onnx(exported: MakeFile, task: str) -> None:
    file = exported(task, f"{task[0]}.xml")
    assert file.with_suffix(".bin").is_file()
    programs = open_program(file), open_program(exported(task, f"{task[0]}.onnx"))
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
