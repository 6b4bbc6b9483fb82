"""SegFormer's head is folded exactly, and exported files of a light segmentor contain the fold."""

from __future__ import annotations

import copy

import pytest
import torch
from export.conftest import MakeFile, MakeJob
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from care_mm.benchmark.backends import graph_for_export
from care_mm.benchmark.models import CALLS, Adapter, enliven
from care_mm.config import load_config, without_pretrained
from care_mm.export.segformer_head import (
    FoldedSegformerHead,
    fold_segformer_head,
    is_foldable_head,
)
from care_mm.export.stand_in import open_program
from care_mm.models.fold import switch_to_deploy
from care_mm.predict.predictor import Predictor
from care_mm.tasks import Task

CHANNELS, WIDTH, CLASSES = [8, 12, 16, 20], 24, 5
# Files with the class of each pixel, in the form that is the fastest in their runtime.
LABELS = {"light_labels.onnx": (), "light_labels.xml": ("--shape", 104, 152)}
SIZES = [(20, 28), (10, 14), (5, 7), (3, 4)]  # the last is rounded up, as for a side of 80 or 112


def head_of(**options: object) -> nn.Module:
    """Return mmseg's head in double precision, with the statistics of a trained one."""
    init_default_scope("mmseg")
    torch.manual_seed(0)
    settings = dict(
        type="SegformerHead",
        in_channels=CHANNELS,
        in_index=[0, 1, 2, 3],
        channels=WIDTH,
        num_classes=CLASSES,
        norm_cfg=dict(type="BN"),
        align_corners=False,
    )
    return enliven(MODELS.build({**settings, **options}).eval()).double()


def drawn_maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randn(2, channels, *size, generator=generator, dtype=torch.float64)
        for channels, size in zip(CHANNELS, SIZES, strict=True)
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"align_corners": True},
        {"interpolate_mode": "nearest", "align_corners": None},
        {"norm_cfg": dict(type="SyncBN")},
        {"norm_cfg": dict(type="GN", num_groups=4)},
        {"norm_cfg": None},
        {"in_index": [0, 2], "in_channels": [8, 16]},
    ],
    ids=str,
)
@pytest.mark.parametrize("norms_are_folded", [True, False])
@torch.no_grad()
def test_the_folded_head_computes_the_same(options: dict, norms_are_folded: bool) -> None:
    head = head_of(**options)
    maps = drawn_maps()
    expected = head(maps)
    assert expected.shape == (2, CLASSES, *SIZES[0]) and expected.std() > 1e-4
    model = nn.Module()
    model.decode_head = switch_to_deploy(copy.deepcopy(head)) if norms_are_folded else head
    actual = fold_segformer_head(model).decode_head(maps)
    assert isinstance(model.decode_head, FoldedSegformerHead)
    assert (actual - expected).abs().max() <= 1e-12 * expected.abs().max()
    assert torch.equal(head(maps), expected)  # the original head is as before


@torch.no_grad()
def test_the_fold_saves_the_products_of_the_coarse_maps() -> None:
    head, maps = switch_to_deploy(head_of()), drawn_maps()
    flops = []
    for module in (head, FoldedSegformerHead(head)):
        with FlopCounterMode(display=False) as counter:
            module(maps)
        flops.append(counter.get_total_flops())
    pixels = [height * width for height, width in SIZES]
    saved = sum(pixels[0] - coarse for coarse in pixels)
    assert flops[0] - flops[1] == 2 * 2 * saved * WIDTH * WIDTH


def test_a_head_of_another_kind_stays() -> None:
    plain = head_of()
    assert is_foldable_head(plain)
    normalised = head_of()
    nn.utils.spectral_norm(normalised.fusion_conv.conv)
    activated_first = head_of()
    activated_first.fusion_conv.order = ("act", "conv", "norm")
    subclass = head_of()
    subclass.__class__ = type("MyHead", (type(plain),), {})
    for head in (normalised, activated_first, subclass, nn.Conv2d(3, 3, 1)):
        model = nn.Module()
        model.decode_head = head
        assert fold_segformer_head(model).decode_head is head


@torch.no_grad()
def test_files_of_a_light_segmentor_equal_the_model(job: MakeJob, exported: MakeFile) -> None:
    """At a size whose coarse maps are not whole fractions of the finest one."""
    config, checkpoint = job("light_segmentor")
    model = Predictor(load_config(config), checkpoint, "cpu").model
    images = torch.randn(1, 3, 104, 152, generator=torch.Generator().manual_seed(2))
    expected = model.encode_decode(images, [{"img_shape": (104, 152)}])
    assert expected.std() > 0
    logits = open_program(exported("light_segmentor", "light.onnx"))(images)["logits"]
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    for name, options in LABELS.items():
        file = exported("light_segmentor", name, "--argmax", *options)
        labels = open_program(file)(images)["labels"]
        assert labels.dtype == torch.int32 and len(labels.unique()) > 1
        assert float((labels == expected.argmax(1)).float().mean()) >= 0.999


def test_an_onnx_file_of_labels_has_the_classes_last(exported: MakeFile) -> None:
    onnx = pytest.importorskip("onnx")
    found = {}
    for name, options in (("light_labels.onnx", ("--argmax",)), ("light.onnx", ())):
        nodes = onnx.load(exported("light_segmentor", name, *options)).graph.node
        makers = {output: node for node in nodes for output in node.output}
        resize = [node for node in nodes if node.op_type == "Resize"][-1]
        choices = [node for node in nodes if node.op_type == "ArgMax"]
        axes = [a.i for node in choices for a in node.attribute if a.name == "axis"]
        found[name] = makers[resize.input[0]].op_type, axes
    assert found == {"light_labels.onnx": ("Transpose", [3]), "light.onnx": ("Conv", [])}


def test_the_benchmark_folds_our_head_and_leaves_that_of_a_peer() -> None:
    example = torch.zeros(1, 3, 64, 96)
    heads = []
    for backbone in ("CARETransformer", "mmseg.MixVisionTransformer"):
        init_default_scope("mmseg")
        config = load_config("care_mm::segformer_care_s0_ade20k.py").model
        if backbone != config.backbone.type:
            config.backbone = dict(type=backbone, num_layers=[1, 1, 1, 1])
            config.decode_head.in_channels = [64, 128, 320, 512]
        model = MODELS.build(without_pretrained(config)).eval()
        graph = graph_for_export(Adapter(model, CALLS[Task.SEGMENTATION], "model"), example)
        heads.append(type(graph.module.model.decode_head).__name__)
    assert heads == ["FoldedSegformerHead", "SegformerHead"]
