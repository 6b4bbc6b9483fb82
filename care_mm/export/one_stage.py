"""mmdet's one-stage detectors with fixed counts; see :mod:`care_mm.export.detector`."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from care_mm.errors import InputError
from care_mm.export.decoding import Decoder, Decoding, DynamicMasks
from care_mm.export.detector import Detector, check_nms

# Family -> the heads of mmdet that compute as it does.
FAMILIES = {
    "RetinaNet": ("RetinaHead", "RetinaSepBNHead"),
    "FCOS": ("FCOSHead",),
    "ATSS": ("ATSSHead",),
    "GFL": ("GFLHead",),
    "RTMDet": ("RTMDetHead", "RTMDetSepBNHead"),
    "RTMDet-Ins": ("RTMDetInsHead", "RTMDetInsSepBNHead"),
    "YOLOX": ("YOLOXHead",),
    "SSD": ("SSDHead",),
}
_PRIORS = ("AnchorGenerator", "SSDAnchorGenerator", "MlvlPointGenerator")
_CODERS = {"DeltaXYWHBBoxCoder": "deltas", "DistancePointBBoxCoder": "distances"}
# Necks that double maps, so that they accept multiples of the largest stride only. Images are
# padded to these; mmdet fails on others.
_DOUBLING_NECKS = ("CSPNeXtPAFPN", "YOLOXPAFPN")
# YOLOX has no limit of detections. COCO evaluates 100.
_MOST_OF_YOLOX = 300


class DenseHead(nn.Module):
    """The network of a one-stage detector: backbone, neck and the convolutions of the head."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.bbox_head
        self.neck = model.neck if model.with_neck else nn.Identity()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of an image (1, 3, H, W); see :attr:`Decoding.map_names`."""
        outputs = self.head(self.neck(self.backbone(image)))
        return tuple(
            tensor
            for output in outputs
            for tensor in (output if isinstance(output, (list, tuple)) else [output])
        )


class OneStageDetector(Detector):
    """A one-stage detector with fixed counts, whose arithmetic equals mmdet's.

    Args:
        model: A detector with a head of :data:`FAMILIES`.

    Raises:
        InputError: The detector has another head, or settings that export does not support.
    """

    def __init__(self, model: nn.Module) -> None:
        decoding = decoding_of(model)
        super().__init__(model, DenseHead(model))
        self.decoder = Decoder(decoding)
        self.outputs, self.map_names = decoding.outputs, decoding.map_names
        self.coarsest = max(int(side) for stride in decoding.strides for side in stride)
        if type(getattr(model, "neck", None)).__name__ in _DOUBLING_NECKS:
            self.divisor = math.lcm(self.divisor, self.coarsest)

    @property
    def decoding(self) -> Decoding:
        """The description of the maps."""
        return self.decoder.decoding

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect objects in a normalised image (1, 3, H, W) of any size, which is padded here.

        Returns:
            See :meth:`care_mm.export.decoding.Decoder.forward`.
        """
        maps = dict(zip(self.map_names, self.maps(image), strict=True))
        return self.decoder(maps, tuple(image.shape[2:]))


def decoding_of(model: nn.Module) -> Decoding:
    """Return how the maps of an mmdet model are decoded.

    Raises:
        InputError: The detector has another head, or settings that export does not support.
    """
    head, cfg = model.bbox_head, dict(model.bbox_head.test_cfg or {})
    name = type(head).__name__
    supported = {head: family for family, heads in FAMILIES.items() for head in heads}
    if name not in supported or getattr(model, "mask_head", None) is not None:
        raise InputError(
            f"{type(model).__name__} with a bbox_head of type {name}: of one-stage detectors, "
            f"export supports {', '.join(FAMILIES)} ({', '.join(supported)}); --what backbone "
            "exports the feature pyramid of any model"
        )
    loss = getattr(head, "loss_cls", None)
    if getattr(loss, "custom_cls_channels", False):
        raise InputError(f"{name} with {type(loss).__name__}: export lacks its activation")
    check_nms("test_cfg.nms", cfg.get("nms"), agnostic=True)
    family = supported[name]
    yolox = family == "YOLOX"
    priors = _first_priors(head)
    return Decoding(
        head=name,
        strides=[[float(side) for side in stride] for stride in head.prior_generator.strides],
        priors=priors,
        classes=head.num_classes,
        activation="sigmoid" if head.use_sigmoid_cls else "softmax",
        factor=family in ("FCOS", "ATSS", "YOLOX"),
        best_class=yolox,
        score_thr=float(cfg.get("score_thr", 0)),
        iou_threshold=float(cfg["nms"]["iou_threshold"]),
        max_per_img=int(cfg.get("max_per_img", _MOST_OF_YOLOX if yolox else 100)),
        nms_pre=0 if yolox else max(0, cfg.get("nms_pre", 0)),
        min_size=-1 if yolox else float(cfg.get("min_bbox_size", -1)),
        class_agnostic=bool(cfg["nms"].get("class_agnostic", False)),
        masks=_masks(head, cfg) if family == "RTMDet-Ins" else None,
        **_box_settings(head, family),
    )


def _first_priors(head: nn.Module) -> list[list[list[float]]]:
    """Return the priors of the first cell for each level, as boxes."""
    generator = head.prior_generator
    kind = type(generator).__name__
    if kind not in _PRIORS:
        raise InputError(f"a prior_generator of type {kind}: export supports {', '.join(_PRIORS)}")
    if kind == "MlvlPointGenerator":
        offset = generator.offset
        return [[[x * offset, y * offset] * 2] for x, y in generator.strides]
    return [anchors.tolist() for anchors in generator.base_anchors]


def _box_settings(head: nn.Module, family: str) -> dict[str, Any]:
    """Return the entries of :class:`Decoding` that concern the encoding of boxes."""
    if family == "YOLOX":
        return {"boxes": "centers", "clip": False}
    coder = head.bbox_coder
    kind = type(coder).__name__
    if kind not in _CODERS or getattr(coder, "add_ctr_clamp", False):
        clamped = " with add_ctr_clamp" if kind in _CODERS else ""
        raise InputError(
            f"a bbox_coder of type {kind}{clamped}: export supports {', '.join(_CODERS)}"
        )
    settings = {"boxes": _CODERS[kind], "clip": bool(coder.clip_border)}
    if family == "GFL":
        return {**settings, "boxes": "distribution", "bins": head.reg_max + 1}
    if settings["boxes"] == "deltas":
        settings.update(means=tuple(coder.means), stds=tuple(coder.stds))
    return settings


def _masks(head: nn.Module, cfg: dict[str, Any]) -> DynamicMasks:
    return DynamicMasks(
        channels=head.dyconv_channels,
        prototypes=head.num_prototypes,
        layers=head.num_dyconvs,
        threshold=float(cfg.get("mask_thr_binary", 0.5)),
    )
