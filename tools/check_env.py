"""Check the environment: versions, an mmcv operator, a step of CARE-S0 and one of a detector.

Prints each finding. Stops at the first problem with one line that says how to fix it.

Example:
    python tools/check_env.py
"""

from __future__ import annotations

# The standard library only, so that a message appears even if nothing else can be imported.
import argparse
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
DETECTOR = ROOT / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py"


def load_environment() -> ModuleType:
    """Load ``care_mm.environment`` without the rest of care_mm, which may not be importable."""
    path = ROOT / "care_mm" / "environment.py"
    spec = importlib.util.spec_from_file_location("environment", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


environment = load_environment()


def check_all(quick: bool) -> None:
    """Check versions and packages, then run the smoke tests on the CPU and the GPU, if any.

    Args:
        quick: Skip optional packages, and run the mmcv operator only.
    """
    environment.report("python", platform.python_version())
    environment.check_versions()
    for name, oldest in environment.REQUIRED.items():
        environment.check_package(name, oldest)
    available = {
        name: environment.check_package(name, oldest, optional=True)
        for name, oldest in ({} if quick else environment.OPTIONAL).items()
    }
    import torch

    from care_mm import noise, smoke

    noise.hide()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    environment.report("GPU", f"{gpu} (torch is built for CUDA {torch.version.cuda})")
    for device in ("cpu",) if gpu == "none" else ("cpu", "cuda"):
        environment.check_step("mmcv.ops.nms", "runs", smoke.run_operator, device)
        if not quick:
            environment.check_step("CARE-S0", "a step at 64 px", smoke.step_backbone, device)
        if available.get("mmdet"):
            environment.check_step("Mask R-CNN", "a step", smoke.step_detector, device, DETECTOR)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="skip optional packages and steps")
    try:
        check_all(parser.parse_args(argv).quick)
    except environment.Problem as problem:
        print(f"{os.path.basename(__file__)}: error: {problem}", file=sys.stderr)
        sys.exit(1)
    print("OK")


if __name__ == "__main__":
    main()
