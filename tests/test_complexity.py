"""Parameters and multiply-adds: the published figures, arithmetic by hand, and linear growth."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from mmengine.config import Config
from torch import nn

from care_mm.cli import text_table
from care_mm.complexity import Complexity, build, count, growth_rows
from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.models.arch import ARCHS, Arch
from care_mm.tasks import default_shape

CONFIGS = Path(__file__).parents[1] / "configs"
# Parameters with both heads, GMACs at 224 x 224, and those of the products alone.
PUBLISHED = {
    "s0": (7_340_000, 0.7206, 0.7178),
    "s1": (9_602_424, 1.0324, 1.0286),
    "s2": (19_481_288, 1.9275, 1.9231),
}


BOX_HEAD = 7 * 7 * 256 * 1024 + 1024 * 1024 + 1024 * (81 + 4 * 80)
MASK_HEAD = 14 * 14 * 4 * 9 * 256 * 256 + 28 * 28 * (256 * 256 + 256 * 80)


@cache
def built(name: str) -> nn.Module:
    return build(load_config(CONFIGS / f"{name}.py"))


@cache
def counted(name: str, *shape: int) -> Complexity:
    return count(built(name), shape)


def products_by_hand(arch: Arch, height: int, width: int) -> list[int]:
    """Multiply-adds of convolutions and attention in stem and stages, from the paper's words."""
    dims = [4 * mem_dim for mem_dim in arch.mem_dims]
    tokens = height // 4 * (width // 4)
    macs = [tokens * 4 * 4 * 3 * dims[0]]
    for stage, (depth, mem, head) in enumerate(
        zip(arch.depths, arch.mem_dims, arch.attn_head_dims, strict=True)
    ):
        ratio1, ratio2 = arch.interaction_ratios[stage]
        if stage:
            tokens //= 4
        # qk, key-value and query products and the normaliser; or two crosses of 11 taps
        attention = 2 * mem * mem + 2 * mem * head + mem if head else 22 * mem
        inner1, inner2 = ratio1 * 3 * mem, ratio2 * 4 * mem
        block = attention + (9 + 49) * mem
        block += inner1 * (3 * mem + 9 + 3 * mem) + inner2 * (4 * mem + 9 + 4 * mem)
        total = depth * block
        total += 4 * dims[stage - 1] * dims[stage] if stage else 0
        total -= inner2 * 4 * mem if stage == 3 else 0  # the last projection
        macs.append(tokens * total)
    return macs


@pytest.mark.parametrize("arch", PUBLISHED)
def test_classifiers_have_the_published_figures(arch: str) -> None:
    parameters, gmacs, products = PUBLISHED[arch]
    total = counted(f"care_{arch}_imagenet", 224, 224).sum()
    assert total.parameters == parameters
    assert total.macs / 1e9 == pytest.approx(gmacs, abs=5e-5)
    assert total.products / 1e9 == pytest.approx(products, abs=5e-5)


@pytest.mark.parametrize("arch", PUBLISHED)
def test_every_stage_is_the_arithmetic_by_hand(arch: str) -> None:
    """Attention products included, which counters like to miss."""
    parts = counted(f"care_{arch}_imagenet", 224, 224).parts
    assert [part.name for part in parts] == [
        "backbone.stem",
        *(f"backbone.stages.{i}" for i in range(4)),
        "head",
    ]
    assert [part.products for part in parts[:5]] == products_by_hand(ARCHS[arch], 224, 224)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("care_s0_imagenet", ["head"]),
        ("semfpn_care_s0_ade20k", ["neck", "decode_head", "elsewhere"]),
        (
            "maskrcnn_care_s0_coco",
            ["neck", "rpn_head", "roi_head.bbox_head", "roi_head.mask_head"],
        ),
    ],
)
def test_parts_add_up_to_the_model(name: str, heads: list[str]) -> None:
    complexity = counted(name, 64, 96)
    assert [p.name for p in complexity.parts if not p.name.startswith("backbone")] == heads
    assert complexity.sum().parameters == sum(p.numel() for p in built(name).parameters())
    assert all(part.macs >= part.products >= 0 for part in complexity.parts)
    assert all(part.products > 0 for part in complexity.parts if part.name != "elsewhere")
    # The same backbone whatever is built on it.
    backbone = complexity.sum("backbone.")
    assert backbone == counted("care_s0_imagenet", 64, 96).sum("backbone.")


def test_the_backbone_is_linear_in_the_number_of_pixels() -> None:
    one, four, six = (
        counted("care_s0_imagenet", *shape).sum("backbone.")
        for shape in ((64, 64), (128, 128), (64, 384))
    )
    assert (four.macs, six.macs) == (4 * one.macs, 6 * one.macs)
    assert (four.products, six.products) == (4 * one.products, 6 * one.products)


