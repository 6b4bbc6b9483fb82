"""Apply a command's options to a config."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from care_mm.config import find, load_config, type_name, without_pretrained
from care_mm.errors import InputError, refuse_existing
from care_mm.files import prepare_folder


def use_from_scratch(config: Config) -> None:
    """Train from random weights: load no file, and let norms learn their statistics."""
    config.model = without_pretrained(config.model)
    for node in find(config.model, lambda node: node.get("norm_eval") is True):
        node["norm_eval"] = False
        print_log(
            "--from-scratch: norm_eval is off, since random weights have no statistics to keep"
        )


def use_amp(config: Config) -> None:
    """Train in mixed precision with loss scaling.

    Raises:
        InputError: There is no GPU, or AMP cannot replace the optimizer wrapper.
    """
    if not torch.cuda.is_available():
        raise InputError("--amp needs a GPU, and torch finds none: omit it on the CPU")
    kind = type_name(config.optim_wrapper) or "OptimWrapper"
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise InputError(f"--amp replaces OptimWrapper, but the config has {kind!r}")
    config.optim_wrapper.type = "AmpOptimWrapper"
    config.optim_wrapper.setdefault("loss_scale", "dynamic")


def use_auto_scale_lr(config: Config) -> None:
    """Scale the learning rate linearly with the number of images in an optimizer step.

    mmengine does the scaling, but it ignores gradient accumulation.

    Raises:
        InputError: The config does not state the batch size that its learning rate is for.
    """
    if "base_batch_size" not in config.get("auto_scale_lr", {}):
        raise InputError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size")
    config.auto_scale_lr.enable = True
    batches = config.get("optim_wrapper", {}).get("accumulative_counts", 1)
    if batches > 1:
        config.auto_scale_lr.base_batch_size /= batches
        print_log(f"--auto-scale-lr: a step has {batches} batches", logger="current")


def use_allow_partial(config: Config) -> None:
    """Accept a ``load_from`` that covers part of the model, and list the tensors left random.

    Raises:
        InputError: The config has no ``load_from``.
    """
    if not config.get("load_from"):
        raise InputError("--allow-partial: the config has no load_from")
    hooks = config.setdefault("default_hooks", ConfigDict())
    hooks["weights"] = dict(type="WeightsGuardHook", allow_partial=True)


def use_show_dir(config: Config, folder: str) -> None:
    """Draw the predictions and the ground truth on every tested image.

    Raises:
        InputError: The config has no visualization hook of a known type.
    """
    prepare_folder(folder, "--show-dir")
    folder = str(Path(folder).absolute())
    hook = config.get("default_hooks", {}).get("visualization") or {}
    settings = {
        "DetVisualizationHook": {"draw": True, "test_out_dir": folder},
        "SegVisualizationHook": {"draw": True, "interval": 1},
        "VisualizationHook": {"enable": True, "interval": 1, "out_dir": folder},
    }
    if type_name(hook) not in settings:
        raise InputError("--show-dir: the config has no default_hooks.visualization to draw with")
    hook.update(settings[type_name(hook)])
    config.visualizer["save_dir"] = folder


def use_out_file(config: Config, file: str) -> None:
    """Write the predictions of a test to a pickle; see :class:`PredictionFileHook`.

    Raises:
        InputError: The file exists, its name does not end in .pkl, or its folder is not writable.
    """
    refuse_existing(file, "--out")
    if Path(file).suffix not in (".pkl", ".pickle"):
        raise InputError(f"--out {file}: the name must end in .pkl")
    prepare_folder(Path(file).parent, "--out")
    hooks = config.get("custom_hooks") or []
    config.custom_hooks = [*hooks, dict(type="PredictionFileHook", file=file)]


def use_deterministic(config: Config) -> None:
    """Use the config's seed, or 0, and deterministic algorithms only."""
    randomness = config.get("randomness") or {}
    seed = randomness.get("seed")
    config.randomness = dict(randomness, seed=0 if seed is None else seed, deterministic=True)
    config.env_cfg = dict(config.get("env_cfg") or {}, cudnn_benchmark=False)
    # cuBLAS reads it when it is first used; without it, torch raises an error.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def from_arguments(args: argparse.Namespace) -> Config:
    """Return the config that a command was given, with its launcher and work dir set.

    Args:
        args: Parsed arguments of ``cli.add_config_arguments`` and ``cli.add_run_arguments``.

    Raises:
        InputError: As :func:`care_mm.config.load_config`.
    """
    config = load_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    default = str(Path("work_dirs") / Path(config.filename).stem)
    config.work_dir = args.work_dir or config.get("work_dir") or default
    return config
