"""The environment: versions known to break, and checks of what is installed.

The versions are checked when care_mm is imported, from package metadata, before anything else is
imported. The module imports the standard library only, so that its message appears even if nothing
else imports.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec

__version__ = "0.1.0"
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
# The oldest versions that the code is written for.
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


class Problem(Exception):
    """What is wrong, and what to do."""


def report(what: str, finding: str) -> None:
    print(f"{what:<14}{finding}", flush=True)


def check_versions() -> None:
    """Combinations that are known to break, and forks and originals that lie over each other."""
    found = installed()
    for reason in broken(found):
        raise Problem(reason)
    for reason in doubtful(found):
        report("caution", reason)
    for name in DISTRIBUTIONS:
        names = list(distributions_of(name))
        if len(names) > 1:
            raise Problem(
                f"{' and '.join(names)} are both installed and share their files: "
                f"pip uninstall {' '.join(names)}, then install one of them"
            )


def check_package(name: str, oldest: str, optional: bool = False) -> bool:
    """Import it and look at its version; whether it is there."""
    try:
        package = importlib.import_module(name)
    except Exception as error:  # broken packages raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            if optional:
                report(name, "not installed (only jobs of its own need it)")
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


def check_step(what: str, finding: str, step: Callable, *args: object) -> None:
    """Run it, and report with the time that it took."""
    start = time.perf_counter()
    try:
        step(*args)
    except Exception as error:
        reason = " ".join(str(error).split())
        if type(error).__name__ != "InputError":
            reason = f"{what} does not run ({type(error).__name__}: {reason}): {FIX}"
        raise Problem(reason) from error
    report(what, f"{finding} on {args[0]}: {time.perf_counter() - start:.1f} s")
