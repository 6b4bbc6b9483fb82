"""Models of timm as backbones: timm's features, at any size, with our arguments and files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import MODELS
from torch import nn

from care_mm.errors import InputError
from care_mm.export.compare import relative_difference
from care_mm.export.graphs import graph_of_module
from care_mm.export.runtimes import TARGETS
from care_mm.models.fold import switch_to_deploy
from care_mm.peers import TimmBackbone
from care_mm.peers.timm_backbone import ANY_SIZE
from care_mm.peers.timm_efficientformer import make_resizable

# Model -> widths at strides 4 to 32.
WIDTHS = {
    "mobilenetv2_100": (24, 32, 96, 320),
    "efficientformer_l1": (48, 96, 224, 448),
    "efficientformerv2_s1": (32, 48, 120, 224),
    "swin_tiny_patch4_window7_224": (96, 192, 384, 768),
    "convnext_tiny": (96, 192, 384, 768),
    "repvit_m0_9": (48, 96, 192, 384),
    "fastvit_sa12": (64, 128, 256, 512),
    "resnet18": (64, 128, 256, 512),
}


@pytest.fixture(scope="module", params=WIDTHS)
def backbone(request) -> TimmBackbone:
    torch.manual_seed(0)
    return TimmBackbone(request.param).eval()


def test_the_maps_are_timms_features(backbone: TimmBackbone) -> None:
    name = backbone.arch
    args = ANY_SIZE["swin_"][0] if name.startswith("swin") else {}
    features = timm.create_model(name, features_only=True, **args).eval()
    state = {key: value for key, value in features.state_dict().items()}
    ours = {key.removeprefix("model."): value for key, value in backbone.state_dict().items()}
    renamed = {key: _timms_name(key, ours) for key in state}
    features.load_state_dict({key: ours.get(new, state[key]) for key, new in renamed.items()})
    assert set(ours) <= set(renamed.values())

    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = [m.permute(0, 3, 1, 2) if "swin" in name else m for m in features(x)][-4:]
        actual = backbone(x)
    for a, b in zip(actual, expected, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


def _timms_name(key: str, known: dict) -> str:
    """Return the name of a tensor in the whole model, which feature wrappers change."""
    key = key.removeprefix("model.").removeprefix("body.")
    return key if key in known else key.replace("_", ".", 1)


@pytest.mark.parametrize("size", [(64, 96), (75, 130)])
def test_any_size_gives_maps_of_the_declared_widths_and_strides(backbone, size) -> None:
    assert backbone.out_channels == WIDTHS[backbone.arch]
    assert backbone.out_strides == (4, 8, 16, 32)
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, *size))
    for out, channels, stride in zip(maps, backbone.out_channels, (4, 8, 16, 32), strict=True):
        assert out.shape[:2] == (1, channels)
        rounded = [(-(-side // stride), side // stride) for side in size]
        assert all(side in allowed for side, allowed in zip(out.shape[2:], rounded, strict=True))


def test_every_parameter_gets_a_gradient_and_folding_changes_nothing(backbone) -> None:
    x = torch.rand(2, 3, 64, 96)
    model = copy.deepcopy(backbone).train()
    sum(out.square().mean() for out in model(x)).backward()
    assert [key for key, p in model.named_parameters() if p.grad is None] == []
    model.eval()
    folded = switch_to_deploy(copy.deepcopy(model))
    with torch.no_grad():
        for a, b in zip(folded(x), model(x), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(backbone: TimmBackbone, dtype: torch.dtype) -> None:
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = backbone(x)
        with torch.autocast("cpu", dtype):
            actual = backbone(x)
    for a, b in zip(actual, expected, strict=True):
        error = (a.float() - b).abs().max() / b.abs().max()
        assert error < (0.02 if dtype is torch.float16 else 0.15)


def test_frozen_stages_and_norm_eval_and_the_input_are_as_in_our_backbones(backbone) -> None:
    model = copy.deepcopy(backbone)
    model.frozen_stages, model.norm_eval = 1, True
    model.train()
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    stem_and_first = [f"model.{name}." for names in model._units[:2] for name in names]
    assert frozen == {
        key for key, _ in model.named_parameters() if key.startswith(tuple(stem_and_first))
    }
    assert frozen
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert not any(norm.training for norm in norms)
    with pytest.raises(ValueError, match="too small"):
        model(torch.rand(1, 3, 64, 31))


def test_checkpointing_changes_nothing_with_fixed_statistics() -> None:
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = TimmBackbone("mobilenetv2_100", norm_eval=True, with_cp=with_cp).train()
        outs = model(torch.rand(2, 3, 64, 64))
        sum(out.square().mean() for out in outs).backward()
        results.append([*outs, *(p.grad for p in model.parameters()), *model.buffers()])
    assert all(map(torch.equal, *results))


def test_sync_bn_keeps_the_activations_that_timm_merges_with_norms() -> None:
    torch.manual_seed(0)
    plain = TimmBackbone("mobilenetv2_100").eval()
    synchronised = TimmBackbone("mobilenetv2_100", sync_bn=True).eval()
    assert any(isinstance(part, nn.SyncBatchNorm) for part in synchronised.modules())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in synchronised.modules())
    synchronised.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert all(map(torch.equal, synchronised(x), plain(x)))


def test_later_stages_are_not_built() -> None:
    model = TimmBackbone("repvit_m0_9", out_indices=(0, 2), drop_path_rate=0.0)
    assert (model.out_channels, model.out_strides) == ((48, 192), (4, 16))
    assert not any(key.startswith("model.stages.3") for key in model.state_dict())
    assert [out.shape[1] for out in model(torch.rand(1, 3, 32, 32))] == [48, 192]


@pytest.mark.parametrize("name", ["mobilenetv2_100", "swin_tiny_patch4_window7_224"])
def test_a_file_of_timm_loads_without_a_network_and_a_wrong_one_is_refused(name, tmp_path) -> None:
    path = str(tmp_path / "timm.pth")
    weights = timm.create_model(name).state_dict()
    computed = ("num_batches_tracked", "relative_position_index", "attn_mask")
    torch.save({k: v for k, v in weights.items() if not k.endswith(computed)}, path)
    cfg = dict(type="TimmBackbone", arch=name, out_indices=(1, 2), frozen_stages=1)
    model = MODELS.build(cfg | dict(init_cfg=dict(type="Pretrained", checkpoint=path)))
    model.init_weights()
    for key, value in model.named_parameters():
        assert torch.equal(value, weights[key.removeprefix("model.")]), key

    torch.save({f"backbone.{k}": v for k, v in model.state_dict().items()}, path)
    again = MODELS.build(cfg | dict(init_cfg=dict(type="Pretrained", checkpoint=path)))
    again.init_weights()
    assert all(map(torch.equal, again.state_dict().values(), model.state_dict().values()))

    first = next(iter(weights))
    torch.save({k: v for k, v in weights.items() if k != first}, path)
    with pytest.raises(InputError, match="1 tensors missing"):
        again.init_weights()


def test_names_and_arguments_that_timm_does_not_have_are_one_line() -> None:
    with pytest.raises(ValueError, match="did you mean 'repvit_m0_9'"):
        TimmBackbone("repvit_m09")
    with pytest.raises(ValueError, match=r"has maps of strides .*detectors need"):
        TimmBackbone("vit_tiny_patch16_224")
    with pytest.raises(ValueError, match="does not accept these arguments"):
        TimmBackbone("resnet18", model_args=dict(no_such_argument=1))


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s1"])
def test_position_biases_of_other_sizes_are_those_of_timm_stretched(name: str) -> None:
    """A table that is linear in both distances is linear after resizing, too."""
    model = timm.create_model(name)
    for part in make_resizable(model):
        attention = model.get_submodule(part)
        heads, places = attention.attention_biases.shape
        side = round(places**0.5)
        distance = torch.linspace(0, 1, side)
        table = 2 * distance[:, None] + 3 * distance
        attention.attention_biases.data = table.flatten().expand(heads, -1).clone()
        attention.set_map(3, 5)
        rows, columns = attention.map_size
        assert (rows, columns) == (3 * side // 7, 5 * side // 7)
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        keys = torch.stack((y.flatten() / (rows - 1), x.flatten() / (columns - 1)))
        step = attention.query_step
        queries = torch.stack(
            (y[::step, ::step].flatten() / (rows - 1), x[::step, ::step].flatten() / (columns - 1))
        )
        dy, dx = (queries[:, :, None] - keys[:, None]).abs()
        expected = (2 * dy + 3 * dx).expand(heads, -1, -1)
        actual = attention.get_attention_biases(torch.device("cpu"))
        assert torch.allclose(actual, expected, atol=1e-5), part


@pytest.mark.parametrize("name", ["efficientformer_l1", "efficientformerv2_s0"])
def test_resized_position_biases_are_constants_of_an_ncnn_file(name: str, tmp_path: Path) -> None:
    pytest.importorskip("pnnx")
    torch.manual_seed(0)
    model = switch_to_deploy(TimmBackbone(name).eval()).requires_grad_(False)
    images = torch.rand(1, 3, 64, 96)
    TARGETS["ncnn"].write(graph_of_module(model, images), tmp_path / "x.param", shape=(64, 96))
    outputs = TARGETS["ncnn"].open(tmp_path / "x.param").run(images.numpy())
    for actual, expected in zip(outputs, model(images), strict=True):
        assert relative_difference(torch.from_numpy(actual), expected) <= 1e-4
