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


# Native runtimes, a browser's driver and FFmpeg's libraries (in supervision) share a process with
# few other tests, because a fault of theirs ends the process and loses the tests after it.
APART = {
    "test_web.py",
    "test_ncnn.py",
    "test_litert.py",
    "test_device_programs.py",
    "test_new_config.py",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test` runs after the others, in processes of their own."""
    for item in items:
        if item.path.name in APART:
            item.add_marker("apart")
