"""Tiny one-stage detectors of mmdet, whose weights make them detect something.

Some have CARE as their backbone, the others a few convolutions, which convert sooner.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import golden
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from care_mm.datasets.shapes.objects import OBJECTS

BASES = Path(__file__).parents[2] / "configs" / "_base_"
ARCH = dict(
    depths=(1, 1, 1, 1),
    mem_dims=(8, 8, 8, 8),
    interaction_ratios=((2, 2),) * 4,
    attn_head_dims=(None, None, 8, 8),
)
WITH_CARE = ("RTMDet", "RetinaNet")
CLASSES = len(OBJECTS)
WIDTH = 16
NORMALISATION = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
ANCHORS = dict(
    type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3, ratios=[0.5, 1.0, 2.0]
)
ONE_ANCHOR = dict(type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1)
STRIDES = [8, 16, 32]
DELTAS = dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2])
FOCAL = dict(type="FocalLoss", use_sigmoid=True)
NORM = dict(type="BN")
TEST = dict(nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.6))


@MODELS.register_module()
class FourConvolutions(nn.Module):
    """A backbone of one convolution for each of the strides 4, 8, 16 and 32."""

    def __init__(self, out_indices: tuple[int, ...]) -> None:
        super().__init__()
        self.out_indices = out_indices
        self.out_channels = (8, 16, 16, 16)
        strides, widths = (4, 2, 2, 2), (3, *self.out_channels)
        self.stages = nn.ModuleList(
            nn.Conv2d(*pair, 5, stride, padding=2)
            for pair, stride in zip(pairwise(widths), strides, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the stages in ``out_indices``."""
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]).relu())
        return tuple(maps[i + 1] for i in self.out_indices)


def _backbone(family: str, out_indices: tuple[int, ...]) -> dict[str, Any]:
    if family in WITH_CARE:
        return dict(type="CARETransformer", arch=ARCH, out_indices=out_indices)
    return dict(type="FourConvolutions", out_indices=out_indices)


def _fpn(channels: list[int], levels: int = 3) -> dict[str, Any]:
    neck = dict(type="FPN", in_channels=channels[1:], out_channels=WIDTH, num_outs=levels)
    return {**neck, "add_extra_convs": "on_output"}


def _pafpn(kind: str, channels: list[int]) -> dict[str, Any]:
    neck = dict(type=kind, in_channels=channels[1:], out_channels=WIDTH)
    return {**neck, "num_csp_blocks": 1, "norm_cfg": NORM, "act_cfg": dict(type="SiLU")}


def _head(kind: str, **settings: Any) -> dict[str, Any]:
    head = dict(type=kind, num_classes=CLASSES, in_channels=WIDTH, feat_channels=WIDTH)
    return {**head, "stacked_convs": 1, **settings}


def _rtmdet(kind: str, **settings: Any) -> dict[str, Any]:
    return _head(
        kind,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=STRIDES),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True),
        norm_cfg=NORM,
        act_cfg=dict(type="SiLU"),
        **settings,
    )


def model_config(family: str, channels: list[int]) -> dict[str, Any]:
    """Return the model of a config.

    Args:
        family: A key of :data:`care_mm.export.one_stage.FAMILIES`.
        channels: Widths of the four maps of the backbone.
    """
    fpn, divisor, test = _fpn(channels), 32, dict(TEST, max_per_img=40)
    if family == "RetinaNet":
        fpn = _fpn(channels, levels=5)
        head = _head("RetinaHead", anchor_generator=dict(ANCHORS, strides=[*STRIDES, 64, 128]))
        head.update(bbox_coder=DELTAS, loss_cls=FOCAL)
    elif family == "FCOS":
        ranges = ((-1, 64), (64, 128), (128, 1e8))
        head = _head(
            "FCOSHead",
            strides=STRIDES,
            regress_ranges=ranges,
            norm_on_bbox=True,
            centerness_on_reg=True,
        )
        head.update(norm_cfg=NORM)
    elif family == "ATSS":
        head = _head("ATSSHead", anchor_generator=dict(ONE_ANCHOR, strides=STRIDES))
        head.update(bbox_coder=DELTAS, loss_cls=FOCAL, norm_cfg=NORM)
    elif family == "GFL":
        head = _head("GFLHead", anchor_generator=dict(ONE_ANCHOR, strides=STRIDES))
        head.update(loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True), norm_cfg=NORM)
        head.update(reg_max=7)
    elif family == "RTMDet":
        fpn, divisor = _pafpn("CSPNeXtPAFPN", channels), 1
        head = _rtmdet("RTMDetSepBNHead", exp_on_reg=True, with_objectness=False)
        test.update(nms_pre=30000, score_thr=0.001)
    elif family == "RTMDet-Ins":
        fpn, divisor = _pafpn("CSPNeXtPAFPN", channels), 1
        head = _rtmdet("RTMDetInsSepBNHead", loss_mask=dict(type="DiceLoss"))
        head.update(with_objectness=True)
        test.update(mask_thr_binary=0.5)
    elif family == "YOLOX":
        fpn = _pafpn("YOLOXPAFPN", channels)
        head = _head("YOLOXHead", strides=STRIDES)
        test = dict(score_thr=0.01, nms=dict(type="nms", iou_threshold=0.65))
    else:
        widths = [*channels[2:], WIDTH, WIDTH]
        anchors = dict(type="SSDAnchorGenerator", scale_major=False, strides=[16, 32, 64, 107])
        anchors.update(ratios=[[2, 3], [2], [2], [2]], min_sizes=[16, 32, 48, 64])
        anchors.update(max_sizes=[32, 48, 64, 80])
        fpn = dict(type="SSDNeck", in_channels=channels[2:], out_channels=widths)
        fpn.update(level_strides=(2, 2), level_paddings=(1, 1), l2_norm_scale=None)
        fpn.update(use_depthwise=True, norm_cfg=NORM)
        head = dict(type="SSDHead", num_classes=CLASSES, in_channels=widths, bbox_coder=DELTAS)
        head.update(use_depthwise=True, norm_cfg=NORM, anchor_generator=anchors)
        test.update(score_thr=0.02, nms=dict(type="nms", iou_threshold=0.45))
        divisor = 1
    preprocessor = dict(type="DetDataPreprocessor", pad_size_divisor=divisor, **NORMALISATION)
    if family == "RTMDet-Ins":
        preprocessor.update(pad_mask=True)
    stages = (2, 3) if family == "SSD" else (1, 2, 3)
    return dict(
        type="SingleStageDetector",
        data_preprocessor=preprocessor,
        backbone=_backbone(family, stages),
        neck=fpn,
        bbox_head=head,
        test_cfg=test,
    )


def build(family: str) -> tuple[dict[str, Any], nn.Module]:
    """Return the config of a model and the model, in evaluation mode."""
    init_default_scope("mmdet")
    backbone = MODELS.build(_backbone(family, (0, 1, 2, 3)))
    config = model_config(family, list(backbone.out_channels))
    model = MODELS.build(Config(dict(model=config)).model)
    if family == "SSD":
        model.bbox_head.loss_cls = None  # mmdet 3.3 reads it to predict, but SSDHead has none
    for key, value in model.state_dict().items():
        if not key.endswith("integral.project"):  # a constant of GFL
            value.copy_(torch.as_tensor(golden.draw(key, value.shape)))
        if family == "RTMDet-Ins" and "rtm_reg" in key and key.endswith("bias"):
            value.add_(1)  # as mmdet initialises it, or boxes are empty
    return config, model.eval().requires_grad_(False)
