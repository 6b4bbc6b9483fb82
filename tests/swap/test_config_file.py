"""From config file to config file: names, the checks before writing, and the written text."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import golden
import pytest
import torch
from mmengine.config import Config
from swap.examples import PSPNET, RETINANET, swapped

from care_mm.errors import InputError
from care_mm.models.backbone import CARETransformer
from care_mm.swap import Source, read, swap_backbone, swap_file, swap_text


@pytest.fixture
def small(tmp_path: Path) -> str:
    """A config that is quick to swap and run."""
    path = tmp_path / "small.py"
    path.write_text(
        "default_scope = 'mmseg'\n"
        "model = dict(\n"
        "    type='EncoderDecoder',\n"
        "    backbone=dict(type='ResNet', depth=18, out_indices=(0, 1, 2, 3)),\n"
        "    decode_head=dict(type='FCNHead', in_channels=512, in_index=3, channels=8,\n"
        "                     num_convs=1, num_classes=5))\n"
    )
    return str(path)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mmdet::retinanet/retinanet_r50_fpn_2x_cocco.py", "mmdet::retinanet/retinanet_r50_fpn_2x"),
        ("mmpretrain::resnet/resnet50_8xb32_in1k.py", "mmdet:: and mmseg::"),
        ("no/such/config.py", "no such file"),
    ],
)
def test_a_missing_config_is_named(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        read(name)


# Before anything is written


def test_weights_that_fit_are_accepted_and_others_are_not(small: str, tmp_path: Path) -> None:
    weights = tmp_path / "s0.pth"
    torch.save({k: v.float() for k, v in golden.state_dict("s0").items()}, weights)
    swap_file(small, tmp_path / "fits.py", "s0", str(weights))
    assert str(weights) in (tmp_path / "fits.py").read_text()
    with pytest.raises(InputError, match="does not fit"):
        swap_file(small, tmp_path / "other.py", "s1", str(weights))
    assert not (tmp_path / "other.py").exists()


def test_an_existing_file_is_not_overwritten(small: str, tmp_path: Path) -> None:
    out = tmp_path / "mine.py"
    out.write_text("precious = True\n")
    with pytest.raises(InputError, match=r"mine\.py: exists already"):
        swap_file(small, out, "s0")
    assert out.read_text() == "precious = True\n"


def test_only_a_python_file_is_written(small: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.py"):
        swap_file(small, tmp_path / "new.yaml", "s0")


def test_a_model_that_does_not_run_is_not_written(small: str, tmp_path: Path) -> None:
    text = Path(small).read_text().replace("num_convs=1", "num_convs='1'")
    Path(small).write_text(text)
    with pytest.raises(
        InputError, match=r"small\.py: EncoderDecoder with the new backbone does not run"
    ):
        swap_file(small, tmp_path / "new.py", "s0")
    assert not (tmp_path / "new.py").exists()


def test_a_config_without_a_preprocessor_gets_one(small: str, tmp_path: Path) -> None:
    swap = swap_file(small, tmp_path / "new.py", "s0")
    assert swap.config.model.data_preprocessor.type == "SegDataPreProcessor"
    assert swap.config.model.data_preprocessor.bgr_to_rgb is True


# The written text


def test_the_optimizer_in_the_comment_works_when_uncommented(tmp_path: Path) -> None:
    source = read(PSPNET)
    out = tmp_path / "offered.py"
    text = swap_text(swap_backbone(source.config, "s0"), source, out)
    offered = text.replace("# optim_wrapper", "optim_wrapper")
    assert offered != text
    out.write_text(offered)
    wrapper = Config.fromfile(out).optim_wrapper
    assert wrapper.optimizer == dict(type="AdamW", lr=2e-4, weight_decay=1e-4)


def test_a_local_base_is_named_by_its_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    base = tmp_path / "mine" / "base.py"
    base.write_text(f"_base_ = {RETINANET!r}\nmodel = dict(bbox_head=dict(num_classes=3))\n")
    source = read("mine/base.py")
    out = tmp_path / "swapped" / "new.py"
    text = swap_text(swap_backbone(source.config, "s0"), source, out)
    assert "_base_ = '../mine/base.py'" in text
    out.parent.mkdir()
    out.write_text(text)
    model = Config.fromfile(out).model
    assert (model.backbone.type, model.bbox_head.num_classes) == ("CARETransformer", 3)


def test_lines_are_short_enough_to_read(tmp_path: Path) -> None:
    source = read("mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py")
    text = swap_text(swap_backbone(source.config, "s0"), source, tmp_path / "new.py")
    assert max(len(line) for line in text.splitlines() if not line.startswith("_base_")) <= 100


def test_a_key_that_is_not_an_identifier_is_quoted(tmp_path: Path) -> None:
    base = tmp_path / "base.py"
    base.write_text(
        f"_base_ = {RETINANET!r}\n"
        "optim_wrapper = dict(\n"
        "    constructor='LayerDecayOptimizerConstructor', paramwise_cfg=dict(num_layers=12),\n"
        "    accumulative_counts=2, extra={'a.b': dict(lr_mult=0.1), 'class': (1,)})\n"
    )
    source: Source = read(str(base))
    out = tmp_path / "new.py"
    out.write_text(swap_text(swap_backbone(source.config, "s0"), source, out))
    wrapper = Config.fromfile(out).optim_wrapper
    assert wrapper.extra == {"a.b": dict(lr_mult=0.1), "class": (1,)}
    assert "paramwise_cfg" not in wrapper


def test_a_remark_is_a_comment_above_its_key(tmp_path: Path) -> None:
    source = read(PSPNET)
    swap = swap_backbone(source.config, "s0")
    lines = swap_text(swap, source, tmp_path / "new.py").splitlines()
    (head,) = [i for i, line in enumerate(lines) if line.strip().startswith("decode_head=")]
    comment = " ".join(line.strip(" #") for line in lines[head - 2 : head])
    assert comment == swap.remarks["model", "decode_head"]


# docs/swap.md

PAGE = (Path(__file__).parents[2] / "docs" / "swap.md").read_text(encoding="utf-8")


def test_the_manual_lines_on_the_page_are_a_config(tmp_path: Path) -> None:
    (tmp_path / "by_hand.py").write_text(PAGE.split("```python\n")[1].split("```")[0])
    by_hand = Config.fromfile(tmp_path / "by_hand.py").model
    swap = swapped(RETINANET, arch="s1").config.model
    assert by_hand.neck.in_channels == swap.neck.in_channels
    assert set(by_hand.backbone) == {"type", "arch"}


def test_the_written_file_on_the_page_is_the_one_that_the_command_writes(tmp_path: Path) -> None:
    assert f"swap_backbone.py {RETINANET} \\\n    --arch s1 --out retinanet_care.py" in PAGE
    source = read(RETINANET)
    text = swap_text(swap_backbone(source.config, "s1"), source, tmp_path / "retinanet_care.py")
    shown = PAGE.split("This writes:\n\n```python\n")[1].split("```")[0]
    assert ast.dump(ast.parse(shown)) == ast.dump(ast.parse(text))  # ruff formats the page's code
    comments = [re.findall(r"^ *#.*", code, flags=re.MULTILINE) for code in (shown, text)]
    assert comments[0] == comments[1]


@pytest.mark.parametrize("arch", ["s0", "s1", "s2"])
def test_the_widths_on_the_page_are_those_of_the_model(arch: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| s") and arch in line)
    widths = [cell.strip() for cell in row.split("|")[2:4]]
    for cell, expand_last in zip(widths, (True, False), strict=True):
        channels = CARETransformer(arch, expand_last=expand_last).out_channels
        assert cell == ", ".join(map(str, channels))
