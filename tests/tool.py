"""Call the commands in ``tools/`` in the process of the test, to avoid repeated imports."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def call(name: str, *args: object) -> None:
    """Run a command: ``tool.call('test', config, checkpoint)`` calls ``main`` of ``test.py``."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main([str(arg) for arg in args])


def refusal(capsys: pytest.CaptureFixture, name: str, *args: object) -> str:
    """Run a command that must exit with status 2, and return its one line on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        call(name, *args)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(lines) == 1, lines
    return lines[0]
