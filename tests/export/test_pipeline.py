"""The export command: bad input is refused in one line, and no unverified file is left."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import tool
from export.conftest import MakeJob

from care_mm.export import compare
from care_mm.export.pipeline import ExportSettings
from care_mm.export.runtimes import TARGETS


def test_a_difference_beyond_the_limit_leaves_no_file(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = dataclasses.replace(compare.LIMITS["fp32"], relative_error=0.0)
    monkeypatch.setitem(compare.LIMITS, "fp32", strict)
    with pytest.raises(SystemExit, match="largest relative difference") as caught:
        options = ("--format", "onnx", "--out", tmp_path / "x.onnx", "--shape", 64, 96)
        tool.call("export", *job("classifier"), *options)
    assert isinstance(caught.value.code, str)  # which Python prints, with status 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("companion", [False, True])
def test_an_existing_file_is_kept(job: MakeJob, tmp_path: Path, capsys, companion: bool) -> None:
    existing = tmp_path / ("x.bin" if companion else "x.xml")
    existing.write_text("mine")
    options = ("--format", "openvino", "--out", tmp_path / "x.xml")
    line = tool.refusal(capsys, "export", *job("classifier"), *options)
    assert f"{existing}: exists already" in line and existing.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--format", "onnx", "--out", "x.xml"), "ends in .onnx"),
        (("--format", "onnx", "--out", "no/x.onnx"), "there is no folder"),
        (("--format", "executorch", "--out", "x.pte", "--precision", "int8"), "fp32, fp16"),
        (("--format", "onnx", "--out", "x.onnx", "--precision", "int8"), "--calibration"),
        (("--format", "onnx", "--out", "x.onnx", "--opset", 16), "there is 20, 19, 18, 17"),
        (("--format", "openvino", "--out", "x.xml", "--opset", 17), "there is no choice"),
        (("--format", "onnx", "--out", "x.onnx", "--shape", 16, 64), "at least 32"),
        (("--format", "onnx", "--out", "x.onnx", "--argmax"), "for segmentors"),
        (("--format", "onnx", "--out", "x.onnx", "--what", "raw-maps"), "for one-stage detectors"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, options, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in tool.refusal(capsys, "export", *job("classifier"), *options)
    assert not list(tmp_path.iterdir())


def test_arguments_are_checked_before_the_checkpoint_is_read(
    job: MakeJob, tmp_path: Path, capsys
) -> None:
    config, _ = job("classifier")
    options = ("--format", "onnx", "--out", tmp_path / "x.xml")
    assert "ends in .onnx" in tool.refusal(capsys, "export", config, "missing.pth", *options)


def test_a_missing_runtime_is_named(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    options = ("--format", "onnx", "--out", tmp_path / "x.onnx")
    line = tool.refusal(capsys, "export", *job("classifier"), *options)
    assert "onnxscript is not installed" in line and "pip install care-mm[export]" in line


def test_every_precision_of_a_target_has_limits() -> None:
    for name, target in TARGETS.items():
        assert ExportSettings(name, Path(f"x{target.suffix}")).target is target
        assert set(target.precisions) <= set(compare.LIMITS)
        assert set(target.casts) <= set(target.precisions)
