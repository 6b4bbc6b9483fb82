"""Drawn data to check, and a copy to damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checking import NUM_TRAIN, NUM_VAL

from care_mm.datasets.shapes import ensure_shapes


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "drawn"
    return ensure_shapes(folder, num_train=NUM_TRAIN, num_val=NUM_VAL, size=96)


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(drawn, tmp_path / "data"))
