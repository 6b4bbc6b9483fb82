"""The size of a classifier is detected by its shapes, and incomplete weights are refused."""

from __future__ import annotations

import golden
import pytest
import torch

from care_mm.checkpoint.names import convert_official
from care_mm.convert import detect_arch
from care_mm.errors import InputError


@pytest.mark.parametrize("num_classes", [1000, 7])
@pytest.mark.parametrize("arch", golden.ARCHS)
def test_size_is_detected_under_both_names(arch: str, num_classes: int) -> None:
    official = dict(golden.single(arch))
    for head in ("head", "dist_head"):
        for leaf in ("weight", "bias"):
            official[f"{head}.fc.{leaf}"] = official[f"{head}.fc.{leaf}"][:num_classes]
    before = torch.get_rng_state()
    assert detect_arch(official) == arch
    assert detect_arch(convert_official(official)) == arch
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (
            {"stem.0.bias": None},
            r"s1 is the closest\): 1 tensors missing .*'backbone.stem.conv.bias'",
        ),
        ({"dist_head.fc.weight": None}, "missing .*'head.distill.fc.weight'"),
        ({"head.fc.bias": torch.ones(7)}, "another shape .*'head.label.fc.weight'"),
        ({"stages.1.blocks.9.gamma": torch.ones(64)}, "left over .*'backbone.stages.1.blocks.9.ga"),
        ({"stem.1.running_var": torch.ones(31)}, "another shape .*'backbone.stem.norm.running_var"),
        ({"stem.1.bias": torch.ones(32).int()}, "shape or kind .*'backbone.stem.norm.bias'"),
        ({"extra.weight": torch.ones(1)}, "key 'extra.weight' is not one of the authors'"),
    ],
)
def test_incomplete_or_changed_weights_have_no_size(changes: dict, match: str) -> None:
    state = {k: v for k, v in (golden.single("s1") | changes).items() if v is not None}
    with pytest.raises(InputError, match=match):
        detect_arch(state)
