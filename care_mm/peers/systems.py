"""The systems that the paper compares CARE with, by the names that commands accept."""

from __future__ import annotations

from typing import Any

from care_mm.errors import InputError, did_you_mean
from care_mm.peers.base import PeerBackbone
from care_mm.peers.emo import EMO
from care_mm.peers.flatten import FLattenPVT, FLattenSwin
from care_mm.peers.mlla import MLLA
from care_mm.peers.mobilevig import MobileViG
from care_mm.peers.slab import SLABPVT, SLABSwin

# Name -> class of the peer, and its default size.
PEERS: dict[str, tuple[type[PeerBackbone], str]] = {
    "mlla": (MLLA, "t"),
    "flatten-pvt": (FLattenPVT, "t"),
    "flatten-swin": (FLattenSwin, "t"),
    "slab-pvt": (SLABPVT, "t"),
    "slab-swin": (SLABSwin, "t"),
    "emo": (EMO, "2m"),
    "mobilevig": (MobileViG, "s"),
}
# Name -> size -> timm's model. The first size is the default.
TIMM_MODELS = {
    "mobilenetv2": {"100": "mobilenetv2_100", "050": "mobilenetv2_050", "140": "mobilenetv2_140"},
    "efficientformer": {size: f"efficientformer_{size}" for size in ("l1", "l3", "l7")},
    "efficientformerv2": {size: f"efficientformerv2_{size}" for size in ("s1", "s0", "s2", "l")},
    "swin": {
        size[0]: f"swin_{size}_patch4_window7_224" for size in ("tiny", "small", "base", "large")
    },
    "convnext": {size[0]: f"convnext_{size}" for size in ("tiny", "small", "base", "large")},
}


def split(text: str) -> tuple[str, str]:
    """Split ``NAME:SIZE``, such as ``emo:2m`` or ``swin:t``, into a known name and size.

    Raises:
        InputError: The name or the size is unknown.
    """
    name, _, size = text.partition(":")
    names = {**{name: peer.archs for name, (peer, _) in PEERS.items()}, **TIMM_MODELS}
    if name not in names:
        hint = did_you_mean(name, names)
        raise InputError(f"{text}: {name!r} is unknown{hint or ':'} {', '.join(names)}")
    if size not in names[name]:
        raise InputError(f"{text}: {name} has the sizes {', '.join(names[name])}")
    return name, size


def backbone_config(name: str, size: str, **options: Any) -> dict[str, Any]:
    """Return the config of a backbone with maps of strides 4 to 32."""
    if name in TIMM_MODELS:
        return dict(type="TimmBackbone", arch=TIMM_MODELS[name][size], **options)
    return dict(type=PEERS[name][0].__name__, arch=size, **options)


def classifier_config(name: str, size: str, num_classes: int = 1000) -> dict[str, Any]:
    """Return the config of the ImageNet classifier of one of ``PEERS``, with all its heads."""
    cls, _ = PEERS[name]
    width = cls(size, out_indices=(3,)).out_channels[-1]
    head = dict(type=f"mmpretrain.{cls.__name__}Head", num_classes=num_classes, in_channels=width)
    if cls is MobileViG:
        head["hidden_channels"] = cls.archs[size].head_dim
    backbone = backbone_config(name, size, out_indices=(3,))
    return dict(type="mmpretrain.ImageClassifier", backbone=backbone, head=head)
