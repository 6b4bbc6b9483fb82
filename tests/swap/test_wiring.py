"""The inputs of the necks and heads that read the new backbone."""

from __future__ import annotations

import pytest
from swap.examples import PSPNET, RETINANET, UPERNET, swapped
from swap.families import ARCH

from care_mm.errors import InputError
from care_mm.swap import read, swap_backbone


def test_a_neck_that_reads_three_maps_gets_three_stages() -> None:
    model = swapped("mmdet::yolox/yolox_s_8xb8-300e_coco.py", arch="s0").config.model
    assert model.backbone.out_indices == (1, 2, 3)
    assert model.neck.in_channels == [64, 128, 1024]


def test_a_neck_that_lists_its_maps_from_the_deepest_up_still_does() -> None:
    model = swapped("mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py", arch="s0").config.model
    assert model.neck.in_channels == [1024, 128, 64]


def test_heads_behind_a_neck_that_passes_maps_on_get_their_new_widths() -> None:
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
    assert "Reads strides 8, 16 and 32, resized to 8" in swap.remarks["model", "decode_head"]
    assert "Reads stride 16," in swap.remarks["model", "auxiliary_head"]


def test_two_heads_that_multiply_their_maps_get_maps_of_one_size() -> None:
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
