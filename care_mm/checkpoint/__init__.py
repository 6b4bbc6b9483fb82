"""Checkpoint files: their key names, safe reading, strict matching, atomic writing.

The package knows no model: :mod:`care_mm.models.pretrained` loads a backbone, and
:mod:`care_mm.convert` converts the authors' classifier.
"""

from care_mm.checkpoint.loaders import safe_loading
from care_mm.checkpoint.matching import Match, load_model
from care_mm.checkpoint.names import convert_official, to_official
from care_mm.checkpoint.reading import read_checkpoint, state_dict_of
from care_mm.checkpoint.writing import write_checkpoint

__all__ = [
    "Match",
    "convert_official",
    "load_model",
    "read_checkpoint",
    "safe_loading",
    "state_dict_of",
    "to_official",
    "write_checkpoint",
]
