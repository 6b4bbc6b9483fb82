"""The named comparisons of the benchmark: models, their peers, and the conditions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """Models of one kind under the same conditions.

    Attributes:
        models: Our configs.
        peers: Configs of the models that ours are compared with.
        shape: Height and width of the input.
        classes: Number of classes of all heads; ``None`` if the configs agree.
        backends: The runtimes.
        threads: Numbers of CPU threads.
    """

    models: tuple[str, ...]
    peers: tuple[str, ...]
    shape: tuple[int, int]
    classes: int | None = None
    backends: tuple[str, ...] = ("onnxruntime", "openvino")
    threads: tuple[int, ...] = (1, 2)


COMPARISONS = {
    "detectors": Comparison(
        models=(
            "care_mm::rtmdet_care_s0_coco.py",
            "care_mm::rtmdet-ins_care_s0_coco.py",
        ),
        peers=(
            "care_mm::maskrcnn_care_s0_coco.py",
            "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
            "mmdet::yolox/yolox_tiny_8xb8-300e_coco.py",
            "mmdet::ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py",
        ),
        shape=(640, 640),
    ),
    # Cityscapes has 19 classes, ADE20K 150. The logits of all classes are resized to the input, so
    # a fair comparison needs one number.
    "segmentors": Comparison(
        models=("care_mm::segformer_care_s0_ade20k.py",),
        peers=(
            "care_mm::semfpn_care_s0_ade20k.py",
            "mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py",
            "mmseg::pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py",
            "mmseg::fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py",
            "mmseg::bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py",
        ),
        shape=(512, 512),
        classes=150,
    ),
}
