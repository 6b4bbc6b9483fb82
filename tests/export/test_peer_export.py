"""Files of MLLA, FLatten, SLAB and timm's models in ONNX Runtime and OpenVINO equal torch.

Their inputs have the size of an export, or any size.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peers.linear_golden import image
from peers.test_linear_peers import drawn, error
from torch import nn

from care_mm.errors import InputError
from care_mm.export.graphs import Graph
from care_mm.export.onnx import Onnx, OnnxProgram
from care_mm.export.openvino import shared_core
from care_mm.export.target import Source
from care_mm.export.trace import trace
from care_mm.models.fold import switch_to_deploy
from care_mm.peers import TimmBackbone

SIZE = (72, 104)  # the windows of the Swins need padding and shifts
# One of each system, with its last stage: stage 3 of a Swin has the first softmax attention, and
# every stage of the others has all layers.
LAST = {"mlla_t": 1, "slab_pvt_t": 1, "flatten_swin_t": 2}
TIMM = {
    "mobilenetv2_100": 3,
    "efficientformer_l1": 3,
    "efficientformerv2_s1": 3,
    "swin_tiny_patch4_window7_224": 2,
    "convnext_tiny": 1,
}


def built(name: str) -> nn.Module:
    """Return a backbone with its first map and the last one that its test needs."""
    if name in LAST:
        return drawn(name, out_indices=(0, LAST[name]))
    torch.manual_seed(0)
    return TimmBackbone(name, out_indices=(0, TIMM[name])).eval()


@pytest.mark.parametrize("name", [*LAST, *TIMM])
def test_exported_files_equal_torch(name: str, tmp_path: Path) -> None:
    model = switch_to_deploy(built(name))
    graph = Graph(model, "backbone", ("first", "last"))
    file = tmp_path / "peer.onnx"
    Onnx().convert(Source(trace(graph, SIZE), graph.outputs, graph.metadata()), file)
    x = image(1, 1, 3, *SIZE).float()
    with torch.no_grad():
        expected = dict(zip(graph.outputs, model(x), strict=True))

    in_onnxruntime = OnnxProgram(file)(x)
    compiled = shared_core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    in_openvino = compiled({0: x.numpy()})
    for output, reference in expected.items():
        assert error(torch.as_tensor(in_onnxruntime[output]), reference) <= 1e-4
        assert error(torch.as_tensor(in_openvino[output]), reference) <= 1e-4


def test_a_file_of_open_size_crops_its_maps_as_torch_does(tmp_path: Path) -> None:
    model = TimmBackbone("efficientformerv2_s1", out_indices=(0, 1)).eval()
    graph = Graph(model, "backbone", ("first", "last"))
    file = tmp_path / "peer.onnx"
    Onnx().convert(Source(trace(graph, None), graph.outputs, graph.metadata()), file)
    program = OnnxProgram(file)
    for size in (SIZE, (65, 97), (160, 96)):
        x = image(1, 1, 3, *size).float()
        outputs = program(x)
        with torch.no_grad():
            for output, reference in zip(graph.outputs, model(x), strict=True):
                assert outputs[output].shape == reference.shape
                assert error(torch.as_tensor(outputs[output]), reference) <= 1e-4


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "flatten_swin_t"])
def test_windows_need_one_size(name: str) -> None:
    graph = Graph(built(name), "backbone", ("first", "last"))
    with pytest.raises(InputError, match=r"into windows .*: --shape H W"):
        trace(graph, None)
