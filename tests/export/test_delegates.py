"""ExecuTorch files: the parts that XNNPACK runs, and the exact forms that keep them few."""

from __future__ import annotations

import re
from pathlib import Path

import golden
import pytest
import torch
from export import one_stage_models
from export.conftest import MakeJob
from torch import Tensor, nn

from care_mm.config import load_config
from care_mm.export.graphs import Graph, graph_of, graph_of_module
from care_mm.export.runtimes import TARGETS
from care_mm.export.xnnpack_decompositions import DECOMPOSITIONS
from care_mm.models.backbone import CARETransformer
from care_mm.models.fold import switch_to_deploy
from care_mm.predict.predictor import Predictor

pytest.importorskip("executorch")
SHAPE = (64, 96)


def delegates(graph: Graph, folder: Path) -> tuple[int, int]:
    """Return how many parts of a graph XNNPACK runs, and how many operators it does not."""
    lines = TARGETS["executorch"].write(graph, folder / "x.pte", shape=SHAPE)
    (line,) = lines
    numbers = re.search(r"(\d+) XNNPACK delegates, (\d+) other operators", line)
    return int(numbers[1]), int(numbers[2])


def test_the_pyramid_is_one_part_and_equals_torch(tmp_path: Path) -> None:
    model = CARETransformer(dict(base="s0", depths=(1, 1, 1, 1)))
    for key, value in model.state_dict().items():
        value.copy_(torch.as_tensor(golden.draw(key, value.shape)))
    model = switch_to_deploy(model).requires_grad_(False)
    images = torch.rand(1, 3, *SHAPE)
    assert delegates(graph_of_module(model, images), tmp_path) == (1, 0)
    outputs = TARGETS["executorch"].open(tmp_path / "x.pte").run(images.numpy())
    for actual, expected in zip(outputs, model(images), strict=True):
        scale = float(expected.abs().max())
        torch.testing.assert_close(torch.from_numpy(actual), expected, rtol=0, atol=1e-5 * scale)


def test_the_classifier_has_two_parts_at_most(job: MakeJob, tmp_path: Path) -> None:
    config, checkpoint = job("classifier")
    model = switch_to_deploy(Predictor(load_config(config), checkpoint, "cpu").model)
    parts, _ = delegates(graph_of(model), tmp_path)
    assert parts <= 2  # the layer norm of the head is between them


def test_neck_and_head_of_a_light_detector_are_one_part(tmp_path: Path) -> None:
    _, model = one_stage_models.build("RTMDet-Ins")
    assert delegates(graph_of(model), tmp_path)[0] == 1


class Operators(nn.Module):
    """Every operator with a decomposition, in each case that it covers and one that it does not."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """(2, 6, 4, 5) -> one tensor for each case."""
        tokens = x.flatten(2)
        return (
            *x.split((1, 5), dim=1),
            *x.split(4, dim=-3),
            *x.chunk(4, dim=1),
            tokens @ tokens.transpose(1, 2),
            x @ x.transpose(-1, -2),
            x @ tokens.new_ones(5, 3),
            nn.functional.elu(x),
            nn.functional.elu(x, alpha=0.5),
            x.sum(-1),
            x.sum(3, keepdim=True),
            x.sum((2, 3)),
            nn.functional.interpolate(x, scale_factor=2),
            nn.functional.interpolate(x, size=(4, 15)),
            nn.functional.interpolate(x, size=(6, 5)),
            x / 3,
            x / 0.7,
            x.to(torch.float32),
            x.to(torch.float64),
        )


def test_decompositions_are_exact() -> None:
    x = torch.randn(2, 6, 4, 5)
    program = torch.export.export(Operators(), (x,), strict=False)
    decomposed = program.run_decompositions(DECOMPOSITIONS)
    left = [str(node.target) for node in decomposed.graph.nodes if node.op == "call_function"]
    for name in ("elu.default", "sum.dim_IntList", "upsample_nearest2d.vec"):
        assert left.count(f"aten.{name}") == 1
    assert not any("split" in name or "chunk" in name for name in left)
    for actual, expected in zip(decomposed.module()(x), Operators()(x), strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)
