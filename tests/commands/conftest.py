"""Run commands as a user does: each in its own process, from a folder of the user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess]


@pytest.fixture(scope="session")
def run() -> Run:
    """Return ``run('tools/x.py', 'arg', ..., cwd=folder, processes=1)``, which runs a command."""

    def call(tool: str, *args: object, cwd: Path, processes: int = 1):
        launcher = []
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            launcher += [f"--nproc_per_node={processes}"]
        return subprocess.run(
            [sys.executable, *launcher, str(REPOSITORY / tool), *map(str, args)],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(cwd)},
            capture_output=True,
            text=True,
            timeout=280,
        )

    return call


def one_line(process: subprocess.CompletedProcess) -> str:
    """Check that a command ended with status 2 and one line on stderr, and return the line."""
    assert process.returncode == 2, process.stderr + process.stdout
    lines = [line for line in process.stderr.splitlines() if "error:" in line]
    assert len(lines) == 1, process.stderr
    assert "Traceback" not in process.stderr
    return lines[0]
