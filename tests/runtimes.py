"""Skip tests of runtimes that are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from care_mm.errors import InputError
from care_mm.export.runtimes import TARGETS
from care_mm.export.target import Target


def require(target: Target) -> None:
    """Skip a test whose runtime or converter is not installed."""
    try:
        target.require()
    except InputError as error:
        pytest.skip(str(error))


def require_for(file: Path) -> str:
    """Skip a test whose runtime is not installed; return the format of the file's suffix."""
    (target,) = (target for target in TARGETS.values() if target.suffix == file.suffix)
    require(target)
    return target.name
