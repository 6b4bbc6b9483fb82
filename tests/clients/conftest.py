"""Other people's programs on our configs: where they are, and how they are called."""

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
CONFIGS, OURS = ROOT / "configs", ROOT / "tools"
# In a config of the user's: a few small drawings, no processes for loading, a line in the log for
# every iteration.
SMALL = """
loading = dict(num_workers=0, persistent_workers=False)
draw = dict(num_train=8, num_val=2, size=96, seed=3)
test_dataloader = val_dataloader = dict(dataset=dict(draw=draw), **loading)
default_hooks = dict(logger=dict(interval=1))
"""
Call = Callable[..., str]


def theirs(package: str, name: str) -> Path:
    """A script as the installed package brings it, by its name below ``tools``."""
    module = Path(importlib.util.find_spec(package).origin).parent
    places = [module / ".mim" / "tools" / name, module.parent / "tools" / name]
    return next(place for place in places if place.is_file())


def metrics_of(work_dir: Path) -> dict[str, float]:
    """What a test wrote down, without times."""
    (file,) = work_dir.glob("*/2*.json")
    metrics = json.loads(file.read_text())
    return {name: value for name, value in metrics.items() if not name.endswith("time")}


@pytest.fixture(scope="module")
def call(folder: Path) -> Call:
    """Run a script in the user's folder; returns what it printed."""
    return partial(scripts.call, cwd=folder)


@pytest.fixture
def alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of the user's in that folder, with nothing left of another one."""
    scripts.forget()
    monkeypatch.chdir(folder)


@pytest.fixture
def seaborn(monkeypatch: pytest.MonkeyPatch) -> None:
    """In its place: ``analyze_logs.py`` imports it for a style, and no package asks for it."""
    stand_in = SimpleNamespace(set_style=lambda style: None)
    monkeypatch.setitem(sys.modules, "seaborn", stand_in)
