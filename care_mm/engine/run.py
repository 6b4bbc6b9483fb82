"""A checked Runner from a config, alone or in several processes, with or without a GPU."""

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
from care_mm.engine.hooks.interrupt import asking_first
from care_mm.engine.preflight import check_data, check_weights
from care_mm.engine.resume import find_resumable, holds_a_run, read_state
from care_mm.errors import InputError
from care_mm.export.stand_in import load_weights


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


def _refuse_sync_bn(config: Config) -> None:
    """torch's says so in a traceback of every process."""
    if torch.cuda.is_available() or not dist.is_initialized():
        return
    for norm in find(config.model, lambda node: node.get("type") in ("SyncBN", "MMSyncBN")):
        raise InputError(
            f"the model has {norm['type']}, which several processes share on GPUs only: on the CPU "
            "take one process, or 'BN' in its norm_cfg"
        )


def _build(config: Config) -> Runner:
    return RUNNERS.build(config) if "runner_type" in config else Runner.from_cfg(config)


@contextmanager
def _said_in_one_line() -> Iterator[None]:
    """What happens in a loader's worker or in a norm reaches the user in the words of a message.

    Raises:
        InputError: In place of torch's, which has a traceback in its message; a worker died; a
            batch norm has nothing to take the variance of.
    """
    try:
        yield
    except InputError as error:
        message = str(error)
        if not message.startswith("Caught InputError"):
            raise
        raise InputError(message.rsplit("InputError: ", 1)[-1].strip()) from error
    except ValueError as error:
        reason = " ".join(str(error).split())
        if not reason.startswith("Expected more than 1 value per channel"):
            raise
        raise InputError(
            f"a batch norm needs more than one value of each channel ({reason}): take larger "
            "pictures or batches, or keep the statistics (model.backbone.norm_eval=True)"
        ) from error
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if not reason.startswith("DataLoader worker"):
            raise
        raise InputError(
            f"{reason}: out of memory? Take fewer workers "
            "(--cfg-options train_dataloader.num_workers=2) or smaller batches"
        ) from error


def _go_on(config: Config, resume: str) -> None:
    """Set the config to go on from a checkpoint, with its seed."""
    if resume == "auto":
        found = find_resumable(config)
        if found is None:
            print_log(
                f"--resume: {config.work_dir} holds no checkpoint, starting from the beginning"
            )
            return
        path, content = found
    else:
        if not os.path.isfile(resume):
            raise InputError(f"--resume {resume}: no such file")
        path, content = resume, read_state(resume)
    config.load_from, config.resume = str(path), True
    config.model = without_pretrained(config.model)
    # Loaders are built before mmengine reads the checkpoint: with another seed they would give the
    # samples in another order.
    seed = content["meta"].get("seed")
    if seed is not None:
        config.randomness = dict(config.get("randomness") or {}, seed=seed)


def train(config: Config, resume: str | None = None) -> Runner:
    """Train as the config says, with the guards of :mod:`care_mm.engine.hooks.guards`.

    Args:
        config: With ``work_dir`` set.
        resume: A checkpoint, ``'auto'`` for the newest whole one in ``work_dir``, or ``None``.

    Returns:
        The runner, after training.

    Raises:
        InputError: Missing weights, data or checkpoint, or a ``work_dir`` that holds another run or
            takes no files; while it runs, what a guard has found.
        KeyboardInterrupt: Ctrl-C or SIGTERM, after saving; see :class:`InterruptHook`.
    """
    if resume is not None:
        _go_on(config, resume)
    elif newest := holds_a_run(config):
        raise InputError(
            f"{config.work_dir} already holds a run ({newest}): continue it with --resume, or "
            "choose another --work-dir"
        )
    check_weights(config)
    check_data(config, ("train", "val"))
    prepare_work_dir(config.work_dir)
    ensure_guards(config)
    with safe_loading(), _processes(config), asking_first(), _said_in_one_line():
        _refuse_sync_bn(config)
        runner = _build(config)
        runner.train()
    return runner


def test(config: Config, checkpoint: str, allow_partial: bool = False) -> dict[str, float]:
    """Evaluate a checkpoint on the config's test set.

    Args:
        config: With ``work_dir`` set.
        checkpoint: What training or export wrote.
        allow_partial: Load what fits the model, and list what stays random.

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
    prepare_work_dir(config.work_dir)
    ensure_guards(config)
    with safe_loading(), _processes(config), _said_in_one_line():
        runner = _build(config)
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        load_weights(model, checkpoint, allow_partial)
        return runner.test()
