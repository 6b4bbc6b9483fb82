"""The profile counts every operator of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from runtimes import require

from care_mm.benchmark.backends import RUNTIMES, Setting, write_file
from care_mm.benchmark.device_operators import ablations, ncnn_events
from care_mm.benchmark.operators import REST, Operators, grouped, profile
from care_mm.errors import InputError


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        ("deploy", "aten::convolution"),
        ("onnxruntime", "Conv"),
        ("openvino", "Convolution"),
        ("ncnn", "Convolution"),
        ("litert", "CONV_2D"),
    ],
)
def test_the_profile_counts_every_convolution(backend: str, kind: str) -> None:
    if backend != "deploy":
        require(RUNTIMES[backend].target)
    layers = [layer for _ in range(3) for layer in (torch.nn.Conv2d(3, 3, 3), torch.nn.Softmax(1))]
    model = torch.nn.Sequential(*layers).eval()
    kinds = profile(model, torch.rand(1, 3, 64, 96), Setting(backend), runs=2)
    assert {o.kind.split()[0]: o.number for o in kinds}[kind] == 3
    assert sum(o.number for o in grouped(kinds)) == sum(o.number for o in kinds)
    assert {o.kind: o.number for o in grouped(kinds)}["convolutions"] >= 3
    assert [o.ms for o in kinds] == sorted((o.ms for o in kinds), reverse=True)


def test_the_profiler_of_a_compiled_model_is_refused() -> None:
    with pytest.raises(InputError, match="backend compile: eager, deploy, onnxruntime"):
        profile(torch.nn.Identity(), torch.rand(1, 3, 64, 64), Setting("compile"), runs=1)


def test_operators_of_all_runtimes_are_grouped() -> None:
    kinds = {
        "Convolution": "convolutions",
        "DEPTHWISE_CONV_2D": "convolutions",
        "FULLY_CONNECTED": "convolutions",
        "GELU": "activations",
        "GELU (attention)": "attention",
        "ELU": "products of attention",
        "BATCH_MATMUL": "products of attention",
        "BinaryOp": "sums and products",
        "TRANSPOSE": REST,
    }
    for kind, expected in kinds.items():
        (group,) = [o.kind for o in grouped([Operators(kind, 1, 1.0)]) if o.number]
        assert group == expected, kind


class Attention(torch.nn.Module):
    """A convolution, linear attention without its normaliser, and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.before(x)
        q = torch.nn.functional.elu(values).flatten(2)
        product = q @ q.transpose(1, 2) @ values.flatten(2)
        return self.after(product.reshape(values.shape))


def test_layers_of_attention_are_told_apart_in_ncnn(tmp_path: Path) -> None:
    require(RUNTIMES["ncnn"].target)
    images, setting = torch.rand(1, 3, 2, 2), Setting("ncnn", threads=1)
    write_file(Attention().eval(), images, setting, tmp_path / "x.param")
    kinds = [kind for kind, _ in ncnn_events(tmp_path / "x.param", images, setting, runs=1)]
    assert {"ELU (attention)", "MatMul (attention)", "Convolution"} <= set(kinds)
    assert "Convolution (attention)" not in kinds


def test_ablations_of_a_litert_file_run_and_end_with_the_whole(tmp_path: Path) -> None:
    require(RUNTIMES["litert"].target)
    from ai_edge_litert.interpreter import Interpreter

    images, setting = torch.rand(1, 3, 6, 8), Setting("litert", threads=1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(), torch.nn.Conv2d(4, 4, 1), torch.nn.Softmax(1)
    ).eval()
    write_file(model, images, setting, tmp_path / "x.tflite")
    steps = ablations((tmp_path / "x.tflite").read_bytes())
    assert steps[0][:2] == ("CONV_2D", 2)
    for _, _, content in steps:
        interpreter = Interpreter(model_content=content)
        interpreter.allocate_tensors()
        interpreter.invoke()
    (entry,) = interpreter.get_input_details()
    interpreter.set_tensor(entry["index"], images.numpy())
    interpreter.invoke()
    (output,) = interpreter.get_output_details()
    actual, expected = interpreter.get_tensor(output["index"]), model(images).detach().numpy()
    np.testing.assert_allclose(actual, expected, atol=1e-5)
