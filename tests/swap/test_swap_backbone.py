"""Swapping a backbone: the difference to the old config, the new backbone, and refusals."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from swap.examples import RETINANET, UPERNET, swapped
from swap.families import ARCH

from care_mm.errors import InputError
from care_mm.swap import read, swap_backbone
from care_mm.swap.backbone import difference


def minimal(**model: object) -> Config:
    """Return the config of a detector whose parts do not have to build."""
    return Config(dict(default_scope="mmdet", model=dict(type="RetinaNet", **model)))


# The difference

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
    # Not ==, because Python calls 1, 1.0 and True equal.
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


def test_numbers_that_python_calls_equal_are_a_difference() -> None:
    assert difference({"a": [1], "b": 1}, {"a": [True], "b": 1.0}) == {"a": [True], "b": 1.0}


# The backbone


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


def test_the_given_config_is_not_changed() -> None:
    config = read(UPERNET).config
    before = config.to_dict()
    swap_backbone(config, ARCH)
    assert config.to_dict() == before


def test_the_largest_size_has_its_widths_and_its_drop_path() -> None:
    model = swapped(UPERNET, arch="s2").config.model
    assert model.decode_head.in_channels == [32, 64, 192, 1536]
    assert model.auxiliary_head.in_channels == 192
    assert model.backbone.drop_path_rate == 0.1


@pytest.mark.parametrize(
    ("name", "norm_eval", "kind"),
    [
        (RETINANET, True, None),  # a ResNet with fixed statistics
        (UPERNET, None, "SyncBN"),  # a ResNet with live statistics, on several GPUs
        ("mmdet::yolact/yolact_r50_1xb8-55e_coco.py", None, None),  # the same on one GPU
        ("mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py", None, "SyncBN"),
        ("mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py", True, None),
    ],
)
def test_norm_statistics_are_kept_or_synchronised_as_before(
    name: str, norm_eval: bool | None, kind: str | None
) -> None:
    backbone = swapped(name, arch=ARCH).config.model.backbone
    assert backbone.get("norm_eval") is norm_eval
    assert (backbone.get("norm_cfg") or {}).get("type") == kind


def test_weights_are_the_given_ones_or_none() -> None:
    named = swapped(RETINANET, arch="s0", checkpoint="w.pth").config.model.backbone
    assert named.init_cfg.checkpoint == "w.pth"
    assert "init_cfg" not in swapped(RETINANET, arch=ARCH).config.model.backbone


# Refusals


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
def test_an_impossible_swap_is_refused_in_one_line(config: Config, reason: str) -> None:
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
