"""Set-up shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Set before torch is imported: two thread pools on two cores mostly wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from scripts import forget


@pytest.fixture(autouse=True)
def _fresh_globals() -> Iterator[None]:
    """Clear the scope, logger and visualizer that a Runner or a module's fixture left behind."""
    forget()
    yield
    forget()
