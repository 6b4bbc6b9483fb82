"""The profile counts every operator of a run."""

from __future__ import annotations

import pytest
import torch

from care_mm.benchmark.backends import Setting
from care_mm.benchmark.operators import profile
from care_mm.errors import InputError


@pytest.mark.parametrize(
    ("backend", "kind"),
    [("deploy", "aten::convolution"), ("onnxruntime", "Conv"), ("openvino", "Convolution")],
)
def test_the_profile_counts_every_convolution(backend: str, kind: str) -> None:
    if backend != "deploy":
        pytest.importorskip("onnxruntime")
    layers = [layer for _ in range(3) for layer in (torch.nn.Conv2d(3, 3, 3), torch.nn.Softmax(1))]
    model = torch.nn.Sequential(*layers).eval()
    kinds = profile(model, torch.rand(1, 3, 64, 96), Setting(backend), runs=2)
    assert {o.kind.split()[0]: o.number for o in kinds}[kind] == 3
    assert [o.ms for o in kinds] == sorted((o.ms for o in kinds), reverse=True)


def test_the_profiler_of_a_compiled_model_is_refused() -> None:
    with pytest.raises(InputError, match="backend compile: eager, deploy, onnxruntime, openvino"):
        profile(torch.nn.Identity(), torch.rand(1, 3, 64, 64), Setting("compile"), runs=1)
