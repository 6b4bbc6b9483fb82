"""ncnn's files equal torch, stand in for checkpoints, and are refused when they are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tool
import torch
from export.conftest import MakeFile, MakeJob
from export.test_stand_in import both
from torch import nn

from care_mm.errors import InputError
from care_mm.export.compare import relative_difference
from care_mm.export.graphs import graph_of_module
from care_mm.export.runtimes import TARGETS
from care_mm.export.stand_in import open_program

pytest.importorskip("ncnn")
pytest.importorskip("pnnx")

CLASSIFIER = ("classifier", "c.param", "--shape", 64, 64)
PYRAMID = ("detector", "b.param", "--what", "backbone", "--shape", 64, 96, "--precision", "fp16")
ATTENTION = {"ELU", "MatMul", "Reduction"}


def layers_of(file: Path) -> list[list[str]]:
    """Return the fields of each layer of a ``.param`` file."""
    return [line.split() for line in file.read_text().splitlines()[2:-1]]


def test_a_classifier_has_the_same_scores(
    job: MakeJob, exported: MakeFile, image_file: Path
) -> None:
    expected, actual = both(job("classifier"), exported(*CLASSIFIER), image_file)
    torch.testing.assert_close(actual.pred_score, expected.pred_score, rtol=1e-4, atol=1e-6)
    assert float(expected.pred_score.max()) < 0.99, "saturated: nothing was compared"


def test_infer_accepts_the_file(
    job: MakeJob, exported: MakeFile, image_file: Path, tmp_path: Path
) -> None:
    config, _ = job("classifier")
    tool.call("infer", config, exported(*CLASSIFIER), image_file, "--out-dir", tmp_path / "out")
    assert any((tmp_path / "out").rglob("*.png"))


def test_a_segmentor_equals_onnx(exported: MakeFile) -> None:
    images = torch.rand(1, 3, 96, 64)
    expected = open_program(exported("segmentor", "s.onnx"))(images)["logits"]
    actual = open_program(exported("segmentor", "s.param", "--shape", 96, 64))(images)["logits"]
    assert actual.shape == expected.shape
    assert relative_difference(actual, expected) <= 1e-4


def test_a_half_precision_pyramid_is_half_as_large(exported: MakeFile) -> None:
    file = exported(*PYRAMID)
    images = torch.rand(2, 3, 64, 96)
    expected = open_program(exported("detector", "b.onnx", "--what", "backbone"))(images)
    actual = open_program(file)(images)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert 1e-6 < relative_difference(actual[name], values) <= 0.02
    weights = sum(
        2 * int(field[2:])
        for layer in layers_of(file)
        for field in layer
        if field.startswith("6=") and layer[0].startswith("Convolution")
    )
    assert weights <= file.with_suffix(".bin").stat().st_size <= 1.1 * weights


def test_attention_computes_in_float32_on_every_cpu(exported: MakeFile) -> None:
    kinds = {layer[0] for layer in layers_of(exported(*PYRAMID)) if "31=7" in layer}
    others = {layer[0] for layer in layers_of(exported(*PYRAMID)) if "31=7" not in layer}
    assert kinds >= ATTENTION and not ATTENTION & others
    assert not any(kind.startswith("Convolution") for kind in kinds)


class Twins(nn.Module):
    """Two branches that are the same layers of the same input, as in mmdet's RTMDet-Ins."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.ModuleList([nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())])
        self.first, self.second = nn.ModuleList([layers]), nn.ModuleList([layers])
        self.ends = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(2))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        branches = self.first[0][0], self.second[0][0]
        return tuple(end(branch(x)) for branch, end in zip(branches, self.ends, strict=True))


def test_layers_with_two_names_are_computed_once(tmp_path: Path) -> None:
    model, images = Twins().eval().requires_grad_(False), torch.rand(1, 3, 64, 96)
    TARGETS["ncnn"].write(graph_of_module(model, images), tmp_path / "x.param", shape=(64, 96))
    kinds = [layer[0] for layer in layers_of(tmp_path / "x.param")]
    assert kinds.count("Convolution") == 3
    outputs = TARGETS["ncnn"].open(tmp_path / "x.param").run(images.numpy())
    for actual, expected in zip(outputs, model(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-5)
    assert model.first[0] is model.second[0], "the model itself was changed"


class Tokens(nn.Module):
    """A linear layer of tokens, and a norm of pooled ones, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 8), nn.LayerNorm(8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x, self.norm(pooled.permute(0, 2, 3, 1)).flatten(1)


def test_reshapes_around_linear_layers_have_fixed_shapes(tmp_path: Path) -> None:
    """ncnn takes very long for reshapes that compute their shape."""
    model, images = Tokens().eval().requires_grad_(False), torch.rand(1, 3, 32, 48)
    TARGETS["ncnn"].write(graph_of_module(model, images), tmp_path / "x.param", shape=(32, 48))
    reshapes = [layer for layer in layers_of(tmp_path / "x.param") if "linear" in layer[1]]
    assert reshapes and not any(field.startswith("6=") for layer in reshapes for field in layer)
    outputs = TARGETS["ncnn"].open(tmp_path / "x.param").run(images.numpy())
    for actual, expected in zip(outputs, model(images), strict=True):
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=1e-4, atol=1e-5)


def test_the_networks_of_a_two_stage_detector_are_refused(
    job: MakeJob, tmp_path: Path, capsys
) -> None:
    options = ("--format", "ncnn", "--out", tmp_path / "x.param", "--shape", 64, 96)
    line = tool.refusal(capsys, "export", *job("detector"), *options)
    assert "a file holds one network" in line and not list(tmp_path.iterdir())


class WithoutLayer(nn.Module):
    """A module with an operator that ncnn lacks."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1)


def test_operators_that_ncnn_lacks_are_named(tmp_path: Path) -> None:
    graph = graph_of_module(WithoutLayer(), torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match=r"ncnn has no .*argmax"):
        TARGETS["ncnn"].write(graph, tmp_path / "x.param", shape=(8, 8))


@pytest.mark.parametrize("damage", ["missing weights", "short weights", "short file", "a hole"])
def test_damaged_files_are_refused(exported: MakeFile, tmp_path: Path, damage: str) -> None:
    source = exported(*CLASSIFIER)
    text, weights = source.read_text(), source.with_suffix(".bin").read_bytes()
    lines = text.splitlines()
    if damage == "short file":
        text = "\n".join(lines[:40])
    if damage == "a hole":
        text = "\n".join([*lines[:20], *lines[30:]])
    file = tmp_path / "x.param"
    file.write_text(text)
    if damage != "missing weights":
        file.with_suffix(".bin").write_bytes(weights[: -4 if damage == "short weights" else None])
    with pytest.raises(InputError, match=str(tmp_path / "x")) as caught:
        TARGETS["ncnn"].open(file)
    assert "\n" not in str(caught.value)


def test_outputs_outlive_the_next_call(exported: MakeFile) -> None:
    program = open_program(exported(*CLASSIFIER))
    images = np.random.default_rng(0).random((2, 1, 3, 64, 64), dtype=np.float32)
    (first,) = program.run(images[0])
    kept = first.copy()
    program.run(images[1])
    np.testing.assert_array_equal(first, kept)
