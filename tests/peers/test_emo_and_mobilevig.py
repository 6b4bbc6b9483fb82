"""EMO and MobileViG equal the authors' models, and keep the promises of our backbones."""

from __future__ import annotations

import copy
from pathlib import Path

import golden
import pytest
import torch
from half import HALF
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from peers import compact_golden

import care_mm.peers
from care_mm.errors import InputError
from care_mm.export.executorch import ExecuTorch
from care_mm.export.graphs import Graph
from care_mm.export.onnx import Onnx
from care_mm.export.openvino import OpenVINO
from care_mm.export.target import Source
from care_mm.export.trace import trace
from care_mm.models.fold import switch_to_deploy
from care_mm.peers.emo import EMO
from care_mm.peers.mobilevig import GraphConv, MobileViG

TOLERANCE = 1e-6
# Class, arch, and parameters of the backbone alone where they are published; test_published.py
# counts the classifiers.
VARIANTS = {
    "emo_1m": (EMO, "1m", None),
    "emo_2m": (EMO, "2m", 2_176_072),
    "emo_5m": (EMO, "5m", None),
    "mobilevig_ti": (MobileViG, "ti", 4_112_466),
    "mobilevig_s": (MobileViG, "s", 6_117_930),
    "mobilevig_m": (MobileViG, "m", 12_228_282),
    "mobilevig_b": (MobileViG, "b", 24_971_850),
}
SIZE = (75, 136)  # of exported files; the attention pads its maps, and sides are odd
SMALLEST = {EMO: "1m", MobileViG: "ti"}


def classifier(name: str, **settings) -> torch.nn.Module:
    """Build mmpretrain's classifier of a variant, with all stages."""
    init_default_scope("mmpretrain")
    cls, arch, *_ = VARIANTS[name]
    system = cls.__name__
    hidden = {"hidden_channels": cls.archs[arch].head_dim} if cls is MobileViG else {}
    return MODELS.build(
        dict(
            type="ImageClassifier",
            backbone=dict(type=system, arch=arch, **settings),
            head=dict(
                type=f"{system}Head",
                num_classes=1000,
                in_channels=cls.archs[arch].dims[-1],
                **hidden,
            ),
        )
    )


def single_precision(name: str) -> torch.nn.Module:
    """Return the backbone of a variant with well-conditioned weights in float32."""
    cls, arch, *_ = VARIANTS[name]
    weights = cls.convert_official(compact_golden.load(name).weights(torch.float32))
    model = cls(arch).eval()
    model.load_state_dict({k[9:]: v for k, v in weights.items() if k.startswith("backbone.")})
    return model


@pytest.fixture(scope="module", params=VARIANTS)
def case(request):
    name = request.param
    figures = compact_golden.load(name)
    weights = VARIANTS[name][0].convert_official(figures.weights())
    model = classifier(name).double()
    model.load_state_dict(weights)
    return name, model, figures, weights


def test_evaluation_outputs(case) -> None:
    name, model, figures, _ = case
    model.eval()
    for inputs, suffix in (("main", ""), ("large", "_b")):
        with torch.no_grad():
            x = compact_golden.inputs(inputs)
            maps = model.backbone(x)
            outputs = {"stem": model.backbone.stem(x)}
            outputs |= {f"stage{i}": out for i, out in enumerate(maps)}
            if name.startswith("emo"):
                outputs["norm"] = model.head.normalise(maps[-1])
            else:
                outputs["head"], outputs["dist_head"] = model.head.branches(maps)
            outputs["logits"] = model(x, mode="tensor")
        for key, output in outputs.items():
            assert figures.error(key + suffix, output) <= TOLERANCE, key + suffix


def test_training_outputs_and_gradients(case) -> None:
    name, model, figures, weights = case
    model.load_state_dict(weights)
    model.train()
    x = compact_golden.inputs("main" if name.startswith("emo") else "train").requires_grad_()
    maps = model.backbone(x)
    if name.startswith("emo"):
        outputs = {"train_logits": model.head(maps)}
    else:
        outputs = dict(
            zip(("train_head", "train_dist_head"), model.head.branches(maps), strict=True)
        )
    loss = sum(output.square().mean() for output in outputs.values())
    model.zero_grad()
    loss.backward()
    for key, output in (outputs | {"train_loss": loss, "grad_input": x.grad}).items():
        assert figures.error(key, output) <= TOLERANCE, key

    norms = model.backbone.convert_official(
        {key: torch.tensor(norm, dtype=torch.float64) for key, norm in figures.norms.items()}
    )
    parameters = dict(model.named_parameters())
    assert set(norms) == set(parameters)
    for key, norm in norms.items():
        gradient = float(parameters[key].grad.norm())
        assert gradient == pytest.approx(float(norm), rel=1e-6, abs=1e-9), key


def test_the_backbone_has_the_published_number_of_parameters(case) -> None:
    name, model, *_ = case
    expected = VARIANTS[name][2]
    assert expected in (None, sum(p.numel() for p in model.backbone.parameters()))


