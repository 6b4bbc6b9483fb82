"""Every runtime writes files of its kind, which say what they are and agree with ONNX Runtime."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from export.conftest import MakeFile
from torch import Tensor, nn

from care_mm.errors import InputError
from care_mm.export import compare, verify
from care_mm.export.graphs import graph_of_module
from care_mm.export.onnx import lower_to_17
from care_mm.export.runtimes import TARGETS
from care_mm.export.stand_in import open_program


def difference_from_onnx(file: Path, reference: Path, shape: tuple[int, int]) -> float:
    """Return the relative difference of the logits of two files on drawn images."""
    program = open_program(file)
    images = verify.drawn_images(shape, program.about)
    expected = open_program(reference)(images)["logits"]
    return compare.relative_difference(program(images)["logits"], expected)


def test_the_pyramid_of_a_backbone_has_its_stages(exported: MakeFile) -> None:
    program = open_program(exported("detector", "b.onnx", "--what", "backbone"))
    pyramid = program(torch.rand(3, 3, 64, 32))
    assert {name: tuple(t.shape) for name, t in pyramid.items()} == {
        "stage1": (3, 32, 16, 8),
        "stage2": (3, 64, 8, 4),
        "stage3": (3, 128, 4, 2),
        "stage4": (3, 1024, 2, 1),
    }


def test_an_onnx_file_says_what_it_is_and_has_standard_operators(exported: MakeFile) -> None:
    model = onnx.load(exported("detector", "d.onnx"))
    about = json.loads({p.key: p.value for p in model.metadata_props}["care_mm"])
    assert about["task"] == "detector" and about["mean"] == [123.675, 116.28, 103.53]
    assert about["dataset_meta"]["classes"][0] == "ball"
    kinds = {node.op_type for node in model.graph.node}
    assert {"NonMaxSuppression", "RoiAlign"} <= kinds
    assert {node.domain for node in model.graph.node} == {""}


def test_an_old_opset_has_a_low_ir_version_and_no_gelu(exported: MakeFile) -> None:
    file = exported("classifier", "c17.onnx", "--opset", 17)
    model = onnx.load(file)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    kinds = {node.op_type for node in model.graph.node}
    assert "Erf" in kinds and "Gelu" not in kinds
    assert difference_from_onnx(file, exported("classifier", "c.onnx"), (64, 96)) <= 1e-4


@pytest.mark.parametrize(("antialias", "lowered"), [(None, True), (0, True), (1, False)])
def test_opset_17_is_refused_where_it_lacks_an_operator(
    antialias: int | None, lowered: bool
) -> None:
    options = {} if antialias is None else {"antialias": antialias}
    nodes = [
        onnx.helper.make_node("ReduceMean", ["x", "axes"], ["y"], noop_with_empty_axes=0),
        onnx.helper.make_node("Resize", ["y", "", "", "size"], ["z"], mode="linear", **options),
    ]
    constants = {"axes": [2], "size": [1, 3, 1, 8]}
    kinds = {"x": [1, 3, 4, 4], "z": [1, 3, 1, 8]}
    x, z = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in kinds.items()
    )
    graph = onnx.helper.make_graph(
        nodes,
        "graph",
        [x],
        [z],
        [onnx.numpy_helper.from_array(np.array(v), name) for name, v in constants.items()],
    )
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model)
    if not lowered:
        with pytest.raises(InputError, match=r"--opset 17: the model needs a later opset"):
            lower_to_17(model)
        return
    lower_to_17(model)
    images = np.random.default_rng(0).random((1, 3, 4, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    expected = images.mean(2, keepdims=True)
    (actual,) = session.run(None, {"x": images})
    np.testing.assert_allclose(actual[..., [0, -1]], expected[..., [0, -1]], rtol=1e-5)


def test_openvino_equals_onnx(exported: MakeFile) -> None:
    file = exported("segmentor", "s.xml")
    assert file.with_suffix(".bin").is_file()
    assert difference_from_onnx(file, exported("segmentor", "s.onnx"), (96, 64)) <= 1e-4


def test_executorch_equals_onnx(exported: MakeFile) -> None:
    file = exported("classifier", "c.pte", "--shape", 64, 96)
    assert difference_from_onnx(file, exported("classifier", "c.onnx"), (64, 96)) <= 1e-4


def test_core_ml_has_its_own_operators_only(exported: MakeFile, capsys) -> None:
    pytest.importorskip("coremltools")
    file = exported("detector", "b.mlpackage", "--what", "backbone", "--shape", 64, 96)
    printed = capsys.readouterr().out
    assert "operators of Core ML's own" in printed and "needs macOS" in printed
    assert (file / "Manifest.json").is_file()


def test_core_ml_has_a_function_for_each_network_of_a_detector(exported: MakeFile, capsys) -> None:
    pytest.importorskip("coremltools")
    exported("detector", "d.mlpackage", "--shape", 64, 96, "--precision", "fp16")
    lines = capsys.readouterr().out.splitlines()
    functions = {line.split(":")[0] for line in lines if "operators of Core ML's own" in line}
    assert functions == {"dense", "boxes", "masks"}


class Pair(nn.Module):
    """A module from an image batch to two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(images)
        return features, features.mean((2, 3))


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_any_module_is_written_for_a_fixed_batch(name: str, tmp_path: Path) -> None:
    module, images = Pair().eval(), torch.rand(2, 3, 8, 12)
    target = TARGETS[name]
    path = tmp_path / f"pair{target.suffix}"
    target.write(graph_of_module(module, images), path, shape=(8, 12), batch=2)
    outputs = target.open(path).run(images.numpy())
    for actual, expected in zip(outputs, module(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), expected)


def test_a_batch_is_refused_where_a_graph_accepts_one_image(tmp_path: Path) -> None:
    module, images = Pair().eval(), torch.rand(1, 3, 8, 12)
    graph = dataclasses.replace(graph_of_module(module, images), batched=False)
    with pytest.raises(InputError, match="accepts one image at a time, not 2"):
        TARGETS["onnx"].write(graph, tmp_path / "x.onnx", shape=(8, 12), batch=2)


def test_runtimes_are_imported_only_when_they_are_used() -> None:
    names = sorted({package for target in TARGETS.values() for package in target.packages})
    code = f"""
import sys
import care_mm.export.pipeline, care_mm.predict.predictor
print(*(name for name in {names} if name in sys.modules))
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == []


INTERRUPTED = """
import gc, os, signal, sys
from pathlib import Path
from care_mm.export.stand_in import open_program

programs = [open_program(Path(sys.argv[1])) for _ in range(2)]
while programs:  # the first ends before the second
    del programs[0]
    gc.collect()
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_is_heard_after_two_openvino_files(exported: MakeFile) -> None:
    file = exported("classifier", "interrupted.xml")
    command = [sys.executable, "-c", INTERRUPTED, str(file)]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (process.returncode, process.stdout) == (0, "interrupted\n"), process.stderr
