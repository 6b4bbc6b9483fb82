"""CARE in timm gives the same numbers as our backbone, and fulfils the demands of timm's tests.

timm's tests are in ``tests/test_models.py`` of its repository. They are invariants here.
"""

from __future__ import annotations

import copy
from pathlib import Path

import golden
import pytest
import timm
import torch
from timm.models import (
    create_feature_extractor,
    group_parameters,
    reparameterize_model,
    save_for_hf,
)
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torchvision.models import feature_extraction

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


# The demands of timm's own tests

SIZE = (2, 3, 64, 96)
STAGES = {f"backbone.stages.{stage}": str(stage) for stage in range(4)}


def small(**settings: object) -> torch.nn.Module:
    """Return CARE-S0 with five classes and layer scales at which every block counts."""
    torch.manual_seed(0)
    model = timm.create_model("care_s0", **{"num_classes": 5, **settings})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("gamma"):
                parameter.fill_(0.5)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def scripted() -> torch.jit.ScriptModule:
    with timm.set_scriptable(True):
        return torch.jit.script(small())


def assert_same(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape and expected.isfinite().all()
    assert golden.relative_error(actual.detach(), expected.detach()) < tolerance


def gradients(model: torch.nn.Module, x: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(x).square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("arch", ARCHS)
def test_the_default_settings_describe_the_model(arch: str) -> None:
    model = timm.create_model(f"care_{arch}").eval()
    cfg, state = model.default_cfg, model.state_dict()
    assert all(f"{name}.weight" in state for name in (*cfg["classifier"], cfg["first_conv"]))
    assert state[f"{cfg['classifier'][0]}.weight"].shape == (1000, model.head_hidden_size)
    with torch.no_grad():
        x = torch.randn(1, *cfg["input_size"])
        features = model.forward_features(x)
        assert features.shape == (1, model.num_features, *cfg["pool_size"])
        assert model.forward_head(features, pre_logits=True).shape == (1, model.head_hidden_size)
        smallest = model(torch.randn(1, *cfg["min_input_size"]))
        assert smallest.shape == (1, 1000) and smallest.isfinite().all()
        model.reset_classifier(0, "")
        assert model.num_classes == 0 and model(x).shape == features.shape
    height = cfg["min_input_size"][1] - 1
    with pytest.raises(ValueError, match="both sides need at least 32"):
        model(torch.randn(1, 3, height, 32))


def test_every_parameter_of_the_classifier_learns(images: torch.Tensor) -> None:
    model = small().train()
    learnt = gradients(model, images)
    assert set(learnt) == {name for name, _ in model.named_parameters()}
    assert all(gradient.isfinite().all() and gradient.any() for gradient in learnt.values())


def test_intermediates_are_the_features(images: torch.Tensor) -> None:
    model = small()
    with torch.no_grad():
        last, maps = model.forward_intermediates(images)
        assert torch.equal(last, model.forward_features(images)) and torch.equal(last, maps[-1])
        for x, info in zip(maps, model.feature_info, strict=True):
            assert x.shape == (
                2,
                info["num_chs"],
                *(side // info["reduction"] for side in SIZE[2:]),
            )
        two = model.forward_intermediates(images, indices=2, intermediates_only=True)
        assert [torch.equal(x, y) for x, y in zip(two, maps[2:], strict=True)] == [True, True]
        assert model.prune_intermediate_layers([1]) == [1]
        shorter = model.forward_intermediates(images, indices=[1], intermediates_only=True)
    assert len(shorter) == 1 and torch.equal(shorter[0], maps[1])
    with pytest.raises(ValueError, match="NHWC"):
        model.forward_intermediates(images, output_fmt="NHWC")


def test_a_script_equals_the_model_also_after_saving(
    scripted: torch.jit.ScriptModule, images: torch.Tensor, tmp_path: Path
) -> None:
    torch.jit.save(scripted, tmp_path / "care.pt")
    loaded = torch.jit.load(tmp_path / "care.pt")
    reference = small()
    other_size = torch.randn(1, 3, 96, 64)
    with torch.no_grad():
        assert_same(loaded(images), reference(images))
        assert_same(loaded(other_size), reference(other_size))


def test_a_script_is_part_of_a_larger_script(images: torch.Tensor) -> None:
    model = torch.nn.Sequential(small(), torch.nn.Softmax(dim=-1))
    with torch.no_grad():
        assert_same(torch.jit.script(model)(images), model(images))


def test_a_script_learns_what_the_model_learns(
    scripted: torch.jit.ScriptModule, images: torch.Tensor
) -> None:
    expected, actual = gradients(small(), images), gradients(scripted, images)
    assert set(actual) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_script_in_half_precision_computes_attention_in_float32(images: torch.Tensor) -> None:
    model = small().bfloat16()
    with torch.no_grad():
        assert torch.jit.script(model)(images.bfloat16()).isfinite().all()
        attention = model.backbone.stages[3].blocks[0].token_mixer.global_branch
        x = torch.randn(1, attention.qk.in_channels, 8, 8).bfloat16()
        assert torch.equal(torch.jit.script(attention)(x), attention(x))


def test_a_script_trains_with_drop_path(images: torch.Tensor) -> None:
    model = torch.jit.script(small(drop_path_rate=0.5).train())
    assert all(gradient.isfinite().all() for gradient in gradients(model, images).values())


def test_a_trace_equals_the_model_at_other_sizes(images: torch.Tensor) -> None:
    model = small()
    with torch.no_grad():
        traced = torch.jit.trace(model, torch.randn(1, 3, 64, 64))
        assert_same(traced(images), model(images))


@pytest.mark.parametrize("training", [False, True])
def test_a_graph_of_torch_fx_equals_the_model(training: bool, images: torch.Tensor) -> None:
    model = small().train(training)
    graph = torch.fx.symbolic_trace(copy.deepcopy(model))
    expected, actual = gradients(model, images), gradients(graph, images)
    assert set(actual) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)
    assert_same(graph(images), model(images))


def test_a_graph_of_torch_fx_is_scripted(images: torch.Tensor) -> None:
    model = small()
    graph = torch.fx.symbolic_trace(model)
    with torch.no_grad():
        assert_same(torch.jit.script(graph)(images), model(images))


@pytest.mark.parametrize(
    "extractor",
    [create_feature_extractor, feature_extraction.create_feature_extractor],
    ids=["timm", "torchvision"],
)
def test_nodes_of_the_graph_are_the_features(extractor: object, images: torch.Tensor) -> None:
    model = small()
    model.backbone.channels_last_on_cpu = False  # as in the graph, for equal roundings
    maps = extractor(model, STAGES)(images)
    reference = model.forward_intermediates(images, intermediates_only=True)
    for stage, expected in enumerate(reference):
        assert torch.equal(maps[str(stage)], expected)
    sum(x.square().mean() for x in maps.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.backbone.parameters())
    training, evaluation = feature_extraction.get_graph_node_names(model)
    assert training == evaluation and set(STAGES) <= {".".join(n.split(".")[:3]) for n in training}


def test_features_by_torch_fx_are_those_of_the_getter(images: torch.Tensor) -> None:
    getter, graph = (
        small(features_only=True, out_indices=(1, 3), **settings)
        for settings in ({}, {"feature_cls": "fx"})
    )
    assert graph.feature_info.channels() == getter.feature_info.channels()
    with torch.no_grad():
        for actual, expected in zip(graph(images), getter(images), strict=True):
            assert_same(actual, expected)


def test_reparameterising_folds_every_norm_of_the_backbone(images: torch.Tensor) -> None:
    model = small().train()
    with torch.no_grad():
        model(images)  # statistics that are not those of a new model
    folded = reparameterize_model(model.eval())
    norms = [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert not norms and any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
    with torch.no_grad():
        assert_same(folded(images), model(images), 1e-4)
        assert_same(torch.jit.script(folded)(images), folded(images))
        assert_same(torch.fx.symbolic_trace(folded)(images), folded(images))


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "pickle"])
def test_a_folder_for_the_hub_gives_the_model_back(
    safe: bool, images: torch.Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    pytest.importorskip("safetensors")
    model = small()
    save_for_hf(model, str(tmp_path), safe_serialization=safe)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert loaded.num_classes == 5
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_finite_and_close(dtype: torch.dtype) -> None:
    try:
        torch.nn.Conv2d(1, 1, 1).to(dtype)(torch.ones(1, 1, 1, 1, dtype=dtype))
    except RuntimeError as error:
        pytest.skip(f"this torch has no {dtype} on the CPU: {error}")
    model = small()
    x = torch.randn(1, 3, 512, 512)
    with torch.no_grad():
        expected, actual = model(x), copy.deepcopy(model).to(dtype)(x.to(dtype))
    assert actual.dtype == dtype
    assert_same(actual.float(), expected, 0.1)


def test_the_compiler_makes_one_graph_for_all_sizes(images: torch.Tensor) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    model = small()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for x in (images, torch.randn(3, 3, 128, 64)):
            assert_same(compiled(x), model(x))
    assert len(graphs) == 1


def test_layer_decay_covers_every_parameter_once() -> None:
    model = small()
    groups = param_groups_layer_decay(model, weight_decay=0.05, layer_decay=0.5)
    covered = [id(p) for group in groups for p in group["params"]]
    assert sorted(covered) == sorted(id(p) for p in model.parameters())
    scales = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert scales[id(model.head.label.fc.weight)] == scales[id(model.head.distill.fc.weight)] == 1
    assert scales[id(model.backbone.stem.conv.weight)] == min(scales.values())


@pytest.mark.parametrize("in_chans", [1, 4])
def test_other_numbers_of_channels(in_chans: int) -> None:
    model = small(in_chans=in_chans)
    x = torch.randn(1, in_chans, 64, 64)
    with torch.no_grad():
        assert_same(torch.fx.symbolic_trace(model)(x), model(x))
    with pytest.raises(ValueError, match=f"need \\(B, {in_chans}, H, W\\)"):
        model(torch.randn(1, 3, 64, 64))
