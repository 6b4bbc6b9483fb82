"""MLLA, FLatten and SLAB equal the authors' models: outputs, gradients, parameters, products."""

from __future__ import annotations

import pytest
import torch
from peers.linear_golden import PEERS, figures, image, load, quarter_way
from torch.utils.flop_counter import FlopCounterMode

TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=PEERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("is_large", [False, True], ids=["small", "large"])
@torch.no_grad()
def test_outputs_of_every_stage_are_the_authors(name: str, is_large: bool) -> None:
    """The large input has several windows; shifts and orders of pixels only show in it."""
    peer, reference = PEERS[name], figures(name)
    img_size, x = (224, image(8, 1, 3, 224, 224)) if is_large else (64, image(7, 2, 3, *peer.size))
    model = load(peer.classifier(img_size=img_size).double(), name, img_size).eval()
    maps = model.backbone(x)
    outputs = {f"stage{i}": out for i, out in enumerate(maps)}
    outputs |= {"stem": model.backbone.stem(x), "logits": model.head(maps)}
    if "norm" in reference.values:
        outputs["norm"] = model.head.normalise(maps[-1])
    suffix = "_b" if is_large else ""
    assert {key for key in reference.values if key.endswith("_b") is is_large} - set(
        f"{key}{suffix}" for key in outputs
    ) <= {"train_logits", "train_loss", "grad_input"}
    for key, output in outputs.items():
        assert reference.error(key + suffix, output) <= TOLERANCE, key


def test_training_outputs_and_gradients_are_the_authors(name: str) -> None:
    peer, reference = PEERS[name], figures(name)
    model = quarter_way(load(peer.classifier(img_size=64).double(), name, 64)).train()
    x = image(7, 2, 3, *peer.size).requires_grad_()
    logits = model.head(model.backbone(x))
    loss = logits.square().mean()
    loss.backward()
    outputs = {"train_logits": logits, "train_loss": loss, "grad_input": x.grad}
    for key, output in outputs.items():
        assert reference.error(key, output) <= TOLERANCE, key

    without = {key for key, norm in reference.norms.items() if norm is None}
    norms = model.backbone.convert_official(
        {
            key: torch.tensor(norm or 0.0, dtype=torch.float64)
            for key, norm in reference.norms.items()
        }
    )
    parameters = dict(model.named_parameters())
    assert set(norms) == set(parameters)
    assert [p for p in parameters.values() if p.grad is None] == [
        p for p in parameters.values() if not p.requires_grad
    ]
    assert sum(p.grad is None for p in parameters.values()) == len(without)
    for key, norm in norms.items():
        if parameters[key].grad is not None:
            gradient = float(parameters[key].grad.norm())
            assert gradient == pytest.approx(float(norm), rel=1e-6, abs=1e-9), key


def test_parameters_and_multiply_adds_are_the_authors(name: str) -> None:
    peer = PEERS[name]
    with torch.device("meta"):
        model = peer.classifier().eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(1, 3, 224, 224), mode="tensor")
    assert sum(p.numel() for p in model.backbone.parameters()) == peer.backbone_parameters
    assert sum(p.numel() for p in model.parameters()) == peer.parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(peer.gmacs, abs=5e-5)


@pytest.mark.parametrize(
    ("name", "arch", "parameters", "gmacs", "channels"),
    [
        ("mlla_t", "s", 43_015_048, 7.2486, 512),
        ("mlla_t", "b", 95_983_960, 16.1137, 768),
        ("flatten_pvt_t", "s", 21_670_248, 4.0299, 512),
        ("flatten_swin_t", "s", 50_510_288, 8.7336, 768),
        ("slab_swin_t", "s", 50_552_965, 8.7336, 768),
    ],
)
def test_larger_sizes_have_the_authors_parameters_and_multiply_adds(
    name: str, arch: str, parameters: int, gmacs: float, channels: int
) -> None:
    with torch.device("meta"):
        backbone = PEERS[name].backbone(arch, out_indices=(3,)).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            backbone(torch.zeros(1, 3, 224, 224))
        head = PEERS[name].classifier().head
    assert backbone.out_channels == (channels,)
    # The head grows with the width: 1000 classes, and two numbers a channel for a layer norm.
    per_channel = sum(p.numel() for p in head.parameters() if p.ndim == 1 and len(p) != 1000)
    scale = channels / PEERS[name].channels
    total = sum(p.numel() for p in backbone.parameters()) + 1000 * (channels + 1)
    assert total + (per_channel * scale) == pytest.approx(parameters, abs=2)
    assert (counter.get_total_flops() / 2 + 1000 * channels) / 1e9 == pytest.approx(gmacs, abs=5e-5)
