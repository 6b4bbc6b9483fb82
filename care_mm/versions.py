"""Versions that are known to break, and what to install in their place.

Looked at when care_mm is imported, from the packages' metadata, before any of them is. The standard
library only: this has to speak plainly where nothing else can be imported.
"""

from __future__ import annotations

import os
import platform
import re
import warnings
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec

# The maintained forks and the originals have the same import names.
DISTRIBUTIONS = {
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite", "mmcv-full"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
# What to install where a package that care_mm imports is missing.
NEEDED = {
    "torch": "torch>=2.1",
    "numpy": "numpy",
    "mmengine": "onedl-mmengine (or mmengine==0.10.7)",
    "mmcv": "onedl-mmcv (or mmcv==2.1.0), after torch and with --no-build-isolation",
}
ANYWAY = "CARE_MM_ANY_VERSION"  # set to 1 to import whatever is installed


def distributions_of(name: str) -> dict[str, str]:
    """Installed distributions that bring the package ``name``, with their versions."""
    found = {}
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            found[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return found


def installed() -> dict[str, str]:
    """Version by name of what is known here; packages without metadata are left out."""
    found = {"python": platform.python_version()}
    for name in (*NEEDED, *DISTRIBUTIONS):
        for version in distributions_of(name).values():
            found.setdefault(name, version)
    return found


def numbers(version: str) -> tuple[int, ...]:
    """``'2.11.0+cu130'`` -> ``(2, 11, 0)``."""
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def broken(found: Mapping[str, str]) -> Iterator[str]:
    """Why care_mm cannot run with these versions, each with what to install."""
    at = {name: numbers(version) for name, version in found.items()}
    if at["python"] < (3, 10):
        yield f"Python {found['python']} is too old: take 3.10 to 3.14"
    if "torch" in at and at["torch"] < (2, 1):
        yield f"torch {found['torch']} is too old: pip install 'torch>=2.1'"
    elif "torch" in at and at["torch"] < (2, 3) and at.get("numpy", ()) >= (2,):
        yield (
            f"torch {found['torch']} was built for NumPy 1, not {found['numpy']}: "
            "pip install 'numpy<2', or torch 2.3 or newer"
        )
    if "mmcv" in at and at["mmcv"] < (2,):
        yield (
            f"mmcv {found['mmcv']} is of the old generation (mmdet 2, mmseg 0): "
            f"pip install {NEEDED['mmcv']}"
        )


def doubtful(found: Mapping[str, str]) -> Iterator[str]:
    """What works in part with these versions, each with what to install."""
    at = {name: numbers(version) for name, version in found.items()}
    if at.get("mmengine", (9,)) < (0, 10, 8) and at.get("torch", ()) >= (2, 6):
        yield (
            f"mmengine {found['mmengine']} cannot read its own checkpoints with torch "
            f"{found['torch']}, so that others' train.py --resume and test.py fail (those of "
            "care_mm do not): pip install onedl-mmengine, or torch 2.5 or older"
        )


def check() -> None:
    """Raise or warn where what is installed is known to break.

    Raises:
        ImportError: Says what is wrong and what to install.
    """
    if os.environ.get(ANYWAY) == "1":
        return
    found = installed()
    reasons = [
        f"{name} is not installed: pip install {what}"
        for name, what in NEEDED.items()
        if name not in found and find_spec(name) is None
    ]
    reasons += broken(found)
    if reasons:
        raise ImportError(f"care_mm cannot run here: {'; '.join(reasons)} ({ANYWAY}=1 tries)")
    for reason in doubtful(found):
        warnings.warn(f"care_mm: {reason}", stacklevel=3)
