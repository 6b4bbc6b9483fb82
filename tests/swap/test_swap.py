"""What a swap changes in a config, and what it leaves."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from swap.families import ARCH

from care_mm.errors import InputError
from care_mm.models.backbone import CARETransformer
from care_mm.swap import Source, Swap, read, swap_backbone, swap_text
from care_mm.swap.difference import difference

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
UPERNET = "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"
PSPNET = "mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py"


def swapped(name: str, **settings: object) -> Swap:
    return swap_backbone(read(name).config, **settings)


def minimal(**model: object) -> Config:
    """A config of one detector, whose parts do not have to build."""
    return Config(dict(default_scope="mmdet", model=dict(type="RetinaNet", **model)))


# Differences

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.floats(0, 3) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3)
    ),
    max_leaves=8,
)
configs = st.dictionaries(st.sampled_from("abc"), values, min_size=3, max_size=3)


@given(configs, configs)
def test_a_base_with_its_difference_is_the_new_config(old: dict, new: dict) -> None:
    config = Config(copy.deepcopy(old))
    config.merge_from_dict(difference(old, new))
    merged = config.to_dict()
    # Python calls 1, 1.0 and True equal; a config should not.
    assert repr(sorted_by_key(merged)) == repr(sorted_by_key(new))


def sorted_by_key(node: object) -> object:
    if isinstance(node, dict):
        return {key: sorted_by_key(node[key]) for key in sorted(node)}
    if isinstance(node, list | tuple):
        return type(node)(map(sorted_by_key, node))
    return node


def test_equal_configs_have_no_difference() -> None:
    config = read(RETINANET).config.to_dict()
    assert difference(config, copy.deepcopy(config)) == {}


# The backbone and what reads it


def test_retinanet_changes_in_backbone_and_neck_only() -> None:
    swap = swapped(RETINANET, arch="s1")
    assert swap.changes == {
        "custom_imports": {"imports": ["care_mm"], "allow_failed_imports": False},
        "model": {
            "backbone": {
                "_delete_": True,
                "type": "CARETransformer",
                "arch": "s1",
                "out_indices": (0, 1, 2, 3),
                "norm_eval": True,
                "init_cfg": {"type": "Pretrained", "checkpoint": "checkpoints/care_s1_in1k.pth"},
            },
            "neck": {"in_channels": [32, 64, 128, 1024]},
        },
    }


def test_the_given_config_is_left_as_it_is() -> None:
    config = read(UPERNET).config
    before = config.to_dict()
    swap_backbone(config, ARCH)
    assert config.to_dict() == before


def test_the_largest_size_has_its_widths_and_its_drop_path() -> None:
    model = swapped(UPERNET, arch="s2").config.model
    assert model.decode_head.in_channels == [32, 64, 192, 1536]
    assert model.auxiliary_head.in_channels == 192
    assert model.backbone.drop_path_rate == 0.1


def test_a_neck_that_reads_three_maps_gets_three_stages() -> None:
    model = swapped("mmdet::yolox/yolox_s_8xb8-300e_coco.py", arch="s0").config.model
    assert model.backbone.out_indices == (1, 2, 3)
    assert model.neck.in_channels == [64, 128, 1024]


def test_a_neck_that_lists_its_maps_from_the_deepest_up_still_does() -> None:
    model = swapped("mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py", arch="s0").config.model
    assert model.neck.in_channels == [1024, 128, 64]


def test_heads_behind_a_neck_that_hands_maps_on_get_their_new_widths() -> None:
    name = "mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py"
    old, new = read(name).config.model, swapped(name, arch="s0").config.model
    assert new.neck.in_channels == (64, 128, 1024)  # a tuple: that neck insists
    assert new.decode_head.in_channels == old.decode_head.in_channels  # from the neck
    assert old.auxiliary_head.in_channels == 1024
    assert new.auxiliary_head.in_channels == 128  # from the backbone, through the neck


def test_heads_made_for_dilation_get_a_map_of_their_stride() -> None:
    swap = swapped(PSPNET, arch="s0")
    head, auxiliary = swap.config.model.decode_head, swap.config.model.auxiliary_head
    assert (head.in_channels, head.in_index) == ([64, 128, 1024], [1, 2, 3])
    assert head.input_transform == "resize_concat"
    assert (auxiliary.in_channels, auxiliary.in_index) == (128, 2)
    assert "Strides 8, 16 and 32, resized to 8" in swap.remarks["model", "decode_head"]
    assert "Stride 16:" in swap.remarks["model", "auxiliary_head"]


def test_two_heads_that_multiply_their_maps_get_them_of_one_size() -> None:
    name = "mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py"
    swap = swapped(name, arch="s0")
    first = [swap.new_maps[head.in_index[0]] for head in swap.config.model.decode_head]
    assert [m.stride for m in first] == [8, 8]


def test_a_width_that_does_not_fit_the_old_backbone_is_named() -> None:
    config = read(RETINANET).config
    config.model.neck.in_channels = [256, 512, 1024, 1111]
    with pytest.raises(InputError, match=r"model\.neck FPN has in_channels=.*1111"):
        swap_backbone(config, ARCH)
    config = read(UPERNET).config
    config.model.auxiliary_head.in_index = 7
    with pytest.raises(InputError, match=r"model\.auxiliary_head: in_index=7"):
        swap_backbone(config, ARCH)


# Norms, pictures, weights, optimizer, imports


@pytest.mark.parametrize(
    ("name", "norm_eval", "kind"),
    [
        (RETINANET, True, None),  # a ResNet that keeps its statistics
        (UPERNET, None, "SyncBN"),  # one that does not, on several GPUs
        ("mmdet::yolact/yolact_r50_1xb8-55e_coco.py", None, None),  # nor this one, on one GPU
        ("mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py", None, "SyncBN"),
        ("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py", True, None),
    ],
)
def test_norms_are_kept_or_synchronised_as_the_old_ones(
    name: str, norm_eval: bool | None, kind: str | None
) -> None:
    backbone = swapped(name, arch=ARCH).config.model.backbone
    assert backbone.get("norm_eval") is norm_eval
    assert (backbone.get("norm_cfg") or {}).get("type") == kind


@pytest.mark.parametrize(
    "name",
    [
        RETINANET,
        PSPNET,
        "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
        "mmdet::yolox/yolox_s_8xb8-300e_coco.py",
        "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py",
    ],
)
def test_pictures_come_in_rgb_with_imagenets_statistics(name: str) -> None:
    settings = swapped(name, arch=ARCH).config.model.data_preprocessor
    assert settings.mean == [123.675, 116.28, 103.53]
    assert settings.std == [58.395, 57.12, 57.375]
    assert settings.bgr_to_rgb is True


def test_sides_are_padded_to_32_unless_that_shifts_masks() -> None:
    detr = swapped("mmdet::detr/detr_r50_8xb2-150e_coco.py", arch=ARCH).config.model
    assert detr.data_preprocessor.pad_size_divisor == 32
    upernet = swapped(UPERNET, arch=ARCH).config.model
    assert upernet.data_preprocessor.test_cfg == dict(size_divisor=32)
    yolact = swapped("mmdet::yolact/yolact_r50_1xb8-55e_coco.py", arch=ARCH).config.model
    assert "pad_size_divisor" not in yolact.data_preprocessor


def test_settings_of_the_preprocessor_around_another_are_found() -> None:
    name = "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"
    model = swapped(name, arch="s0").config.model
    assert model.detector.backbone.type == "CARETransformer"
    assert model.data_preprocessor.data_preprocessor.std == [58.395, 57.12, 57.375]


def test_weights_of_the_old_model_are_not_loaded() -> None:
    swap = swapped("mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py", arch="s0")
    assert swap.config.load_from is None
    assert "mask_rcnn_r50_fpn_1x_coco" in swap.remarks[("load_from",)]
    assert swapped(PSPNET, arch="s0").config.model.pretrained is None


def test_weights_are_where_asked_or_left_out() -> None:
    named = swapped(RETINANET, arch="s0", checkpoint="w.pth").config.model.backbone
    assert named.init_cfg.checkpoint == "w.pth"
    assert "init_cfg" not in swapped(RETINANET, arch=ARCH).config.model.backbone


def test_learning_rates_by_the_old_backbones_depth_go() -> None:
    name = "mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py"
    old, new = read(name).config.optim_wrapper, swapped(name, arch=ARCH).config.optim_wrapper
    assert old.constructor == "LearningRateDecayOptimizerConstructor"
    assert not {"constructor", "paramwise_cfg"} & set(new)
    assert new.optimizer == old.optimizer


def test_imports_that_are_there_stay() -> None:
    name = "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py"
    assert read(name).config.custom_imports.imports == "mmdet.models"
    imports = swapped(name, arch=ARCH).config.custom_imports
    assert imports == dict(imports=["mmdet.models", "care_mm"], allow_failed_imports=False)


# What cannot be done


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Config(dict(data_root="data")), "no model"),
        (minimal(neck=dict(type="FPN")), "no backbone"),
        (Config(dict(model=dict(type="X", backbone=dict(type="Y")))), "default_scope is None"),
        (minimal(backbone=dict(type="CARETransformer")), "already"),
        (minimal(backbone=dict(type="ResNet", depth=51)), "does not run by itself"),
        (minimal(backbone=dict(type="NoSuchNet")), "NoSuchNet"),
        (minimal(backbone=dict(type=dict)), "read_base"),
        (
            minimal(detector=dict(backbone=dict(type="A")), reid=dict(backbone=dict(type="B"))),
            "model.detector.backbone, model.reid.backbone",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(config: Config, reason: str) -> None:
    with pytest.raises(InputError) as error:
        swap_backbone(config, "s0")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arch", "reason"),
    [("s7", "s0, s1, s2"), (dict(ARCH, depht=1), "depht"), (dict(ARCH, mem_dims=(8,)), "mem_dims")],
)
def test_an_unknown_size_is_refused(arch: object, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        swapped(RETINANET, arch=arch)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("mmdet::retinanet/retinanet_r50_fpn_2x_cocco.py", "mmdet::retinanet/retinanet_r50_fpn_2x"),
        ("mmpretrain::resnet/resnet50_8xb32_in1k.py", "mmdet:: and mmseg::"),
        ("no/such/config.py", "no such file"),
    ],
)
def test_a_config_that_is_not_there_is_named(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=hint):
        read(name)


# The text


def test_the_optimizer_on_offer_works_when_uncommented(tmp_path: Path) -> None:
    source = read(PSPNET)
    out = tmp_path / "offered.py"
    text = swap_text(swap_backbone(source.config, "s0"), source, out)
    offered = text.replace("# optim_wrapper", "optim_wrapper")
    assert offered != text
    out.write_text(offered)
    wrapper = Config.fromfile(out).optim_wrapper
    assert wrapper.optimizer == dict(type="AdamW", lr=2e-4, weight_decay=1e-4)


def test_a_config_of_the_users_own_is_named_by_its_way_from_the_new_one(
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


def test_a_key_that_is_no_name_is_written_as_one(tmp_path: Path) -> None:
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


# The page

PAGE = (Path(__file__).parents[2] / "docs" / "swap.md").read_text(encoding="utf-8")


def test_the_lines_by_hand_are_a_config(tmp_path: Path) -> None:
    (tmp_path / "by_hand.py").write_text(PAGE.split("```python\n")[1].split("```")[0])
    by_hand = Config.fromfile(tmp_path / "by_hand.py").model
    swap = swapped(RETINANET, arch="s1").config.model
    assert by_hand.neck.in_channels == swap.neck.in_channels
    assert set(by_hand.backbone) == {"type", "arch"}


@pytest.mark.parametrize("arch", ["s0", "s1", "s2"])
def test_the_widths_on_the_page_are_those_of_the_model(arch: str) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith("| s") and arch in line)
    widths = [cell.strip() for cell in row.split("|")[2:4]]
    for cell, expand_last in zip(widths, (True, False), strict=True):
        channels = CARETransformer(arch, expand_last=expand_last).out_channels
        assert cell == ", ".join(map(str, channels))
