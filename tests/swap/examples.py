"""Configs of mmdet and mmseg that several tests of the swap use."""

from __future__ import annotations

from care_mm.swap import Swap, read, swap_backbone

RETINANET = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
UPERNET = "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"
PSPNET = "mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py"


def swapped(name: str, **settings: object) -> Swap:
    return swap_backbone(read(name).config, **settings)
