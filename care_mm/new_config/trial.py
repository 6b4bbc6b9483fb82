"""Try a new config: check its data, train one step, and validate one batch."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import redirect_stdout

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from care_mm.datasets.check import check_config
from care_mm.errors import InputError, one_line

_IMAGES = 50  # images of each split that the check opens


def check_data(config: Config) -> Iterator[str]:
    """Check the data of a config as ``tools/check_data.py`` does.

    Yields:
        The lines of the report.

    Raises:
        InputError: The data have a problem, which the lines before name.
    """
    places = []
    for findings in check_config(config, limit=_IMAGES):
        yield from findings.lines()
        if findings.problems:
            places.append(findings.place)
    if places:
        raise InputError(f"problems in the data of {', '.join(dict.fromkeys(places))}")


def try_steps(config: Config) -> dict[str, float]:
    """Train one step and validate one batch, on the CPU, in this process.

    Args:
        config: The config; its custom imports must be done. It is not changed.

    Returns:
        The losses of the step.

    Raises:
        InputError: The model, the data or a step fail.
    """
    config = config.copy()
    MMLogger.get_instance("new_config", log_level="ERROR")  # it lists every tensor otherwise
    # pycocotools prints about its index.
    quiet = redirect_stdout(io.StringIO())
    with DefaultScope.overwrite_default_scope(config.default_scope), quiet:
        try:
            torch.manual_seed(0)
            model = MODELS.build(config.model)
            model.init_weights()
            train, val = (_batch(config[f"{name}_dataloader"]) for name in ("train", "val"))
            losses, logged = model.train().parse_losses(
                model(**model.data_preprocessor(train, True), mode="loss")
            )
            losses.backward()
            with torch.no_grad():
                model.eval().val_step(val)
        except InputError:
            raise
        except Exception as error:  # any part of MM may fail on a config
            raise InputError(
                f"a first step fails: {type(error).__name__}: {one_line(error)}"
            ) from error
    values = {name: float(value.detach()) for name, value in logged.items()}
    if not torch.isfinite(losses):
        raise InputError(f"the loss of a first step is not finite: {values}")
    return values


def _batch(loader: dict) -> dict:
    """Return the first batch of a dataloader, loaded in this process."""
    settings = {**loader, "num_workers": 0, "persistent_workers": False}
    settings["batch_size"] = min(settings["batch_size"], 2)
    return next(iter(Runner.build_dataloader(settings, seed=0)))
