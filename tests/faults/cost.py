"""Measure the cost of the guards: iterations and saves with and without them, in turn.

Example:
    OMP_NUM_THREADS=1 python tests/faults/cost.py --pairs 40 --saves 25 --large-saves 14
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from care_mm.config import load_config, without_pretrained
from care_mm.engine.hooks import GUARDS, ensure_guards
from care_mm.engine.hooks.checkpoint import AtomicCheckpointHook
from care_mm.engine.hooks.guarded_pipeline import leaves
from care_mm.engine.hooks.randomness import NumberedBatch

REPOSITORY = Path(__file__).parents[2]
CONFIGS = REPOSITORY / "configs"
CONFIG = CONFIGS / "shapes" / "maskrcnn_care_s0_shapes.py"
LARGER = "maskrcnn_care_s1_coco.py"
WARM_UP = 3


class Switch:
    """Remove the guards from a run in progress, and add them again."""

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
        """Switch the guards on or off."""
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


class Pairs:
    """Seconds of the same work without and with the guards, measured in turn."""

    def __init__(self) -> None:
        self.off: list[float] = []
        self.on: list[float] = []

    def add(self, times: dict[bool, float]) -> None:
        self.off.append(times[False])
        self.on.append(times[True])

    def __str__(self) -> str:
        """Return medians, and the median ratio within pairs, which a slow minute hardly changes."""
        ratios = [on / off for off, on in zip(self.off, self.on, strict=True)]
        low, _, high = quantiles(ratios, n=4)
        return (
            f"{1000 * median(self.off):.1f} ms without, {1000 * median(self.on):.1f} ms with; "
            f"ratio {median(ratios):.3f}, half of {len(ratios)} pairs in {low:.3f} to {high:.3f}"
        )


def timed(call: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of a call; other programs hardly change the CPU time of a process."""
    begin = clock()
    call()
    return clock() - begin


def start_run(work_dir: Path, model: str | None = None) -> Runner:
    """Set up the run of the demo up to its first iteration, with data loaded in this process.

    Args:
        work_dir: Work dir of the run.
        model: A config whose model replaces that of the demo, with random weights.
    """
    config = load_config(CONFIG)
    if model is not None:
        config.model = without_pretrained(load_config(CONFIGS / model).model)
        config.load_from = None
    config.work_dir = str(work_dir)
    config.experiment_name = work_dir.name
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


def iterations(runner: Runner, number: int) -> Pairs:
    """Time the same batch with and without the guards, in random order, in CPU time."""
    switch, draw, pairs = Switch(runner), random.Random(0), Pairs()
    size, length = runner.train_dataloader.batch_size, len(runner.train_dataloader.dataset)

    def iteration(batch: NumberedBatch) -> None:
        torch.manual_seed(0)  # the same proposals in both
        samples = switch.load(batch)
        runner.train_loop.run_iter(0, pseudo_collate(samples))

    for pair in range(number + WARM_UP):
        batch = NumberedBatch(draw.randrange(length) for _ in range(size))
        times = {}
        for guarded in draw.sample((False, True), 2):
            switch.set(guarded)
            times[guarded] = timed(partial(iteration, batch), time.process_time)
        if pair >= WARM_UP:
            pairs.add(times)
    return pairs


def saves(runner: Runner, number: int, folder: Path) -> Pairs:
    """Time a save by our hook and by mmengine's, each deleting the previous file, in wall time.

    mmengine formats the config for every checkpoint, which takes as long as the rest of a save of
    the demo. It is formatted once here, so that only the file is compared.
    """
    draw, pairs, hooks = random.Random(0), Pairs(), {}
    text = runner.cfg.pretty_text
    Config.pretty_text = property(lambda _: text)
    for guarded, kind in enumerate((CheckpointHook, AtomicCheckpointHook)):
        hooks[bool(guarded)] = kind(out_dir=str(folder / kind.__name__), max_keep_ckpts=1)
        hooks[bool(guarded)].before_train(runner)
    for pair in range(number + WARM_UP):
        runner.train_loop._epoch = pair
        times = {}
        for guarded in draw.sample((False, True), 2):
            os.sync()  # finish the writes of the other hook
            times[guarded] = timed(partial(hooks[guarded]._save_checkpoint, runner))
        if pair >= WARM_UP:
            pairs.add(times)
    sizes = {file.stat().st_size for file in folder.rglob("epoch_*.pth")}
    print(f"checkpoints of {max(sizes) / 1e6:,.0f} MB")
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40, help="iterations of each kind")
    parser.add_argument("--saves", type=int, default=15, help="saves of each kind, for the demo")
    parser.add_argument(
        "--large-saves", type=int, default=15, help=f"saves of each kind, for {LARGER}"
    )
    args = parser.parse_args()
    os.chdir(REPOSITORY)
    Path("work_dirs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="work_dirs") as folder:
        demo = start_run(Path(folder, "demo"))
        print("iteration, CPU time:", iterations(demo, args.pairs or 2), flush=True)
        if args.saves:
            print("saving, wall clock:", saves(demo, args.saves, Path(folder, "demo")), flush=True)
        if args.large_saves:
            larger = start_run(Path(folder, "larger"), LARGER)
            for parameter in larger.model.parameters():
                parameter.grad = torch.randn_like(parameter)
            optimizer = larger.optim_wrapper.optimizer
            optimizer._optimizer_step_pre_hooks.clear()  # they need an iteration
            optimizer.step()  # fills its state
            print("saving, wall clock:", saves(larger, args.large_saves, Path(folder, "larger")))


if __name__ == "__main__":
    main()