def test_folding_is_exact(case) -> None:
    _, model, _, weights = case
    model.load_state_dict(weights)
    x = compact_golden.inputs("main")
    model.eval()
    folded = switch_to_deploy(copy.deepcopy(model))
    left = [part for part in folded.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    assert left == []
    with torch.no_grad():
        expected, actual = model(x, mode="tensor"), folded(x, mode="tensor")
        for a, b in zip(folded.backbone(x), model.backbone(x), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-12 * float(b.abs().max()))
    assert torch.allclose(actual, expected, rtol=0, atol=1e-12 * float(expected.abs().max()))
    switch_to_deploy(folded)  # a second time
    with torch.no_grad():
        assert torch.equal(folded(x, mode="tensor"), actual)


@pytest.mark.parametrize("cls", SMALLEST)
@pytest.mark.parametrize("size", [(32, 32), (33, 65), (75, 230)])
def test_any_size_gives_maps_of_the_declared_widths_and_strides(cls, size) -> None:
    model = cls(SMALLEST[cls], out_indices=(0, 2, -1)).eval()
    with torch.no_grad():
        maps = model(torch.rand(1, 3, *size))
    assert model.out_strides == (4, 16, 32)
    for out, channels, stride in zip(maps, model.out_channels, model.out_strides, strict=True):
        sides = tuple(-(-side // stride) for side in size)
        assert out.shape == (1, channels, *sides)


@pytest.mark.parametrize("cls", SMALLEST)
def test_every_parameter_gets_a_gradient_and_checkpointing_changes_nothing(cls) -> None:
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = cls(SMALLEST[cls], drop_path_rate=0.2, with_cp=with_cp).train()
        torch.manual_seed(1)
        outs = model(torch.rand(2, 3, 64, 96))
        sum(out.square().mean() for out in outs).backward()
        gradients = {key: p.grad for key, p in model.named_parameters()}
        assert [key for key, grad in gradients.items() if grad is None] == []
        results.append((outs, gradients, model.state_dict()))
    (outs, gradients, state), (outs_cp, gradients_cp, state_cp) = results
    assert all(map(torch.equal, outs, outs_cp))
    assert all(torch.equal(gradients[key], gradients_cp[key]) for key in gradients)
    assert all(torch.equal(state[key], state_cp[key]) for key in state)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("name", ["emo_1m", "mobilevig_ti"])
def test_half_precision_is_close(name: str, dtype: torch.dtype) -> None:
    model = single_precision(name)
    x = compact_golden.inputs("main").float()
    with torch.no_grad():
        expected = model(x)
        with torch.autocast("cpu", dtype):
            actual = model(x)
    tolerance = 0.01 if dtype is torch.float16 else 0.1
    for a, b in zip(actual, expected, strict=True):
        assert golden.relative_error(a, b) < tolerance


@pytest.mark.parametrize("name", ["emo_1m", "mobilevig_ti"])
def test_exported_files_equal_torch(name: str, tmp_path: Path) -> None:
    for package in ("onnxscript", "onnxruntime", "openvino", "executorch"):
        pytest.importorskip(package)
    model = switch_to_deploy(single_precision(name))
    graph = Graph(model, "backbone", ("stage1", "stage2", "stage3", "stage4"))
    source = Source(trace(graph, SIZE), graph.outputs, graph.metadata())
    x = compact_golden.inputs("large")[:, :, : SIZE[0], : SIZE[1]].float()
    with torch.no_grad():
        expected = model(x)
    for target in (Onnx(), OpenVINO(), ExecuTorch()):
        file = tmp_path / f"peer{target.suffix}"
        target.convert(source, file)
        actual = target.program(file)(x)
        for output, reference in zip(graph.outputs, expected, strict=True):
            assert golden.relative_error(torch.as_tensor(actual[output]), reference) <= 1e-4


def test_drop_path_grows_over_the_blocks_of_all_stages() -> None:
    rates = [
        part.drop_path.drop_prob if hasattr(part.drop_path, "drop_prob") else 0.0
        for part in EMO("1m", drop_path_rate=0.14).modules()
        if hasattr(part, "drop_path")
    ]
    assert rates == pytest.approx([0.01 * i for i in range(15)])


@pytest.mark.parametrize("side", range(1, 12))
def test_the_graph_is_that_of_the_published_code(side: int) -> None:
    """The definition: for each s, shift by s, subtract, and keep the maximum, from 0 on."""
    torch.manual_seed(side)
    x = torch.randn(2, 4, side, side + 3, dtype=torch.float64)
    relative = torch.zeros_like(x)
    for dim in (2, 3):
        for shift in range(2, x.shape[dim], 2):
            relative = torch.maximum(relative, x - x.roll(shift, dim))
    graph = GraphConv(4)
    graph.mix, graph.act = torch.nn.Identity(), torch.nn.Identity()
    assert torch.equal(graph(x), torch.cat((x, relative), dim=1))


@pytest.mark.parametrize(("name", "wrapped"), [("emo_1m", "net"), ("mobilevig_ti", "state_dict")])
def test_an_authors_checkpoint_loads_and_a_wrong_one_is_refused(name, wrapped, tmp_path) -> None:
    cls, arch, *_ = VARIANTS[name]
    figures = compact_golden.load(name)
    weights = figures.weights(torch.float32)
    path = tmp_path / "authors.pth"
    torch.save({wrapped: weights}, path)
    model = cls(arch, out_indices=(1, 2), init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    model.init_weights()
    converted = cls.convert_official(weights)
    for key, value in model.state_dict().items():
        assert torch.equal(value, converted[f"backbone.{key}"]), key

    other = next(other for other in cls.archs if other != arch and other not in ("m",))
    wrong = cls(other, init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    with pytest.raises(InputError, match="does not fit this backbone"):
        wrong.init_weights()
    weights["stem.extra.weight"] = torch.zeros(1)
    torch.save({wrapped: weights}, path)
    with pytest.raises(InputError, match=f"is not one of the authors' {cls.__name__} model"):
        cls(arch, init_cfg=dict(type="Pretrained", checkpoint=str(path))).init_weights()


def test_the_classifiers_are_registered_by_the_package() -> None:
    for name in ("EMO", "MobileViG", "EMOHead", "MobileViGHead"):
        assert MODELS.get(name) is not None, name
    assert {"EMO", "MobileViG"} <= set(care_mm.peers.__all__)
