"""Models that a backbone with maps of strides 4 to 32 does not fit into, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping

from care_mm.errors import InputError

PLAIN = "is a plain transformer: its head reads tokens or maps of one size"
BRANCHES = "is a complete network with several branches, not only a backbone"
UNET = "is an encoder and a decoder in one, with maps up to full resolution"
TEXT = "its text and image encoders were trained together"

# Type -> reason.
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
    "HourglassNet": "is a stack of encoders and decoders, each of which has its own loss",
    "TridentResNet": "has three branches, which the detector's head expects",
}
NECKS = {
    "SSDNeck": "passes the backbone's own maps to a head that is built for their widths",
    "RFP": "runs a second copy of the backbone, with feedback for which {system} has no input",
}
# Key below the model that only such models have -> reason.
PARTS = {"language_model": TEXT, "text_encoder": TEXT}


def refuse_backbone(backbone: Mapping, where: str, new: str | None) -> None:
    """Refuse a backbone that no other can replace.

    Args:
        backbone: The config of the backbone.
        where: Its place in the config, for the message.
        new: The type of the backbone to replace it; ``None`` allows the same type.

    Raises:
        InputError: The backbone is of that type already, or one of ``BACKBONES``.
    """
    kind = str(backbone.get("type")).rpartition(".")[2]
    if kind == new:
        raise InputError(f"{where} is {new} already: set its arch")
    if kind in BACKBONES:
        raise InputError(f"{where} {kind} {BACKBONES[kind]}")


def refuse_model(model: Mapping, where: str, system: str) -> None:
    """Refuse a model with other parts than backbone, neck and head, or with a neck of ``NECKS``.

    Args:
        model: The config of the model.
        where: Its place in the config, for the message.
        system: The name of the new backbone, for the message.

    Raises:
        InputError: The model is of such a kind.
    """
    for key, reason in PARTS.items():
        if model.get(key) is not None:
            raise InputError(f"{where} {model.get('type')} has a {key}: {reason}")
    necks = model.get("neck") or []
    for neck in necks if isinstance(necks, list | tuple) else [necks]:
        kind = neck.get("type")
        if kind in NECKS:
            raise InputError(f"{where}.neck {kind} {NECKS[kind].format(system=system)}")
    preprocessor = model.get("data_preprocessor") or {}
    if preprocessor.get("type") == "TrackDataPreprocessor":
        raise InputError(
            f"{where} {model.get('type')} is a video model: swap in the detector's own config"
        )
