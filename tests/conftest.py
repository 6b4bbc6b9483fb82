"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator

# Before torch is imported: two thread pools on two cores wait for each other most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True)
def _no_scope_and_logger_of_others() -> Iterator[None]:
    """A Runner, and a fixture of a module, leave behind their scope, in which this test would look
    its modules up, and their logger, which would write to its output.
    """
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()
    yield
    DefaultScope._instance_dict.clear()
    MMLogger._instance_dict.clear()
