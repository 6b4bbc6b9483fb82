"""What the guards cost: iterations with and without them in turn, and saves, in one process.

Example:
    OMP_NUM_THREADS=1 python tests/faults/cost.py --pairs 60
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.fileio import LocalBackend
from mmengine.runner import Runner

from care_mm.datasets.robust import leaves
from care_mm.engine.checkpointing import AtomicBackend
from care_mm.engine.config import load_config
from care_mm.engine.guards import GUARDS, ensure_guards
from care_mm.engine.randomness import NumberedBatch

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs" / "shapes" / "maskrcnn_care_s0_shapes.py"


class Switch:
    """Takes the guards out of a run that goes on, and puts them back."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.hooks = list(runner._hooks)
        self.plain = [hook for hook in self.hooks if not isinstance(hook, tuple(GUARDS.values()))]
        self.optimizer = runner.optim_wrapper.optimizer
        self.checks = dict(self.optimizer._optimizer_step_pre_hooks)
        self.listeners = dict(runner.model._forward_hooks)
        self.pipelines = [(leaf, leaf.pipeline) for leaf in leaves(runner.train_dataloader.dataset)]
        self.fetch = runner.train_dataloader.dataset.__getitems__

    def set(self, on: bool) -> None:
        """Guards on or off from now on."""
        self.runner._hooks[:] = self.hooks if on else self.plain
        for held, whole in (
            (self.optimizer._optimizer_step_pre_hooks, self.checks),
            (self.runner.model._forward_hooks, self.listeners),
        ):
            held.clear()
            held.update(whole if on else {})
        for leaf, guarded in self.pipelines:
            leaf.pipeline = guarded if on else guarded.pipeline
        dataset = self.runner.train_dataloader.dataset
        self.load = self.fetch if on else lambda batch: [dataset[index] for index in batch]


def timed(call: Callable[[], Any]) -> float:
    """Seconds of CPU time in this process, which other people's load does not change much."""
    begin = time.process_time()
    call()
    return time.process_time() - begin


def start_run(work_dir: str) -> Runner:
    """The demo's run, set up as far as its first iteration, its data loaded in this process."""
    config = load_config(CONFIG)
    config.work_dir = work_dir
    config.train_dataloader.update(num_workers=0, persistent_workers=False)
    config.default_hooks.checkpoint.interval = 1
    config.custom_hooks = []
    config.vis_backends = config.visualizer["vis_backends"] = []
    config.log_level = "ERROR"
    ensure_guards(config)
    runner = Runner.from_cfg(config)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
    runner.call_hook("before_run")
    runner._init_model_weights()
    runner.call_hook("before_train")
    runner.call_hook("before_train_epoch")
    runner.model.train()
    return runner


def iterations(runner: Runner, pairs: int) -> tuple[float, float, float]:
    """Median seconds of an iteration without and with the guards, and the median of the ratios."""
    switch, draw = Switch(runner), random.Random(0)
    size, number = runner.train_dataloader.batch_size, len(runner.train_dataloader.dataset)

    def iteration(batch: NumberedBatch) -> None:
        torch.manual_seed(0)  # the same proposals are drawn with and without
        samples = switch.load(batch)
        runner.train_loop.run_iter(0, pseudo_collate(samples))

    off, on = [], []
    for pair in range(pairs + 3):
        batch = NumberedBatch(draw.randrange(number) for _ in range(size))
        times = {}
        for guarded in draw.sample((False, True), 2):
            switch.set(guarded)
            times[guarded] = timed(lambda batch=batch: iteration(batch))
        if pair >= 3:
            off.append(times[False])
            on.append(times[True])
    return median(off), median(on), median(b / a for a, b in zip(off, on, strict=True))


def saves(runner: Runner, pairs: int, folder: Path) -> tuple[float, float, float]:
    """The same for saving a checkpoint, in wall-clock time, since waiting for the disk counts."""
    off, on = [], []
    # A dict whose backend is decided by name, as CheckpointHook hands it on.
    for pair in range(pairs + 2):
        times = {}
        for name in random.Random(pair).sample(("local", "care_mm_atomic"), 2):
            begin = time.perf_counter()
            runner.save_checkpoint(
                str(folder), f"{name}.pth", meta={}, backend_args=dict(backend=name)
            )
            times[name] = time.perf_counter() - begin
        if pair >= 2:
            off.append(times["local"])
            on.append(times["care_mm_atomic"])
    return median(off), median(on), median(b / a for a, b in zip(off, on, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40, help="iterations of each kind")
    parser.add_argument("--saves", type=int, default=15, help="saves of each kind")
    args = parser.parse_args()
    assert issubclass(AtomicBackend, LocalBackend)
    os.chdir(REPOSITORY)
    with tempfile.TemporaryDirectory(dir=REPOSITORY) as folder:
        runner = start_run(folder)
        for name, (off, on, ratio) in (
            ("iteration (CPU time)", iterations(runner, args.pairs)),
            ("saving (wall clock)", saves(runner, args.saves, Path(folder))),
        ):
            print(
                f"{name}: {1000 * off:.1f} ms without, {1000 * on:.1f} ms with, "
                f"median ratio {ratio:.3f}"
            )


if __name__ == "__main__":
    main()
