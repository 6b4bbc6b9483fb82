"""Train and test with a checked Runner, in one process or several, with or without a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from care_mm.checkpoint.loaders import safe_loading
from care_mm.config import find, type_name, without_pretrained
from care_mm.datasets.check.coverage import result_files
from care_mm.engine.hooks import ensure_guards
from care_mm.engine.hooks.interrupt import clean_stop
from care_mm.engine.lock import locked
from care_mm.engine.preflight import check_annotations, check_data, check_weights
from care_mm.engine.resume import existing_run, find_checkpoint, find_resumable, read_state
from care_mm.errors import InputError, explained
from care_mm.export.stand_in import load_weights
from care_mm.files import prepare_folder


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
    for norm in find(config.model, lambda node: type_name(node) in ("SyncBN", "MMSyncBN")):
        raise InputError(
            f"the model has {type_name(norm)}, which synchronises processes on GPUs only: on the "
            "CPU use one process, or 'BN' in its norm_cfg"
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
    _report_finished(config, content["meta"])
    config.model = without_pretrained(config.model)
    # mmengine builds loaders before it reads the checkpoint. With another seed, they would return
    # the samples in another order.
    seed = content["meta"].get("seed")
    if seed is not None:
        config.randomness = dict(config.get("randomness") or {}, seed=seed)


def _report_finished(config: Config, meta: Mapping[str, Any]) -> None:
    """Log that the run to resume has nothing left to train."""
    for unit in ("epoch", "iter"):
        planned = (config.get("train_cfg") or {}).get(f"max_{unit}s")
        if isinstance(planned, int) and meta[unit] >= planned:
            print_log(
                f"--resume: the run is finished ({meta[unit]} of {planned} {unit}s), nothing is "
                f"left to train; to train longer, raise train_cfg.max_{unit}s"
            )


def _refuse_no_training(config: Config) -> None:
    """Refuse a config without a training loop, or with one of no length."""
    if not config.get("train_dataloader") or not config.get("train_cfg"):
        raise InputError(f"config {config.filename}: has no train_dataloader or no train_cfg")
    for name in ("max_epochs", "max_iters"):
        length = config.train_cfg.get(name, 1)
        if not isinstance(length, int) or length < 1:
            raise InputError(f"train_cfg.{name}={length}: must be an integer of at least 1")


def _adapt_loaders(config: Config) -> None:
    """Switch off ``persistent_workers``, which torch refuses without workers."""
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = config.get(name) or {}
        if loader.get("persistent_workers") and loader.get("num_workers") == 0:
            loader["persistent_workers"] = False
            print_log(f"{name}: persistent_workers is off, since num_workers is 0")


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
    _refuse_no_training(config)
    check_weights(config)
    check_data(config, ("train", "val"))
    check_annotations(config, ("train", "val"))
    prepare_folder(config.work_dir, "--work-dir")
    ensure_guards(config)
    _adapt_loaders(config)
    with (
        locked(config.work_dir),
        safe_loading(),
        _processes(config),
        clean_stop(),
        explained(),
    ):
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
    if not config.get("test_dataloader"):
        raise InputError(f"config {config.filename}: has no test_dataloader to test with")
    checkpoint = find_checkpoint(checkpoint)
    check_data(config, ("test",))
    check_annotations(config, ("test",))
    config.model = without_pretrained(config.model)
    config.load_from = None
    prepare_folder(config.work_dir, "--work-dir")
    ensure_guards(config)
    _adapt_loaders(config)
    with safe_loading(), _processes(config), explained():
        runner = _build(config)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_weights(model, checkpoint, allow_partial)
        metrics = runner.test()
        for place in result_files(config.get("test_evaluator")):
            print_log(f"predictions are in {place}", logger="current")
        return metrics
