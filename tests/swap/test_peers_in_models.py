"""Each peer in Mask R-CNN and Semantic FPN: it trains one step, and predicts.

``CARE_MM_WRITE_DOCS=1 python -m pytest tests/swap/test_peers_in_models.py`` writes the table of
docs/compatibility.md; without the variable, the tests compare the page with their results.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from swap.compatibility_page import Page
from swap.families import batch_for, build_model, predict, train_step

from care_mm.swap import read, swap_backbone, swap_text
from care_mm.swap.choices import CARE, NAMES, SIZES, choose

CONFIGS = Path(__file__).parents[2] / "configs"
MODELS = {
    "Mask R-CNN": "maskrcnn_care_s0_coco.py",
    "Semantic FPN": "semfpn_care_s0_ade20k.py",
}
SMALLEST = {name: SIZES[name][0] for name in NAMES if name != CARE}
SMALLEST["mobilenetv2"] = "100"
HEADER = ("--backbone", "--arch", "class", "widths", "models")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """Silence initialisation, which logs a line for every parameter."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    page = Page({"peers": HEADER})
    yield page
    page.write()


@pytest.mark.parametrize("backbone", SMALLEST)
def test_a_peer_trains_a_step_and_predicts(backbone: str, page: Page, tmp_path: Path) -> None:
    for config in MODELS.values():
        torch.manual_seed(0)
        source = read(str(CONFIGS / config))
        swap = swap_backbone(source.config, SMALLEST[backbone], backbone=backbone)
        out = tmp_path / config
        out.write_text(swap_text(swap, source, out), encoding="utf-8")
        written = Config.fromfile(out)
        assert written.to_dict() == swap.config.to_dict()
        assert "care_mm.peers" in written.custom_imports.imports

        model = build_model(written, {})
        assert model.backbone.out_channels == tuple(written.model.neck.in_channels)
        batch = batch_for(written, square=False)
        losses = train_step(model, batch)
        assert all(math.isfinite(loss) for loss in losses.values()), losses
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert [name for name, grad in gradients.items() if grad is None] == []
        assert [name for name, grad in gradients.items() if not grad.isfinite().all()] == []
        sample = predict(model, batch)
        assert any(key.startswith("pred_") for key in sample.keys())  # noqa: SIM118, no dict

    kind = swap.choice.config["type"]
    widths = ", ".join(str(m.channels) for m in swap.new_maps)
    page.add("peers", backbone, ", ".join(SIZES[backbone]), kind, widths, ", ".join(MODELS))


def test_the_sizes_of_timm_exist() -> None:
    for name in ("mobilenetv2", "efficientformer", "efficientformerv2", "swin", "convnext"):
        for size in SIZES[name]:
            assert [m.stride for m in choose(name, size).maps((0, 1, 2, 3))] == [4, 8, 16, 32]
