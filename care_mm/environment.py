"""Checks of the installed packages: versions known to break, and whether they import.

Versions are checked when care_mm is imported, from package metadata, before anything else is
imported. Standard library only, so that the message appears even if nothing else imports.
"""

from __future__ import annotations

import getpass
import importlib
import os
import platform
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"
# Import name -> distributions that provide it: the maintained fork, then the originals.
DISTRIBUTIONS = {
    "mmengine": ("onedl-mmengine", "mmengine", "mmengine-lite"),
    "mmcv": ("onedl-mmcv", "mmcv", "mmcv-lite", "mmcv-full"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
# Packages that care_mm imports -> what to install if one is missing.
NEEDED = {
    "torch": "torch>=2.1",
    "numpy": "numpy",
    "mmengine": "onedl-mmengine (or mmengine==0.10.7)",
    "mmcv": "onedl-mmcv (or mmcv==2.1.0), after torch and with --no-build-isolation",
}
# Oldest supported versions.
REQUIRED = {
    "numpy": "1.22",
    "torch": "2.1",
    "cv2": "4.5",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "care_mm": "0.1.0",
}
OPTIONAL = {
    "torchvision": "0.16",
    "mmdet": "3.3.0",
    "mmseg": "1.2.2",
    "mmpretrain": "1.2.0",
    "timm": "1.0.9",
}
FIX = "run `make setup`, or see docs/install.md"
ANYWAY = "CARE_MM_ANY_VERSION"  # set to 1 to skip the check on import


def distributions_of(name: str) -> dict[str, str]:
    """Return the installed distributions that provide ``name``, with their versions."""
    versions = {}
    for distribution in DISTRIBUTIONS.get(name, (name,)):
        try:
            versions[distribution] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return versions


def installed() -> dict[str, str]:
    """Return name -> version of Python and the known packages; no entry without metadata."""
    versions = {"python": platform.python_version()}
    for name in (*NEEDED, *DISTRIBUTIONS):
        for version in distributions_of(name).values():
            versions.setdefault(name, version)
    return versions


def numbers(version: str) -> tuple[int, ...]:
    """Return the release numbers: ``(2, 11, 0)`` for ``'2.11.0+cu130'``."""
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def broken(versions: Mapping[str, str]) -> Iterator[str]:
    """Yield each reason why care_mm cannot run with these versions, with its fix."""
    at = {name: numbers(version) for name, version in versions.items()}
    if at["python"] < (3, 10):
        yield f"Python {versions['python']} is too old: use 3.10 to 3.14"
    if "torch" in at and at["torch"] < (2, 1):
        yield f"torch {versions['torch']} is too old: pip install 'torch>=2.1'"
    elif "torch" in at and at["torch"] < (2, 3) and at.get("numpy", ()) >= (2,):
        yield (
            f"torch {versions['torch']} was built for NumPy 1, not {versions['numpy']}: "
            "pip install 'numpy<2', or torch 2.3 or newer"
        )
    if "mmcv" in at and at["mmcv"] < (2,):
        yield (
            f"mmcv {versions['mmcv']} is of the old generation (mmdet 2, mmseg 0): "
            f"pip install {NEEDED['mmcv']}"
        )


def doubtful(versions: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning and its fix for each combination that only partly works."""
    at = {name: numbers(version) for name, version in versions.items()}
    if at.get("mmengine", (9,)) < (0, 10, 8) and at.get("torch", ()) >= (2, 6):
        yield (
            f"mmengine {versions['mmengine']} cannot read its own checkpoints with torch "
            f"{versions['torch']}: train.py --resume and test.py of mmdet, mmseg and mmpretrain "
            "fail (those of care_mm work): pip install onedl-mmengine, or torch 2.5 or older"
        )


def check() -> None:
    """Raise or warn if the installed versions are known to break.

    Raises:
        ImportError: A package is missing, or a version cannot work; names what to install.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError):  # a container's user without an entry in passwd, as torch wants
        folder = Path(tempfile.gettempdir(), f"torchinductor_{os.getuid()}")
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))
    if os.environ.get(ANYWAY) == "1":
        return
    versions = installed()
    reasons = [
        f"{name} is not installed: pip install {what}"
        for name, what in NEEDED.items()
        if name not in versions and find_spec(name) is None
    ]
    reasons += broken(versions)
    if reasons:
        raise ImportError(f"care_mm cannot run: {'; '.join(reasons)} ({ANYWAY}=1 skips this check)")
    for reason in doubtful(versions):
        warnings.warn(f"care_mm: {reason}", stacklevel=3)


class Problem(Exception):
    """A problem of the environment; the message says what is wrong and how to fix it."""


def report(name: str, finding: str) -> None:
    """Print one finding as a line of two columns."""
    print(f"{name:<14}{finding}", flush=True)


def check_versions() -> None:
    """Check for versions that break, and for a fork and an original in the same place.

    Raises:
        Problem: Names the versions or packages, and the fix.
    """
    versions = installed()
    for reason in broken(versions):
        raise Problem(reason)
    for reason in doubtful(versions):
        report("caution", reason)
    for name in DISTRIBUTIONS:
        names = list(distributions_of(name))
        if len(names) > 1:
            raise Problem(
                f"{' and '.join(names)} are both installed and share their files: "
                f"pip uninstall {' '.join(names)}, then install one of them"
            )


def check_package(name: str, oldest: str, optional: bool = False) -> bool:
    """Import a package and check its version.

    Args:
        name: Import name.
        oldest: Oldest supported version.
        optional: Report a missing package instead of raising.

    Returns:
        Whether the package is installed.

    Raises:
        Problem: The package is missing, does not import, or is too old.
    """
    try:
        package = importlib.import_module(name)
    except Exception as error:  # broken packages raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            if optional:
                report(name, "not installed (optional)")
                return False
            raise Problem(f"{name} is not installed: {FIX}") from error
        if "libGL" in str(error):
            raise Problem(
                "cv2 needs libGL, so opencv-python is installed: uninstall it and "
                "opencv-python-headless, then install the latter again"
            ) from error
        if "pkg_resources" in str(error):
            raise Problem(
                f"{name} needs pkg_resources, which setuptools 81 dropped: "
                "pip install 'setuptools<81'"
            ) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise Problem(f"{name} does not import ({reason}): {FIX}") from error
    version = getattr(package, "__version__", "0")
    if numbers(version) < numbers(oldest):
        raise Problem(f"{name} {version} is too old, {oldest} is the oldest that works: {FIX}")
    report(name, version)
    return True


def check_step(name: str, finding: str, step: Callable, *args: object) -> None:
    """Run ``step(*args)`` and report the time it took.

    Raises:
        Problem: The step failed.
    """
    start = time.perf_counter()
    try:
        step(*args)
    except Exception as error:
        reason = " ".join(str(error).split())
        if type(error).__name__ != "InputError":
            reason = f"{name} does not run ({type(error).__name__}: {reason}): {FIX}"
        raise Problem(reason) from error
    report(name, f"{finding} on {args[0]}: {time.perf_counter() - start:.1f} s")
