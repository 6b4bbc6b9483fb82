"""Importing care_mm names versions that break, and what to install instead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from care_mm import environment

STACK = dict(python="3.11.7", torch="2.11.0+cu130", numpy="2.2.6", mmengine="0.10.12", mmcv="2.3.6")
ORIGINALS = dict(
    python="3.11.7", torch="2.1.2+cu121", numpy="1.26.4", mmengine="0.10.7", mmcv="2.1.0"
)


@pytest.mark.parametrize(
    "versions", [STACK, ORIGINALS, STACK | {"torch": "2.3.0"}, {"python": "3.12.1"}], ids=str
)
def test_supported_versions_are_accepted(versions: dict[str, str]) -> None:
    assert not [*environment.broken(versions), *environment.doubtful(versions)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"python": "3.9.18"}, "Python 3.9.18 is too old: use 3.10 to 3.14"),
        ({"torch": "2.0.1"}, "torch 2.0.1 is too old: pip install 'torch>=2.1'"),
        ({"numpy": "2.0.0"}, "built for NumPy 1, not 2.0.0: pip install 'numpy<2'"),
        ({"mmcv": "1.7.2"}, "mmcv 1.7.2 is of the old generation"),
    ],
)
def test_broken_versions_are_named(change: dict[str, str], reason: str) -> None:
    (line,) = environment.broken(ORIGINALS | change)
    assert reason in line
    assert "pip install" in line or "use 3.10" in line


def test_original_mmengine_on_a_new_torch_gives_a_warning() -> None:
    versions = STACK | {"mmengine": "0.10.7"}
    assert not list(environment.broken(versions))
    (line,) = environment.doubtful(versions)
    assert "cannot read its own checkpoints with torch 2.11.0" in line


# Each in its own process, with faked package metadata


def run(code: str, folder: Path, **packages: str) -> subprocess.CompletedProcess:
    for name, version in packages.items():
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    env = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=env, capture_output=True, text=True)


def test_import_reports_broken_versions_before_importing_anything(tmp_path: Path) -> None:
    code = (
        "import sys\ntry: import care_mm\nexcept ImportError as e: print(e, 'torch' in sys.modules)"
    )
    done = run(code, tmp_path, torch="1.13.1")
    assert "torch 1.13.1 is too old: pip install 'torch>=2.1' (CARE_MM_ANY_VERSION=1" in done.stdout
    assert done.stdout.endswith("False\n") and done.stdout.count("\n") == 1


def test_import_warns_once_and_is_light(tmp_path: Path) -> None:
    code = "import sys, care_mm; print([m for m in ('mmdet', 'mmseg', 'timm') if m in sys.modules])"
    done = run(code, tmp_path, onedl_mmengine="0.10.7", torch="2.11.0")
    assert done.stdout == "[]\n", done.stderr
    assert done.stderr.count("UserWarning: care_mm: mmengine 0.10.7 cannot read") == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "installed", lambda: {"python": "3.11.7", "torch": "2.11.0"})
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="mmcv is not installed: pip install onedl-mmcv"):
        environment.check()
    monkeypatch.setenv(environment.ANYWAY, "1")
    environment.check()
