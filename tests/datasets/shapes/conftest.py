"""A small drawing."""

from __future__ import annotations

from pathlib import Path

import pytest
from drawings import SMALL

from care_mm.datasets.shapes import ensure_shapes


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    return ensure_shapes(tmp_path_factory.mktemp("shapes") / "drawn", **SMALL)
