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
def _own_scope_and_logger() -> Iterator[None]:
    """A Runner leaves behind its scope, in which the next test would look its modules up, and its
    logger, which would write to this test's output.
    """
    before = dict(DefaultScope._instance_dict)
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)
    MMLogger._instance_dict.clear()
