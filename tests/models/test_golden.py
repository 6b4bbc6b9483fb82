"""The model equals the authors': outputs, gradients, parameters and multiply-adds.

The classifier is built from its config, and ``tools/convert_checkpoint.py`` converts the weights
from a file in the authors' form.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import golden
import pytest
import tool
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS

from care_mm.checkpoint.matching import load_model
from care_mm.checkpoint.names import convert_official, is_official
from care_mm.complexity import count
from care_mm.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"
TOLERANCE = 1e-6
# Parameters without and with both heads; GMACs at 224 x 224 as fvcore's counter, which mmengine
# carries, has them: convolutions, linear layers, attention products, and two per norm element.
PUBLISHED = {
    "s0": (5_285_904, 7_340_000, 0.7206),
    "s1": (7_548_328, 9_602_424, 1.0324),
    "s2": (16_401_144, 19_481_288, 1.9275),
}


def classifier(arch: str) -> torch.nn.Module:
    """Build the model of ``configs/care_*_imagenet.py`` with all four stages and no drop path."""
    config = load_config(
        CONFIGS / f"care_{arch}_imagenet.py", {"model.backbone.drop_path_rate": 0.0}
    )
    init_default_scope("mmpretrain")
    config.model.backbone.out_indices = (0, 1, 2, 3)
    return MODELS.build(config.model)


@pytest.fixture(scope="module", params=golden.ARCHS)
def case(request, tmp_path_factory):
    folder, arch = tmp_path_factory.mktemp("weights"), request.param
    official, ours = folder / "care.pth.tar", folder / "care.pth"
    content = {"state_dict": golden.state_dict(arch), "epoch": 299, "args": Namespace(lr=2.5e-3)}
    torch.save(content, official)
    tool.call("convert_checkpoint", official, ours, "--arch", arch)
    model = classifier(arch).double()
    assert load_model(model, ours)["arch"] == arch
    return arch, model, golden.arrays(arch), ours


def test_evaluation_outputs(case) -> None:
    _, model, reference, _ = case
    model.eval()
    with torch.no_grad():
        x = golden.inputs()
        outputs = {"stem": model.backbone.stem(x)}
        outputs |= {f"stage{i}": out for i, out in enumerate(model.backbone(x))}
        outputs["head"], outputs["dist_head"] = model.head.branches(model.extract_feat(x))
        outputs["logits"] = model(x, mode="tensor")
    for name, output in outputs.items():
        assert output.shape == reference[name].shape, name
        assert golden.relative_error(output, reference[name]) <= TOLERANCE, name


def test_training_outputs_and_gradients(case) -> None:
    arch, model, reference, weights = case
    load_model(model, weights)  # another test may have moved the statistics
    model.train()
    x = golden.inputs().requires_grad_()
    label, distill = model.head.branches(model.extract_feat(x))
    loss = label.square().mean() + distill.square().mean()
    model.zero_grad()
    loss.backward()
    outputs = {"train_head": label, "train_dist_head": distill, "train_loss": loss}
    outputs["grad_input"] = x.grad
    for name, output in outputs.items():
        error = golden.relative_error(output.detach().reshape(-1), reference[name].reshape(-1))
        assert error <= TOLERANCE, name

    official = golden.gradient_norms(arch)
    ours = convert_official({key: torch.tensor(norm) for key, norm in official.items()})
    parameters = dict(model.named_parameters())
    assert set(ours) == set(parameters)
    for key, norm in ours.items():
        gradient = float(parameters[key].grad.norm())
        assert gradient == pytest.approx(float(norm), rel=1e-6, abs=1e-9), key


def test_parameters_and_multiply_adds(case) -> None:
    arch, model, *_ = case
    backbone, total, gmacs = PUBLISHED[arch]
    assert sum(p.numel() for p in model.backbone.parameters()) == backbone
    assert sum(p.numel() for p in model.parameters()) == total
    macs = count(classifier(arch).eval(), (224, 224)).sum().macs
    assert macs / 1e9 == pytest.approx(gmacs, abs=5e-5)


@pytest.mark.parametrize("arch", golden.ARCHS)
def test_name_table_covers_the_authors_keys(arch: str) -> None:
    official = golden.state_dict(arch)
    assert is_official(official)
    converted = convert_official(official)
    assert len(converted) == len(official)
    model = classifier(arch)
    assert {k: tuple(v.shape) for k, v in model.state_dict().items()} == {
        k: tuple(v.shape) for k, v in converted.items()
    }
