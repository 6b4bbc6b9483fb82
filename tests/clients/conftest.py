"""The commands of the MM packages on our configs: their paths, and how the tests call them."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import scripts

ROOT = Path(__file__).parents[2]
CONFIGS, TOOLS = ROOT / "configs", ROOT / "tools"
# Part of a user's config: a few small drawings, no loader processes, a log line per iteration.
SMALL = """
loading = dict(num_workers=0, persistent_workers=False)
draw = dict(num_train=8, num_val=2, size=96, seed=3)
test_dataloader = val_dataloader = dict(dataset=dict(draw=draw), **loading)
default_hooks = dict(logger=dict(interval=1))
"""
Call = Callable[..., str]


def shipped_tool(package: str, name: str) -> Path:
    """Return the path of a script that the installed package ships, by its name in ``tools``."""
    module = Path(importlib.util.find_spec(package).origin).parent
    paths = [module / ".mim" / "tools" / name, module.parent / "tools" / name]
    return next(path for path in paths if path.is_file())


def metrics_of(work_dir: Path) -> dict[str, float]:
    """Return the metrics that a test run wrote, without times."""
    (file,) = work_dir.glob("*/2*.json")
    metrics = json.loads(file.read_text())
    return {name: value for name, value in metrics.items() if not name.endswith("time")}


@pytest.fixture(scope="module")
def call(folder: Path) -> Call:
    """Return a function that runs a script in the user's folder and returns its output."""
    return partial(scripts.call, cwd=folder)


@pytest.fixture
def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Change to the user's folder, without mmengine's state of an earlier program."""
    scripts.forget()
    monkeypatch.chdir(folder)


@pytest.fixture
def seaborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace seaborn: ``analyze_logs.py`` imports it for a style, but no package requires it."""
    stand_in = SimpleNamespace(set_style=lambda style: None)
    monkeypatch.setitem(sys.modules, "seaborn", stand_in)
