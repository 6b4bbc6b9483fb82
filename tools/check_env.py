"""Check the environment: versions, mmcv's compiled operators, one training step of CARE-S0.

Prints what it finds, and stops at the first thing that is wrong with a line that says what to do.

Example:
    python tools/check_env.py
"""

from __future__ import annotations

# The standard library only: this file has to speak plainly where nothing else can be imported.
import argparse
import importlib
import os
import platform
import re
import sys
import time
from collections.abc import Sequence

# The oldest versions that the code is written for.
REQUIRED = {
    "numpy": "1.22",
    "torch": "2.1",
    "cv2": "4.5",
    "mmengine": "0.10.7",
    "mmcv": "2.1.0",
    "care_mm": "0.1.0",
}
OPTIONAL = {"torchvision": "0.16", "mmdet": "3.3.0", "mmseg": "1.2.2", "mmpretrain": "1.2.0"}
MEND = "run `make setup`, or see docs/install.md"


class Problem(Exception):
    """What is wrong, and what to do."""


def report(what: str, finding: str) -> None:
    print(f"{what:<14}{finding}", flush=True)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version.split("+")[0])[:3])


def check_package(name: str, oldest: str, optional: bool = False) -> None:
    try:
        package = importlib.import_module(name)
    except Exception as error:  # broken packages raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            if optional:
                return report(name, "not installed (only jobs of its own need it)")
            raise Problem(f"{name} is not installed: {MEND}") from error
        if "libGL" in str(error):
            raise Problem(
                "cv2 needs libGL, so opencv-python is installed: uninstall it and "
                "opencv-python-headless, then install the latter again"
            ) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise Problem(f"{name} does not import ({reason}): {MEND}") from error
    version = getattr(package, "__version__", "0")
    if numbers(version) < numbers(oldest):
        raise Problem(f"{name} {version} is too old, {oldest} is the oldest that works: {MEND}")
    report(name, version)


def check_operators(device: str) -> None:
    """mmcv imports without its operators, too; one of them has to run."""
    import torch

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30]], device=device)
    scores = torch.tensor([0.9, 0.8, 0.7], device=device)
    try:
        from mmcv.ops import nms

        kept = nms(boxes, scores, iou_threshold=0.5)[1].tolist()
    except ImportError as error:
        raise Problem(
            f"mmcv's operators are not compiled ({error}): install it again with torch already "
            "there, see docs/install.md"
        ) from error
    except RuntimeError as error:
        raise Problem(
            f"mmcv's operators do not run on {device} ({' '.join(str(error).split())}): see 'With "
            "a GPU' in docs/install.md, or set CUDA_VISIBLE_DEVICES= to use the CPU only"
        ) from error
    if kept != [0, 2]:
        raise Problem(f"mmcv.ops.nms on {device} keeps boxes {kept} in place of [0, 2]: {MEND}")
    report("mmcv.ops.nms", f"runs on {device}")


def check_training_step(device: str) -> None:
    import torch

    from care_mm import CARETransformer

    start = time.perf_counter()
    backbone = CARETransformer("s0").to(device)
    features = backbone(torch.rand(2, 3, 64, 64, device=device))
    sum(feature.square().mean() for feature in features).backward()
    for name, parameter in backbone.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            raise Problem(f"CARE-S0 on {device}: {name} gets no finite gradient: {MEND}")
    report("CARE-S0", f"one step at 64 px on {device}: {time.perf_counter() - start:.1f} s")


def check_all(quick: bool) -> None:
    report("python", platform.python_version())
    for name, oldest in REQUIRED.items():
        check_package(name, oldest)
    for name, oldest in () if quick else OPTIONAL.items():
        check_package(name, oldest, optional=True)
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    report("GPU", f"{gpu} (torch is built for CUDA {torch.version.cuda})")
    for device in ("cpu",) if gpu == "none" else ("cpu", "cuda"):
        check_operators(device)
        if not quick:
            check_training_step(device)


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