def test_dense_heads_are_the_arithmetic_by_hand() -> None:
    """The heads of Mask R-CNN see 1000 proposals and 100 masks, whatever the image."""
    complexity = counted("maskrcnn_care_s0_coco", 64, 96)
    parts = {part.name: part for part in complexity.parts}
    assert complexity.assumed == "1000 proposals, 100 masks"
    assert parts["roi_head.bbox_head"].products == 1000 * BOX_HEAD
    assert parts["roi_head.mask_head"].products == 100 * MASK_HEAD
    # 3 anchors; levels of stride 4 to 32, and one pooled from the last
    positions = 16 * 24 + 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    assert parts["rpn_head"].products == positions * 256 * (9 * 256 + 3 + 12)
    lateral = 16 * 24 * 32 + 8 * 12 * 64 + 4 * 6 * 128 + 2 * 3 * 1024
    output = 9 * 256 * (16 * 24 + 8 * 12 + 4 * 6 + 2 * 3)
    assert parts["neck"].products == 256 * (lateral + output)


def ablation_rows() -> list[list[str]]:
    """Cells of the table in docs/ablations.md."""
    text = (CONFIGS.parent / "docs" / "ablations.md").read_text()
    lines = re.findall(r"^\| `configs/(.+)\.py` \|(.+)\|$", text, flags=re.MULTILINE)
    return [[name, *(cell.strip() for cell in cells.split("|"))] for name, cells in lines]


def test_the_table_of_ablations_has_every_config() -> None:
    names = {f"ablation/{path.stem}" for path in (CONFIGS / "ablation").glob("*.py")}
    assert {row[0] for row in ablation_rows()} == names | {
        f"care_{arch}_imagenet" for arch in ARCHS
    }


@pytest.mark.parametrize("row", ablation_rows(), ids=lambda row: row[0])
def test_the_table_of_ablations_is_right(row: list[str]) -> None:
    name, parameters, gmacs, products, paper, _ = row
    total = counted(name, 224, 224).sum()
    assert int(parameters.replace(",", "")) == total.parameters
    assert float(gmacs) == pytest.approx(total.macs / 1e9, abs=5.1e-5)
    assert float(products) == pytest.approx(total.products / 1e9, abs=5.1e-5)
    if paper and name != "ablation/care_s1_stacked":  # the page says why
        assert f"{total.macs / 1e9:.1f}" == paper


def test_neither_weights_nor_a_teacher_are_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = build(load_config(CONFIGS / "care_s0_imagenet.py"))
    count(model, (32, 32))
    assert model._teacher_config and model._teacher is None
    assert build(load_config(CONFIGS / "semfpn_care_s0_ade20k.py")).backbone.init_cfg
    assert not list(tmp_path.iterdir())


def test_a_detector_gets_as_many_proposals_as_its_config_lets_through() -> None:
    path = CONFIGS / "maskrcnn_care_s0_coco.py"
    model = build(load_config(path, {"model.test_cfg.rpn.max_per_img": 7}))
    predict = model.rpn_head.predict
    complexity = count(model, (64, 64))
    assert complexity.assumed == "7 proposals, 7 masks"
    assert complexity.sum("roi_head.").products == 7 * (BOX_HEAD + MASK_HEAD)
    assert model.rpn_head.predict == predict  # the model is left as it was


def test_every_task_has_a_default_shape() -> None:
    shapes = [
        default_shape(load_config(CONFIGS / f"{name}.py"))
        for name in ("care_s0_imagenet", "semfpn_care_s0_ade20k", "maskrcnn_care_s0_coco")
    ]
    assert shapes == [(224, 224), (512, 512), (800, 1280)]


def test_a_config_that_pads_to_one_size_has_its_own_default_shape() -> None:
    path = CONFIGS / "rtmdet_care_s0_coco.py"
    assert default_shape(load_config(path)) == (640, 640)
    wide = {"test_dataloader.dataset.pipeline.2.size": (96, 64)}  # width, height
    assert default_shape(load_config(path, wide)) == (64, 96)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="at least 32 pixels"):
        counted("care_s0_imagenet", 224, 31)
    with pytest.raises(InputError, match="has no model"):
        build(Config(dict(default_scope="mmdet")))
    with pytest.raises(InputError, match=r"'mmocr'.*--shape"):
        default_shape(Config(dict(default_scope="mmocr")))


def test_tables_have_their_figures_under_their_heading() -> None:
    rows = growth_rows([counted("care_s0_imagenet", side, side) for side in (64, 128)])
    heading, first, second = text_table(rows).splitlines()
    assert len(heading) == len(first) == len(second)
    assert first.split()[0] == "64x64"
    per_megapixel = heading.split("  ").index("backbone per MP")
    assert len({row[per_megapixel] for row in rows[1:]}) == 1
    markdown = text_table([["a", "b", "c"], ["1", "2", ""]], markdown=True)
    assert markdown == "| a | b |\n| --- | --- |\n| 1 | 2 |"
