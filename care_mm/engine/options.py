"""Apply a command's options to a config."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log

from care_mm.config import find, load_config, without_pretrained
from care_mm.errors import InputError


def use_from_scratch(config: Config) -> None:
    """Train from random weights: no file is loaded, and norms learn their statistics."""
    config.model = without_pretrained(config.model)
    for node in find(config.model, lambda node: node.get("norm_eval") is True):
        node["norm_eval"] = False
        print_log("--from-scratch: norm_eval is off, random weights have no statistics to keep")


def use_amp(config: Config) -> None:
    """Mixed precision with loss scaling.

    Raises:
        InputError: There is no GPU, or the optimizer wrapper is of a kind that AMP cannot replace.
    """
    if not torch.cuda.is_available():
        raise InputError("--amp needs a GPU, and torch sees none: leave it out on the CPU")
    kind = config.optim_wrapper.get("type", "OptimWrapper")
    if kind not in ("OptimWrapper", "AmpOptimWrapper"):
        raise InputError(f"--amp replaces OptimWrapper, but the config has {kind!r}")
    config.optim_wrapper.type = "AmpOptimWrapper"
    config.optim_wrapper.setdefault("loss_scale", "dynamic")


def use_auto_scale_lr(config: Config) -> None:
    """Scale the learning rate by the images of an optimizer step, linearly, as mmengine does.

    mmengine leaves out that gradients may be accumulated over several batches.

    Raises:
        InputError: The config does not say which batch size its learning rate is for.
    """
    if "base_batch_size" not in config.get("auto_scale_lr", {}):
        raise InputError("--auto-scale-lr: the config has no auto_scale_lr.base_batch_size")
    config.auto_scale_lr.enable = True
    batches = config.get("optim_wrapper", {}).get("accumulative_counts", 1)
    if batches > 1:
        config.auto_scale_lr.base_batch_size /= batches
        print_log(f"--auto-scale-lr: {batches} batches a step count as one", logger="current")


def use_allow_partial(config: Config) -> None:
    """Start from a ``load_from`` that covers part of the model; what stays random is listed.

    Raises:
        InputError: The config has no ``load_from``.
    """
    if not config.get("load_from"):
        raise InputError("--allow-partial: the config has no load_from to load a part of")
    hooks = config.setdefault("default_hooks", ConfigDict())
    hooks["weights"] = dict(type="WeightsGuardHook", allow_partial=True)


def use_show_dir(config: Config, folder: str) -> None:
    """Write a picture with predictions and truth for every tested image.

    Raises:
        InputError: The config has no visualization hook that can.
    """
    folder = str(Path(folder).absolute())
    hook = config.get("default_hooks", {}).get("visualization") or {}
    settings = {
        "DetVisualizationHook": {"draw": True, "test_out_dir": folder},
        "SegVisualizationHook": {"draw": True, "interval": 1},
        "VisualizationHook": {"enable": True, "interval": 1, "out_dir": folder},
    }
    if hook.get("type") not in settings:
        raise InputError("--show-dir: the config has no default_hooks.visualization to draw with")
    hook.update(settings[hook["type"]])
    config.visualizer["save_dir"] = folder


def use_out_file(config: Config, file: str) -> None:
    """Keep the predictions of a test in a pickle, as MM's own tools do.

    Raises:
        InputError: The file exists.
    """
    if Path(file).exists():
        raise InputError(f"--out {file}: exists already, choose another name")
    evaluators = config.test_evaluator
    evaluators = list(evaluators) if isinstance(evaluators, list | tuple) else [evaluators]
    config.test_evaluator = [*evaluators, dict(type="DumpResults", out_file_path=file)]


def from_arguments(args: argparse.Namespace) -> Config:
    """The config that a command was given, with its launcher and work dir set.

    Args:
        args: Of :func:`care_mm.cli.add_config_arguments` and ``add_run_arguments``.

    Raises:
        InputError: As :func:`load_config`.
    """
    config = load_config(args.config, args.cfg_options)
    config.launcher = args.launcher
    default = str(Path("work_dirs") / Path(config.filename).stem)
    config.work_dir = args.work_dir or config.get("work_dir") or default
    return config
