"""Train and test with a checked Runner, in one process or several, with or without a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from care_mm.checkpoint.loaders import safe_loading
from care_mm.config import find, without_pretrained
from care_mm.engine.disk import prepare_work_dir
from care_mm.engine.hooks import ensure_guards
from care_mm.engine.hooks.interrupt import clean_stop
from care_mm.engine.preflight import check_data, check_weights
from care_mm.engine.resume import existing_run, find_resumable, read_state
from care_mm.errors import InputError, explained
from care_mm.export.stand_in import load_weights


@contextmanager
def _processes(config: Config) -> Iterator[None]:
    """Set up gloo and DDP for processes without a GPU; mmengine's launchers need a GPU each."""
    if config.get("launcher", "none") == "none" or torch.cuda.is_available():
        yield
        return
    if config.launcher != "pytorch":
        raise InputError(f"--launcher {config.launcher} needs GPUs; on the CPU use pytorch")
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


def _refuse_sync_bn(config: Config) -> None:
    """Refuse SyncBN on the CPU, for which torch prints a traceback in every process."""
    if torch.cuda.is_available() or not dist.is_initialized():
        return
    for norm in find(config.model, lambda node: node.get("type") in ("SyncBN", "MMSyncBN")):
        raise InputError(
            f"the model has {norm['type']}, which synchronises processes on GPUs only: on the CPU "
            "use one process, or 'BN' in its norm_cfg"
        )


def _build(config: Config) -> Runner:
    return RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)


def _prepare_resume(config: Config, resume: str) -> None:
    """Set the config to resume from a checkpoint, with the seed of its run."""
    if resume == "auto":
        newest = find_resumable(config)
        if newest is None:
            print_log(f"--resume: {config.work_dir} has no checkpoint, starting from the beginning")
            return
        path, content = newest
    else:
        if not os.path.isfile(resume):
            raise InputError(f"--resume {resume}: no such file")
        path, content = resume, read_state(resume)
    config.load_from, config.resume = str(path), True
    config.model = without_pretrained(config.model)
    # mmengine builds loaders before it reads the checkpoint. With another seed, they would return
    # the samples in another order.
    seed = content["meta"].get("seed")
    if seed is not None:
        config.randomness = dict(config.get("randomness") or {}, seed=seed)


def train(config: Config, resume: str | None = None) -> Runner:
    """Train as the config says, with the guards of :mod:`care_mm.engine.hooks`.

    Args:
        config: A config with ``work_dir`` set.
        resume: A checkpoint, ``'auto'`` for the newest intact one in ``work_dir``, or ``None``.

    Returns:
        The runner, after training.

    Raises:
        InputError: Weights, data or the checkpoint are missing, ``work_dir`` holds another run or
            is not writable, or a guard ended the run.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after saving; see :class:`InterruptHook`.
    """
    if resume is not None:
        _prepare_resume(config, resume)
    elif newest := existing_run(config):
        raise InputError(
            f"{config.work_dir} already holds a run ({newest}): continue it with --resume, or "
            "choose another --work-dir"
        )
    check_weights(config)
    check_data(config, ("train", "val"))
    prepare_work_dir(config.work_dir)
    ensure_guards(config)
    with safe_loading(), _processes(config), clean_stop(), explained():
        _refuse_sync_bn(config)
        runner = _build(config)
        runner.train()
    return runner


def test(config: Config, checkpoint: str, allow_partial: bool = False) -> dict[str, float]:
    """Evaluate a checkpoint on the config's test set.

    Args:
        config: A config with ``work_dir`` set.
        checkpoint: A file that training or export wrote.
        allow_partial: Load the tensors that fit the model, and list the ones left random.

    Returns:
        The metrics.

    Raises:
        InputError: The data are missing, or the checkpoint does not fit the model.
    """
    if not os.path.isfile(checkpoint):
        raise InputError(f"checkpoint {checkpoint}: no such file")
    check_data(config, ("test",))
    config.model = without_pretrained(config.model)
    config.load_from = None
    prepare_work_dir(config.work_dir)
    ensure_guards(config)
    with safe_loading(), _processes(config), explained():
        runner = _build(config)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_weights(model, checkpoint, allow_partial)
        return runner.test()
