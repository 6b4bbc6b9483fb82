"""Memory does not grow over thousands of iterations. Run by ``make test-long``."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from tiny_job import settings

from care_mm.config import load_config
from care_mm.engine.hooks import ensure_guards

REPOSITORY = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(7200)]


def resident() -> float:
    """Return the resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def tensors() -> int:
    """Return the number of live tensors."""
    gc.collect()
    return sum(1 for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter))


@HOOKS.register_module(force=True)
class MemoryHook(Hook):
    """Record memory and tensors at intervals."""

    priority = "LOWEST"

    def __init__(self, every: int) -> None:
        self.every, self.notes = every, []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch=None, outputs=None) -> None:
        if (runner.iter + 1) % self.every == 0:
            self.notes.append((runner.iter + 1, resident(), tensors()))


def check_flat(notes: list[tuple[int, float, int]]) -> None:
    """Compare the last quarter with the second one, when caches are full."""
    print(notes)
    quarter = len(notes) // 4
    early, late = notes[quarter : 2 * quarter], notes[3 * quarter :]
    growth = max(r for _, r, _ in late) - max(r for _, r, _ in early)
    assert growth < 40, f"{growth:.0f} MiB more"
    assert max(t for *_, t in late) <= max(t for *_, t in early) + 5


def run(runner: Runner) -> list:
    runner.train()
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, MemoryHook)]
    return hook.notes


def test_demo_for_two_thousand_iterations(tmp_path: Path, monkeypatch) -> None:
    config = load_config(REPOSITORY / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py")
    monkeypatch.chdir(tmp_path)
    draw = dict(num_train=64, num_val=2, size=64)
    config.train_dataloader.dataset.update(draw=draw, indices=None)
    config.train_dataloader.dataset.pipeline[2].scale = (64, 64)
    config.train_dataloader.update(batch_size=1, num_workers=0, persistent_workers=False)
    config.train_dataloader.sampler = dict(type="InfiniteSampler", shuffle=True)
    config.train_cfg = dict(type="IterBasedTrainLoop", max_iters=2000, val_interval=10**6)
    config.val_dataloader = config.val_cfg = config.val_evaluator = None
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    config.param_scheduler = None
    config.default_hooks.checkpoint.update(by_epoch=False, interval=500)
    config.custom_hooks = [dict(type="MemoryHook", every=50)]
    config.work_dir = str(tmp_path / "run")
    ensure_guards(config)
    check_flat(run(Runner.from_cfg(config)))


def test_tiny_job_for_two_thousand_iterations(tmp_path: Path) -> None:
    """The job validates, averages weights and saves."""
    config = settings(tmp_path / "run", rounds=500)
    config.default_hooks.checkpoint.interval = 20
    config.train_cfg.val_interval = 20
    config.custom_hooks = [*config.custom_hooks, dict(type="MemoryHook", every=50)]
    ensure_guards(config)
    check_flat(run(Runner.from_cfg(config)))


def test_exported_backbone_for_two_thousand_inferences(tmp_path: Path) -> None:
    """The file that tools/export.py --format onnx writes, in ONNX Runtime."""
    from care_mm import CARETransformer
    from care_mm.export.graphs import graph_of_module
    from care_mm.export.runtimes import TARGETS

    image = torch.randn(1, 3, 64, 64)
    graph = graph_of_module(CARETransformer("s0", deploy=True).eval(), image)
    path, onnx = tmp_path / "backbone.onnx", TARGETS["onnx"]
    onnx.write(graph, path, shape=(64, 64))
    program = onnx.open(path)
    notes = []
    for number in range(1, 2001):
        program(image)
        if number % 50 == 0:
            notes.append((number, resident(), tensors()))
    check_flat(notes)
