"""``--backbone``: names, sizes, and what the written config needs besides the backbone."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
import torch
from mmengine.config import Config
from swap.examples import RETINANET, UPERNET, swapped

from care_mm.errors import InputError
from care_mm.peers.published import PUBLISHED
from care_mm.swap.adapt import MEAN, STD
from care_mm.swap.choices import CARE, NAMES, SIZES, choose

MASK_RCNN = Path(__file__).parents[2] / "configs" / "maskrcnn_care_s0_coco.py"


def test_care_is_the_default() -> None:
    assert choose() == choose(CARE, "s1")
    assert (
        swapped(RETINANET).config.model.backbone
        == swapped(RETINANET, arch="s1", backbone="care").config.model.backbone
    )


@pytest.mark.parametrize("name", [name for name in NAMES if name != CARE])
def test_a_default_size_has_published_figures_and_its_drop_path(name: str) -> None:
    choice = choose(name)
    size = next(size for size in SIZES[name] if choose(name, size.upper()) == choice)
    assert choice.drop_path_rate == PUBLISHED[name][size].drop_path


def test_the_command_writes_a_peer_and_says_what_is_missing(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    tool.call("swap_backbone", MASK_RCNN, "--backbone", "emo", "--arch", "1m", "--out", "emo.py")
    printed = capsys.readouterr().out
    assert "EMO-1M in place of CARETransformer" in printed
    assert "Save the authors' ImageNet checkpoint here." in printed
    written = Config.fromfile("emo.py")
    assert written.model.backbone == dict(
        type="EMO",
        arch="1m",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.04036,
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/emo_1m_in1k.pth"),
    )
    assert list(written.model.neck.in_channels) == [32, 48, 80, 168]
    assert written.custom_imports.imports == ["care_mm", "care_mm.peers"]


def test_weights_of_another_size_are_refused(tmp_path, capsys) -> None:
    weights = tmp_path / "emo_2m.pth"
    torch.save({"state_dict": choose("emo", "2m").build((0, 1, 2, 3), "cpu").state_dict()}, weights)
    out = tmp_path / "out.py"
    args = ("swap_backbone", MASK_RCNN, "--backbone", "emo", "--checkpoint", weights, "--out")
    tool.call(*args, out, "--arch", "2m")
    line = tool.refusal(capsys, *args, tmp_path / "other.py", "--arch", "5m")
    assert "does not fit this backbone" in line
    assert not (tmp_path / "other.py").exists()


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--backbone", "mobilvig"), ("did you mean 'mobilevig'?", "timm:NAME")),
        (("--backbone", "xyz"), ("The names are care, mlla",)),
        (("--backbone", "emo", "--arch", "s1"), ("emo has 1m, 2m, 5m",)),
        (("--backbone", "timm:repvit_m09"), ("did you mean 'repvit_m0_9'?",)),
        (("--backbone", "timm:repvit_m0_9", "--arch", "s"), ("leave out --arch",)),
        (("--backbone", "timm:vit_tiny_patch16_224"), ("has maps of strides",)),
    ],
)
def test_unknown_names_are_refused_in_one_line(options, parts, tmp_path, capsys) -> None:
    line = tool.refusal(capsys, "swap_backbone", MASK_RCNN, *options, "--out", tmp_path / "out.py")
    assert all(part in line for part in parts), line


def test_a_backbone_in_its_own_place_is_refused_and_care_can_return(tmp_path: Path) -> None:
    out = tmp_path / "emo.py"
    tool.call("swap_backbone", MASK_RCNN, "--backbone", "emo", "--out", out)
    with pytest.raises(InputError, match="is EMO already: set its arch"):
        swapped(str(out), backbone="emo")
    back = swapped(str(out), arch="s0")
    assert back.config.model.backbone.type == "CARETransformer"
    assert list(back.config.model.neck.in_channels) == [32, 64, 128, 1024]


@pytest.mark.parametrize("name", ["mobilevig", "mobilenetv2"])
def test_sync_bn_stays_sync_bn(name: str) -> None:
    swap = swapped(UPERNET, backbone=name)
    backbone = swap.config.model.backbone
    assert "norm_eval" not in backbone
    by_mmengine = swap.config.get("sync_bn")
    assert (by_mmengine, backbone.get("sync_bn")) == (
        ("torch", None) if name == "mobilevig" else (None, True)
    )


def test_images_have_the_statistics_that_timm_states() -> None:
    settings = swapped(RETINANET, backbone="swin").config.model.data_preprocessor
    assert (settings.mean, settings.std) == (MEAN, STD)
    other = swapped(RETINANET, backbone="timm:mobilevitv2_050").config.model.data_preprocessor
    assert (other.mean, other.std) == ([0, 0, 0], [255, 255, 255])
