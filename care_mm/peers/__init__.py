"""The systems that the paper compares CARE with, registered by this import.

Use ``custom_imports = dict(imports=["care_mm.peers"], allow_failed_imports=False)``.
"""

from care_mm.peers.emo import EMO
from care_mm.peers.flatten import FLattenPVT, FLattenSwin
from care_mm.peers.layer_scale import LayerScale
from care_mm.peers.mlla import MLLA
from care_mm.peers.mobilevig import MobileViG
from care_mm.peers.slab import SLABPVT, SLABSwin
from care_mm.peers.timm_backbone import TimmBackbone

__all__ = [
    "EMO",
    "MLLA",
    "SLABPVT",
    "FLattenPVT",
    "FLattenSwin",
    "LayerScale",
    "MobileViG",
    "SLABSwin",
    "TimmBackbone",
]
