"""CARE in place of the backbone of somebody's mmdet or mmseg config."""

from care_mm.swap.backbone import Swap, swap_backbone
from care_mm.swap.config_file import swap_text
from care_mm.swap.file import swap_file
from care_mm.swap.source import Source, read
from care_mm.swap.trial import try_model

__all__ = ["Source", "Swap", "read", "swap_backbone", "swap_file", "swap_text", "try_model"]
