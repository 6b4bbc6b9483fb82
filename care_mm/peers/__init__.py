"""The systems that the paper compares CARE with, registered by this import.

Use ``custom_imports = dict(imports=["care_mm.peers"], allow_failed_imports=False)``.
"""

from care_mm.peers.mlla import MLLA

__all__ = ["MLLA"]
