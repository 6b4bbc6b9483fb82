"""The table of published figures counts the models that we build."""

from __future__ import annotations

import pytest
import timm
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

import care_mm.peers  # noqa: F401
from care_mm.peers.published import PUBLISHED
from care_mm.peers.systems import PEERS, TIMM_MODELS, classifier_config

ROWS = [(name, size) for name, sizes in PUBLISHED.items() for size in sizes]


def classifier(name: str, size: str) -> torch.nn.Module:
    """Build the ImageNet classifier of a row, with all its heads."""
    if name in TIMM_MODELS:
        return timm.create_model(TIMM_MODELS[name][size])
    init_default_scope("mmpretrain")
    return MODELS.build(classifier_config(name, size))


@pytest.mark.parametrize(("name", "size"), ROWS)
def test_parameters_and_multiply_adds_are_the_published_ones(name: str, size: str) -> None:
    figures = PUBLISHED[name][size]
    with torch.device("meta"):
        model = classifier(name, size).eval()
        image = torch.zeros(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(image)
    assert sum(p.numel() for p in model.parameters()) == figures.parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(figures.gmacs, abs=5e-5)


def test_every_peer_and_every_size_is_in_the_table() -> None:
    assert {name: set(cls.archs) for name, (cls, _) in PEERS.items()} == {
        name: set(PUBLISHED[name]) for name in PEERS
    }
    assert set(PUBLISHED) == {*PEERS, *TIMM_MODELS}
