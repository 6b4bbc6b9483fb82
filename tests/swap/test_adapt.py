"""The rest of a config: normalisation, old weights, optimizer, imports."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from swap.examples import PSPNET, RETINANET, UPERNET, swapped
from swap.families import ARCH

from care_mm.config import load_config
from care_mm.swap import read
from care_mm.swap.adapt import DIVISOR, MEAN, PREPROCESSORS, STD
from care_mm.swap.choices import DROP_PATH
from care_mm.swap.config_file import RECIPES

CONFIGS = Path(__file__).parents[2] / "configs"
OWN = {"mmdet": "maskrcnn_care_{}_coco.py", "mmseg": "semfpn_care_{}_ade20k.py"}


@pytest.fixture(params=OWN)
def own(request: pytest.FixtureRequest) -> Config:
    """Our own config of a scope; an installed care_mm does not contain it."""
    return load_config(CONFIGS / OWN[request.param].format("s0"))


def test_the_preprocessor_is_that_of_our_own_configs(own: Config) -> None:
    settings = own.model.data_preprocessor
    for key, value in PREPROCESSORS[own.default_scope].items():
        assert settings[key] == value
    assert (settings.mean, settings.std) == (MEAN, STD)
    divisors = {settings.get("pad_size_divisor"), settings.get("test_cfg", {}).get("size_divisor")}
    assert DIVISOR in divisors


def test_the_recipe_is_that_of_our_own_configs(own: Config) -> None:
    batch, optimizer = RECIPES[own.default_scope]
    assert batch == own.auto_scale_lr.base_batch_size
    assert optimizer == own.optim_wrapper.optimizer


@pytest.mark.parametrize("name", OWN.values())
@pytest.mark.parametrize("arch", ["s0", "s1", "s2"])
def test_the_drop_path_is_that_of_our_own_configs(name: str, arch: str) -> None:
    backbone = load_config(CONFIGS / name.format(arch)).model.backbone
    assert backbone.get("drop_path_rate") == DROP_PATH.get(arch)


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
def test_images_are_rgb_with_the_statistics_of_imagenet(name: str) -> None:
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


def test_a_nested_preprocessor_is_adapted() -> None:
    name = "mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py"
    model = swapped(name, arch="s0").config.model
    assert model.detector.backbone.type == "CARETransformer"
    assert model.data_preprocessor.data_preprocessor.std == [58.395, 57.12, 57.375]


def test_weights_of_the_old_model_are_not_loaded() -> None:
    swap = swapped("mmdet::cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py", arch="s0")
    assert swap.config.load_from is None
    assert "mask_rcnn_r50_fpn_1x_coco" in swap.remarks[("load_from",)]
    assert swapped(PSPNET, arch="s0").config.model.pretrained is None


def test_learning_rates_by_depth_are_removed() -> None:
    name = "mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py"
    old, new = read(name).config.optim_wrapper, swapped(name, arch=ARCH).config.optim_wrapper
    assert old.constructor == "LearningRateDecayOptimizerConstructor"
    assert not {"constructor", "paramwise_cfg"} & set(new)
    assert new.optimizer == old.optimizer


def test_existing_imports_are_kept() -> None:
    name = "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py"
    assert read(name).config.custom_imports.imports == "mmdet.models"
    imports = swapped(name, arch=ARCH).config.custom_imports
    assert imports == dict(imports=["mmdet.models", "care_mm"], allow_failed_imports=False)
