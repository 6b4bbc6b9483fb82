"""Models that CARE does not fit into, and why."""

from __future__ import annotations

from collections.abc import Mapping

from care_mm.errors import InputError

PLAIN = (
    "is a plain transformer: its head wants tokens or several maps of one size, and CARE gives a "
    "pyramid"
)
BRANCHES = "is a whole two-branch network for real time, of which a backbone is only a part"
UNET = "is an encoder and a decoder in one, with maps up to full resolution"

BACKBONES = {
    "VisionTransformer": PLAIN,
    "BEiT": PLAIN,
    "MAE": PLAIN,
    "ViT": PLAIN,
    "BiSeNetV1": BRANCHES,
    "BiSeNetV2": BRANCHES,
    "DDRNet": BRANCHES,
    "PIDNet": BRANCHES,
    "FastSCNN": BRANCHES,
    "ICNet": BRANCHES,
    "STDCContextPathNet": BRANCHES,
    "ERFNet": UNET,
    "UNet": UNET,
    "VPD": "is a diffusion model with its own decoder",
    "HourglassNet": "is a stack of encoders and decoders, each of which feeds a loss",
    "TridentResNet": "has three branches that the detector's head expects",
}
NECKS = {
    "SSDNeck": "hands the backbone's own maps on to a head with layers for their widths",
    "RFP": "runs a second copy of the backbone, with feedback that CARE has no input for",
}
# A part that only such models have -> why not.
PARTS = {
    "language_model": "text and image encoder were trained together",
    "text_encoder": "text and image encoder were trained together",
}


def refuse_backbone(backbone: Mapping, where: str) -> None:
    """Raise InputError for a backbone whose place CARE cannot take."""
    kind = str(backbone.get("type")).rpartition(".")[2]
    if kind == "CARETransformer":
        raise InputError(f"{where} is CARETransformer already: set its arch")
    if kind in BACKBONES:
        raise InputError(f"{where} {kind} {BACKBONES[kind]}")


def refuse_model(model: Mapping, where: str) -> None:
    """Raise InputError for a model that is more than backbone, neck and head, or whose neck is
    tied to one kind of backbone.
    """
    for key, reason in PARTS.items():
        if model.get(key) is not None:
            raise InputError(f"{where} {model.get('type')} has a {key}: {reason}")
    necks = model.get("neck") or []
    for neck in necks if isinstance(necks, list | tuple) else [necks]:
        kind = neck.get("type")
        if kind in NECKS:
            raise InputError(f"{where}.neck {kind} {NECKS[kind]}")
    preprocessor = model.get("data_preprocessor") or {}
    if preprocessor.get("type") == "TrackDataPreprocessor":
        raise InputError(
            f"{where} {model.get('type')} is a video model: swap in the detector's own config"
        )
