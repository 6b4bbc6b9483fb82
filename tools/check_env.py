"""Check the environment: versions, an operator of mmcv's, a step of CARE-S0, one of a detector.

Prints what it finds, and stops at the first thing that is wrong with a line that says what to do.

Example:
    python tools/check_env.py
"""

from __future__ import annotations

# The standard library only: this file has to speak plainly where nothing else can be imported.
import argparse
import importlib
import importlib.util
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
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
DETECTOR = ROOT / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py"
MEND = "run `make setup`, or see docs/install.md"


class Problem(Exception):
    """What is wrong, and what to do."""


def report(what: str, finding: str) -> None:
    print(f"{what:<14}{finding}", flush=True)


def rules() -> ModuleType:
    """``care_mm.versions`` without the rest of care_mm, which may not be importable."""
    spec = importlib.util.spec_from_file_location("versions", ROOT / "care_mm" / "versions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_versions() -> None:
    """Combinations that are known to break, and forks and originals that lie over each other."""
    versions = rules()
    found = versions.installed()
    for reason in versions.broken(found):
        raise Problem(reason)
    for reason in versions.doubtful(found):
        report("caution", reason)
    for name in versions.DISTRIBUTIONS:
        names = list(versions.distributions_of(name))
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
            raise Problem(f"{name} is not installed: {MEND}") from error
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
        raise Problem(f"{name} does not import ({reason}): {MEND}") from error
    version, numbers = getattr(package, "__version__", "0"), rules().numbers
    if numbers(version) < numbers(oldest):
        raise Problem(f"{name} {version} is too old, {oldest} is the oldest that works: {MEND}")
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
            reason = f"{what} does not run ({type(error).__name__}: {reason}): {MEND}"
        raise Problem(reason) from error
    report(what, f"{finding} on {args[0]}: {time.perf_counter() - start:.1f} s")


def check_all(quick: bool) -> None:
    report("python", platform.python_version())
    check_versions()
    for name, oldest in REQUIRED.items():
        check_package(name, oldest)
    there = {
        name: check_package(name, oldest, optional=True)
        for name, oldest in ({} if quick else OPTIONAL).items()
    }
    import torch

    from care_mm import selfcheck

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    report("GPU", f"{gpu} (torch is built for CUDA {torch.version.cuda})")
    for device in ("cpu",) if gpu == "none" else ("cpu", "cuda"):
        check_step("mmcv.ops.nms", "runs", selfcheck.run_operator, device)
        if not quick:
            check_step("CARE-S0", "a step at 64 px", selfcheck.step_backbone, device)
        if there.get("mmdet"):
            check_step("Mask R-CNN", "a step", selfcheck.step_detector, device, DETECTOR)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="no optional packages, no step")
    try:
        check_all(parser.parse_args(argv).quick)
    except Problem as problem:
        print(f"{os.path.basename(__file__)}: error: {problem}", file=sys.stderr)
        sys.exit(1)
    print("all well")


if __name__ == "__main__":
    main()
