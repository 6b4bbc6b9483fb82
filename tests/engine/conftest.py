"""A finished run, for tests that read or damage its work dir."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_job import finish


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work dir of a run with two checkpoints and a best one; tests must not change it."""
    work_dir = tmp_path_factory.mktemp("finished") / "run"
    assert finish(work_dir, rounds=2) == 0
    return work_dir
