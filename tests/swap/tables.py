"""The model families that the swap is tested on, and those that it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """A row of the table of supported families.

    Args:
        name: The usual name.
        config: A config that ships with mmdet or mmseg.
        thinner: Settings below ``model`` that make the model even smaller.
        square: The images of a batch have one size, as the model's pipeline makes them.
        needs: A package that training needs in addition to mmdet and mmseg.
    """

    name: str
    config: str
    thinner: Mapping[str, Any] = field(default_factory=dict)
    square: bool = False
    needs: str | None = None


@dataclass(frozen=True)
class Refusal:
    """A row of the table of refused families, with a part of the reason."""

    name: str
    config: str
    reason: str


THIN_HEAD = {"decode_head.channels": 64, "auxiliary_head.channels": 64}

FAMILIES = (
    Family("Faster R-CNN", "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"),
    Family("Mask R-CNN", "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"),
    Family("Cascade Mask R-CNN", "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py"),
    Family("HTC", "mmdet::htc/htc_r50_fpn_1x_coco.py"),
    Family("Libra R-CNN", "mmdet::libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py"),
    Family("Mask R-CNN, Swin", "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"),
    Family(
        "Cascade Mask R-CNN, ConvNeXt",
        "mmdet::convnext/cascade-mask-rcnn_convnext-t-p4-w7_fpn_4conv1fc-giou_amp-ms-crop-3x_coco.py",
    ),
    Family("Panoptic FPN", "mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"),
    Family("PointRend (detection)", "mmdet::point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py"),
    Family("RetinaNet", "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"),
    Family("RetinaNet, PVT v2", "mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py"),
    Family("FCOS", "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py"),
    Family("ATSS", "mmdet::atss/atss_r50_fpn_1x_coco.py"),
    Family("GFL", "mmdet::gfl/gfl_r50_fpn_1x_coco.py"),
    Family("PAA", "mmdet::paa/paa_r50_fpn_1x_coco.py", needs="scikit-learn"),
    Family("TOOD", "mmdet::tood/tood_r50_fpn_1x_coco.py"),
    Family("RepPoints", "mmdet::reppoints/reppoints-moment_r50_fpn-gn_head-gn_1x_coco.py"),
    Family(
        "CenterNet",
        "mmdet::centernet/centernet_r18_8xb16-crop512-140e_coco.py",
    ),
    Family(
        "CenterNet update", "mmdet::centernet/centernet-update_r50_fpn_8xb8-amp-lsj-200e_coco.py"
    ),
    Family("YOLOv3", "mmdet::yolo/yolov3_d53_8xb8-320-273e_coco.py"),
    Family("YOLOF", "mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py"),
    Family("YOLOX", "mmdet::yolox/yolox_s_8xb8-300e_coco.py", square=True),
    Family("RTMDet", "mmdet::rtmdet/rtmdet_s_8xb32-300e_coco.py", square=True),
    Family("RTMDet-Ins", "mmdet::rtmdet/rtmdet-ins_s_8xb32-300e_coco.py", square=True),
    Family(
        "SOLOv2",
        "mmdet::solov2/solov2_r50_fpn_1x_coco.py",
        {"mask_head.feat_channels": 64, "mask_head.num_grids": [12, 8, 6, 4, 4]},
    ),
    Family("CondInst", "mmdet::condinst/condinst_r50_fpn_ms-poly-90k_coco_instance.py"),
    Family("YOLACT", "mmdet::yolact/yolact_r50_1xb8-55e_coco.py", square=True),
    Family("Sparse R-CNN", "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py"),
    Family("DETR", "mmdet::detr/detr_r50_8xb2-150e_coco.py"),
    Family("Conditional DETR", "mmdet::conditional_detr/conditional-detr_r50_8xb2-50e_coco.py"),
    Family("Deformable DETR", "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"),
    Family("DINO", "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py"),
    Family("Mask2Former, instances", "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"),
    Family(
        "Mask2Former, panoptic",
        "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco-panoptic.py",
    ),
    Family("MaskFormer, panoptic", "mmdet::maskformer/maskformer_r50_ms-16xb1-75e_coco.py"),
    Family("Semantic FPN", "mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py"),
    Family("UPerNet", "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py", THIN_HEAD),
    Family(
        "UPerNet, ConvNeXt",
        "mmseg::convnext/convnext-tiny_upernet_8xb2-amp-160k_ade20k-512x512.py",
        THIN_HEAD,
    ),
    Family("SegFormer", "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py"),
    Family("SegNeXt", "mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py"),
    Family("FCN", "mmseg::fcn/fcn_r50-d8_4xb4-80k_ade20k-512x512.py", THIN_HEAD),
    Family("FCN, HRNet", "mmseg::hrnet/fcn_hr18_4xb4-80k_ade20k-512x512.py"),
    Family("PSPNet", "mmseg::pspnet/pspnet_r50-d8_4xb4-80k_ade20k-512x512.py", THIN_HEAD),
    Family(
        "DeepLabV3+",
        "mmseg::deeplabv3plus/deeplabv3plus_r50-d8_4xb4-80k_ade20k-512x512.py",
        THIN_HEAD,
    ),
    Family(
        "DeepLabV3+, MobileNetV2",
        "mmseg::mobilenet_v2/mobilenet-v2-d8_deeplabv3plus_4xb4-160k_ade20k-512x512.py",
        THIN_HEAD,
    ),
    Family("OCRNet", "mmseg::ocrnet/ocrnet_r101-d8_4xb2-40k_cityscapes-512x1024.py"),
    Family("OCRNet, HRNet", "mmseg::ocrnet/ocrnet_hr18_4xb4-80k_ade20k-512x512.py"),
    Family("ISANet", "mmseg::isanet/isanet_r50-d8_4xb4-80k_ade20k-512x512.py", THIN_HEAD),
    Family("ANN", "mmseg::ann/ann_r50-d8_4xb4-80k_ade20k-512x512.py", THIN_HEAD),
    Family("EncNet", "mmseg::encnet/encnet_r50-d8_4xb4-80k_ade20k-512x512.py", THIN_HEAD),
    Family("FastFCN", "mmseg::fastfcn/fastfcn_r50-d32_jpu_psp_4xb4-80k_ade20k-512x512.py"),
    Family("PointRend", "mmseg::point_rend/pointrend_r50_4xb4-160k_ade20k-512x512.py"),
    Family("K-Net, UPerNet", "mmseg::knet/knet-s3_r50-d8_upernet_8xb2-adamw-80k_ade20k-512x512.py"),
    Family("K-Net, FCN", "mmseg::knet/knet-s3_r50-d8_fcn_8xb2-adamw-80k_ade20k-512x512.py"),
    Family("MaskFormer", "mmseg::maskformer/maskformer_r50-d32_8xb2-160k_ade20k-512x512.py"),
    Family("Mask2Former", "mmseg::mask2former/mask2former_r50_8xb2-160k_ade20k-512x512.py"),
)

REFUSALS = (
    Refusal("SSD", "mmdet::ssd/ssd300_coco.py", "SSDNeck"),
    Refusal("Faster R-CNN C4", "mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py", "C4"),
    Refusal("Faster R-CNN DC5", "mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py", "DC5"),
    Refusal("TridentNet", "mmdet::tridentnet/tridentnet_r50-caffe_1x_coco.py", "three branches"),
    Refusal(
        "CornerNet", "mmdet::cornernet/cornernet_hourglass104_8xb6-210e-mstest_coco.py", "stack"
    ),
    Refusal("DetectoRS", "mmdet::detectors/detectors_cascade-rcnn_r50_1x_coco.py", "RFP"),
    Refusal("GLIP", "mmdet::glip/glip_atss_swin-t_a_fpn_dyhead_pretrain_obj365.py", "text"),
    Refusal(
        "Grounding DINO",
        "mmdet::grounding_dino/grounding_dino_swin-t_finetune_16xb2_1x_coco.py",
        "text",
    ),
    Refusal(
        "Mask2Former, video",
        "mmdet::mask2former_vis/mask2former_r50_8xb2-8e_youtubevis2019.py",
        "video",
    ),
    Refusal(
        "DeepSORT",
        "mmdet::deepsort/deepsort_faster-rcnn_r50_fpn_8xb2-4e_mot17halftrain_test-mot17halfval.py",
        "2 backbones",
    ),
    Refusal(
        "Segmenter", "mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py", "tokens"
    ),
    Refusal("SETR", "mmseg::setr/setr_vit-l_naive_8xb2-160k_ade20k-512x512.py", "tokens"),
    Refusal("BEiT", "mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py", "tokens"),
    Refusal("DPT", "mmseg::dpt/dpt_vit-b16_8xb2-160k_ade20k-512x512.py", "tokens"),
    Refusal("SAN", "mmseg::san/san-vit-b16_coco-stuff164k-640x640.py", "no backbone"),
    Refusal(
        "BiSeNetV1",
        "mmseg::bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024.py",
        "branch",
    ),
    Refusal(
        "BiSeNetV2", "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py", "branch"
    ),
    Refusal("ICNet", "mmseg::icnet/icnet_r18-d8_4xb2-80k_cityscapes-832x832.py", "branch"),
    Refusal(
        "DDRNet",
        "mmseg::ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py",
        "branch",
    ),
    Refusal("PIDNet", "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py", "branch"),
    Refusal("STDC", "mmseg::stdc/stdc1_4xb12-80k_cityscapes-512x1024.py", "branch"),
    Refusal("Fast-SCNN", "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py", "branch"),
    Refusal("CGNet", "mmseg::cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680.py", "[2]"),
    Refusal("ERFNet", "mmseg::erfnet/erfnet_fcn_4xb4-160k_cityscapes-512x1024.py", "decoder"),
    Refusal("U-Net", "mmseg::unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py", "decoder"),
    Refusal(
        "LR-ASPP",
        "mmseg::mobilenet_v3/mobilenet-v3-d8_lraspp_4xb4-320k_cityscapes-512x1024.py",
        "[2]",
    ),
    Refusal("VPD", "mmseg::vpd/vpd_sd_4xb8-25k_nyu-480x480.py", "diffusion"),
)
