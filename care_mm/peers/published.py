"""Published figures of the systems that the paper compares CARE with.

Parameters and GMACs are those of the authors' code with all classification heads and 1000 classes,
at 224 x 224. GMACs count convolutions, linear layers and matrix products, and nothing else. Top-1
is the accuracy on ImageNet-1K that the authors report.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """The published figures of a variant.

    Attributes:
        parameters: Number of parameters.
        gmacs: Multiply-adds of one image, in 1e9.
        top1: Accuracy on ImageNet-1K in percent.
        drop_path: Drop path rate of the authors' training: on ImageNet, or on COCO if they name
            one.
        heads: Classification heads in the two counts; the second one learns from a teacher.
    """

    parameters: int
    gmacs: float
    top1: float
    drop_path: float = 0.0
    heads: int = 1


# Name of the system, as in tools/swap_backbone.py -> variant -> figures.
PUBLISHED = {
    "mlla": {
        "t": Published(24_392_200, 4.1314, 83.5, 0.1),  # 0.2 on ImageNet
        "s": Published(43_015_048, 7.2486, 84.4, 0.3),
        "b": Published(95_983_960, 16.1137, 85.3, 0.5),
    },
    "flatten-pvt": {
        "t": Published(12_150_504, 2.0374, 77.8, 0.1),
        "s": Published(21_670_248, 4.0299, 81.7, 0.1),
    },
    "flatten-swin": {
        "t": Published(29_192_384, 4.4833, 82.1, 0.2),
        "s": Published(50_510_288, 8.7336, 83.5, 0.3),
    },
    "slab-pvt": {"t": Published(12_157_692, 2.0359, 76.5)},
    "slab-swin": {
        "t": Published(29_216_605, 4.4833, 81.8, 0.2),
        "s": Published(50_552_965, 8.7336, 83.6, 0.3),
    },
    "emo": {
        "1m": Published(1_361_168, 0.2552, 71.5, 0.04036),
        "2m": Published(2_377_472, 0.4319, 75.1, 0.05),
        "5m": Published(5_108_848, 0.8922, 78.4, 0.05),
    },
    "mobilevig": {
        "ti": Published(5_271_074, 0.6621, 75.7, 0.1, heads=2),
        "s": Published(7_276_538, 0.9837, 78.2, 0.1, heads=2),
        "m": Published(14_075_786, 1.4934, 80.6, 0.1, heads=2),
        "b": Published(26_868_506, 2.7929, 82.6, 0.1, heads=2),
    },
    # timm's models, with the top-1 of their papers.
    "mobilenetv2": {"100": Published(3_504_872, 0.3008, 71.8)},
    "efficientformer": {"l1": Published(12_289_928, 1.2913, 79.2, heads=2)},
    "efficientformerv2": {"s1": Published(6_185_560, 0.6520, 79.0, heads=2)},  # 300 epochs
    "swin": {"t": Published(28_288_354, 4.4906, 81.3, 0.2)},
    "convnext": {"t": Published(28_589_128, 4.4555, 82.1, 0.4)},
}
