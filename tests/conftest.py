"""Set-up shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Set before torch is imported: two thread pools on two cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def _fresh_scope_and_logger() -> Iterator[None]:
    """Clear the default scope and the logger that a Runner or a module's fixture left behind."""
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()
