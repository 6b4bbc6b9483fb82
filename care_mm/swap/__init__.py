"""CARE, or one of its peers, in place of the backbone of an mmdet or mmseg config."""

from care_mm.swap.backbone import Swap, swap_backbone
from care_mm.swap.config_file import Source, read, swap_file, swap_text
from care_mm.swap.probe import try_model

__all__ = ["Source", "Swap", "read", "swap_backbone", "swap_file", "swap_text", "try_model"]
