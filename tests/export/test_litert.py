"""LiteRT's files equal torch, stand in for checkpoints, and are refused when they are damaged."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tool
import torch
from export.conftest import MakeFile, MakeJob
from export.test_stand_in import both
from PIL import Image

from care_mm.errors import InputError
from care_mm.export.compare import relative_difference
from care_mm.export.litert import PYTHON, converter_python
from care_mm.export.runtimes import TARGETS
from care_mm.export.stand_in import open_program

pytest.importorskip("ai_edge_litert")
CLASSIFIER = ("classifier", "c.tflite", "--shape", 64, 64)


def has_converter() -> bool:
    try:
        return converter_python().is_file()
    except InputError:
        return False


converts = pytest.mark.skipif(not has_converter(), reason="needs `make setup-litert`")


@converts
def test_a_classifier_has_the_same_scores(
    job: MakeJob, exported: MakeFile, image_file: Path
) -> None:
    expected, actual = both(job("classifier"), exported(*CLASSIFIER), image_file)
    torch.testing.assert_close(actual.pred_score, expected.pred_score, rtol=1e-4, atol=1e-6)
    assert float(expected.pred_score.max()) < 0.99, "saturated: nothing was compared"


@converts
def test_infer_accepts_the_file(
    job: MakeJob, exported: MakeFile, image_file: Path, tmp_path: Path
) -> None:
    config, _ = job("classifier")
    tool.call("infer", config, exported(*CLASSIFIER), image_file, "--out-dir", tmp_path / "out")
    assert any((tmp_path / "out").rglob("*.png"))


@converts
@pytest.mark.parametrize(("precision", "limit"), [("fp16", 0.02), ("int8", 0.3)])
def test_smaller_weights_stay_close_to_onnx(
    exported: MakeFile, image_file: Path, precision: str, limit: float, tmp_path: Path
) -> None:
    options = ["--what", "backbone", "--shape", 64, 64, "--precision", precision]
    if precision == "int8":
        Image.open(image_file).save(tmp_path / "sample.png")
        options += ["--calibration", tmp_path]
    file = exported("classifier", f"{precision}.tflite", *options)
    images = torch.rand(2, 3, 64, 64)
    reference = exported("classifier", "b.onnx", "--what", "backbone")
    expected, actual = open_program(reference)(images), open_program(file)(images)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert 1e-6 < relative_difference(actual[name], values) <= limit
    assert file.stat().st_size < 0.7 * reference.stat().st_size


@converts
@pytest.mark.parametrize("damage", ["cut", "not ours", "missing"])
def test_damaged_files_are_refused(exported: MakeFile, tmp_path: Path, damage: str) -> None:
    content = exported(*CLASSIFIER).read_bytes()
    file = tmp_path / "x.tflite"
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    if damage == "not ours":
        file.write_bytes(content.replace(b"description.json", b"descriptions.txt"))
    with pytest.raises(InputError, match=str(file)) as caught:
        TARGETS["litert"].open(file)
    assert "\n" not in str(caught.value)


def test_a_missing_environment_is_named_with_its_command(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv(PYTHON, str(tmp_path / "python"))
    options = ("--format", "litert", "--out", tmp_path / "x.tflite", "--shape", 64, 64)
    line = tool.refusal(capsys, "export", *job("classifier"), *options)
    assert "make setup-litert" in line and PYTHON in line


def test_an_environment_without_the_converter_is_refused(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv(PYTHON, sys.executable)
    options = ("--format", "litert", "--out", tmp_path / "x.tflite", "--shape", 64, 64)
    line = tool.refusal(capsys, "export", *job("classifier"), *options)
    assert "No module named 'litert_torch'" in line and not list(tmp_path.iterdir())


@converts
def test_layer_scales_are_in_the_layout_of_the_convolutions(exported: MakeFile) -> None:
    """Otherwise the maps are transposed before and after them."""
    from ai_edge_litert import schema_py_generated as schema

    content = exported(*CLASSIFIER).read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    graph = model.subgraphs[0]
    scales = []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        if max(code.builtinCode, code.deprecatedBuiltinCode) == schema.BuiltinOperator.MUL:
            shapes = [list(graph.tensors[i].shape) for i in operator.inputs]
            scales += [shape for shape in shapes if len(shape) == 4 and max(shape[:3]) == 1]
            assert not any(len(shape) == 4 and shape[2:] == [1, 1] for shape in shapes)
    assert len(scales) >= 3  # the last block has no layer scale
