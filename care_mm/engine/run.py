"""A checked Runner from a config, alone or in several processes, with or without a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from care_mm.checkpoint import load_model, safe_loading
from care_mm.engine.config import without_pretrained
from care_mm.engine.preflight import check_data, check_weights
from care_mm.errors import InputError


@contextmanager
def _processes(config: Config) -> Iterator[None]:
    """mmengine's launchers expect a GPU per process; without any, set gloo and DDP up here."""
    if config.get("launcher", "none") == "none" or torch.cuda.is_available():
        yield
        return
    if config.launcher != "pytorch":
        raise InputError(f"--launcher {config.launcher} needs GPUs; on the CPU take pytorch")
    if "RANK" not in os.environ:
        raise InputError("--launcher pytorch: start it with torchrun (tools/dist_train.sh)")
    dist.init_process_group("gloo")
    config.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=config.get("find_unused_parameters", False),
    )
    try:
        yield
    finally:
        dist.destroy_process_group()


def _build(config: Config) -> Runner:
    return RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)


def train(config: Config, resume: str | None = None) -> Runner:
    """Train as the config says.

    Args:
        config: With ``work_dir`` set.
        resume: A checkpoint, ``'auto'`` for the newest one in ``work_dir``, or ``None``.

    Returns:
        The runner, after training.

    Raises:
        InputError: Missing weights, data or checkpoint, or a ``work_dir`` that holds another run.
    """
    newest = find_latest_checkpoint(config.work_dir) if os.path.isdir(config.work_dir) else None
    if resume == "auto" and newest is None:
        print_log(f"--resume: {config.work_dir} holds no checkpoint, starting from the beginning")
        resume = None
    if resume is None and newest is not None:
        raise InputError(
            f"{config.work_dir} already holds a run ({Path(newest).name}): continue it with "
            "--resume, or choose another --work-dir"
        )
    if resume is not None:
        config.load_from = newest if resume == "auto" else resume
        config.resume = True
        if not os.path.isfile(config.load_from):
            raise InputError(f"--resume {config.load_from}: no such file")
        config.model = without_pretrained(config.model)
    check_weights(config)
    check_data(config, ("train", "val"))
    with safe_loading(), _processes(config):
        runner = _build(config)
        runner.train()
    return runner


def test(config: Config, checkpoint: str) -> dict[str, float]:
    """Evaluate a checkpoint on the config's test set.

    Returns:
        The metrics.

    Raises:
        InputError: Missing data, or a checkpoint that does not fit the model.
    """
    if not os.path.isfile(checkpoint):
        raise InputError(f"checkpoint {checkpoint}: no such file")
    check_data(config, ("test",))
    config.model = without_pretrained(config.model)
    config.load_from = None
    with safe_loading(), _processes(config):
        runner = _build(config)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_model(model, checkpoint)
        return runner.test()
