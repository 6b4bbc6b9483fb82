"""CARE in timm gives the same numbers as our backbone and classifier."""

from __future__ import annotations

from pathlib import Path

import golden
import pytest
import timm
import torch
from timm.models import group_parameters
from timm.optim import create_optimizer_v2

import care_mm.timm_models  # noqa: F401
from care_mm import CARETransformer
from care_mm.checkpoint.names import convert_official
from care_mm.errors import InputError

ARCHS = ("s0", "s1", "s2")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the authors' weights under the expected name, and ours next to them."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "checkpoints").mkdir()
    weights = golden.single("s0")
    torch.save({"state_dict": weights}, folder / "checkpoints" / "care_s0_in1k.pth")
    torch.save(convert_official(weights), folder / "ours.pth")
    return folder


@pytest.fixture
def in_folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(files)
    return files


@pytest.mark.parametrize("arch", ARCHS)
def test_logits_of_both_heads_are_the_authors(arch: str) -> None:
    model = timm.create_model(f"care_{arch}").double().eval()
    model.load_state_dict(convert_official(golden.state_dict(arch)))
    with torch.no_grad():
        logits = model(golden.inputs())
    assert golden.relative_error(logits, golden.arrays(arch)["logits"]) < 1e-6
    model.train().set_distilled_training()
    with torch.no_grad():
        outputs = dict(zip(("train_head", "train_dist_head"), model(golden.inputs()), strict=True))
    for name, output in outputs.items():
        assert golden.relative_error(output, golden.arrays(arch)[name]) < 1e-6, name


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, -2), (0,), 2])
def test_features_are_those_of_the_backbone(in_folder: Path, out_indices: object) -> None:
    model = timm.create_model(
        "care_s0", pretrained=True, features_only=True, out_indices=out_indices
    ).eval()
    stages = (2, 3) if out_indices == 2 else sorted(i % 4 for i in out_indices)
    init = dict(type="Pretrained", checkpoint="checkpoints/care_s0_in1k.pth")
    backbone = CARETransformer("s0", out_indices=stages, init_cfg=init).eval()
    backbone.init_weights()
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features, reference = model(x), backbone(x)
    for feature, expected in zip(features, reference, strict=True):
        assert torch.equal(feature, expected)
    assert tuple(model.feature_info.channels()) == backbone.out_channels
    assert tuple(model.feature_info.reduction()) == backbone.out_strides
    assert sum(p.numel() for p in model.parameters()) == sum(
        p.numel() for p in backbone.parameters()
    ), "stages or heads that nobody reads"


def test_every_parameter_of_features_learns() -> None:
    model = timm.create_model("care_s0", features_only=True, out_indices=(0, 1)).train()
    sum(feature.square().mean() for feature in model(torch.randn(2, 3, 64, 64))).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_timm_reads_the_registry_and_the_way_to_evaluate() -> None:
    assert timm.list_models("care_*") == [f"care_{arch}" for arch in ARCHS]
    data = timm.data.resolve_data_config(model=timm.create_model("care_s0"))
    assert data["input_size"] == (3, 224, 224)
    assert (data["crop_pct"], data["interpolation"]) == (0.875, "bicubic")
    assert data["mean"] == (0.485, 0.456, 0.406) and data["std"] == (0.229, 0.224, 0.225)


def test_the_parts_of_the_forward_pass_agree_with_it() -> None:
    model = timm.create_model("care_s0").eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(x)
        assert features.shape == (1, model.num_features, 2, 2)
        assert torch.equal(model.forward_head(features), model(x))
        pooled = model.forward_head(features, pre_logits=True)
        assert pooled.shape == (1, model.head_hidden_size)
        last, both = model.forward_intermediates(x, indices=[0, 3])
        assert torch.equal(last, features) and torch.equal(both[1], features)
        model.reset_classifier(0)
        assert torch.equal(model(x), pooled)
        assert isinstance(model.get_classifier(), torch.nn.Identity)
        model.reset_classifier(5)
        assert model(x).shape == (1, 5)
    assert [layer.out_features for layer in model.get_classifier()] == [5, 5]
    unpooled = timm.create_model("care_s0", num_classes=0, global_pool="")
    assert unpooled(x).shape == features.shape
    with pytest.raises(ValueError, match="global_pool='max'"):
        timm.create_model("care_s0", global_pool="max")


def test_checkpointing_gives_the_same_gradients() -> None:
    model = timm.create_model("care_s0", num_classes=4).train()
    x = torch.randn(2, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second)


def test_layers_have_learning_rates_by_depth() -> None:
    model = timm.create_model("care_s0")
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    depth = {name: groups[name] for name, _ in model.named_parameters()}
    assert depth["backbone.stem.conv.weight"] == 0
    blocks = [depth[f"backbone.stages.{i}.blocks.0.inter1.fc1.weight"] for i in range(4)]
    assert blocks == sorted(set(blocks)) and blocks[0] > 0
    assert depth["head.label.fc.weight"] > max(blocks)
    create_optimizer_v2(model, opt="adamw", lr=1e-3, layer_decay=0.7)


# Weights


def test_all_ways_to_weights_agree(in_folder: Path) -> None:
    own = dict(file="ours.pth", custom_load=True)
    models = [
        timm.create_model("care_s0", pretrained=True),
        timm.create_model("care_s0", pretrained=True, pretrained_cfg_overlay=own),
        timm.create_model("care_s0", pretrained=True, pretrained_cfg_overlay={"file": "ours.pth"}),
        timm.create_model("care_s0", checkpoint_path="ours.pth"),
    ]
    first, *others = (model.state_dict() for model in models)
    assert all(torch.equal(first[key], other[key]) for other in others for key in first)
    assert set(first) == set(convert_official(golden.shapes("s0")))


def test_other_heads_and_inputs_than_those_of_the_file(in_folder: Path) -> None:
    reference = convert_official(golden.single("s0"))
    stem, label = "backbone.stem.conv.weight", "head.label.norm.weight"
    model = timm.create_model("care_s0", pretrained=True, num_classes=7, in_chans=1).eval()
    assert model(torch.randn(1, 1, 32, 32)).shape == (1, 7)
    torch.testing.assert_close(model.state_dict()[stem], reference[stem].sum(1, keepdim=True))
    assert torch.equal(model.state_dict()[label], reference[label])
    headless = timm.create_model("care_s0", pretrained=True, num_classes=0).eval()
    assert headless(torch.randn(1, 3, 32, 32)).shape == (1, 1024)


def test_files_that_do_not_fit_are_refused(in_folder: Path) -> None:
    wrong = dict(file="checkpoints/care_s0_in1k.pth", custom_load=True)
    with pytest.raises(InputError, match=r"care_s0_in1k\.pth does not fit this model: \d+ tensors"):
        timm.create_model("care_s1", pretrained=True, pretrained_cfg_overlay=wrong)
    with pytest.raises(InputError, match=r"checkpoints/care_s1_in1k\.pth"):
        timm.create_model("care_s1", pretrained=True)
