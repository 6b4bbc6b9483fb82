"""Build parts of a model, or all of it, and run them on a blank image."""

from __future__ import annotations

import importlib
import re
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from care_mm.config import find, type_name, without_pretrained
from care_mm.errors import InputError, one_line

SIDE = 256  # pixels; every stride up to 64 divides it, and windowed attention accepts it
# (mode, image side), tried in order until one runs. Random weights make some models fail on their
# own predictions, and some models need more than a few cells on every level.
ATTEMPTS = (("predict", 128), ("tensor", 128), ("predict", 512))


@dataclass(frozen=True)
class Map:
    """A feature map.

    Attributes:
        channels: Number of channels.
        stride: Image pixels per cell.
    """

    channels: int
    stride: int


@dataclass(frozen=True)
class Measured:
    """The result of running a part of a model.

    Attributes:
        maps: The feature maps that the part returns.
        norm_eval: The part's ``norm_eval``; ``None`` if it has no such attribute.
    """

    maps: tuple[Map, ...]
    norm_eval: bool | None


def build(cfg: Any, scope: str) -> nn.Module:
    """Build a part of a model, looking names up in ``scope`` (``'mmdet'`` or ``'mmseg'``)."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


def measure(cfg: Any, scope: str, where: str, inputs: Sequence[Map] | None = None) -> Measured:
    """Build a backbone or a neck, run it, and return the sizes of its feature maps.

    Args:
        cfg: The config of the part. Its pretrained weights are not loaded.
        scope: The registry scope for names.
        where: The name of the part in error messages.
        inputs: The maps that a neck reads; ``None`` for a backbone, which reads an image.

    Raises:
        InputError: The part does not build or run, or returns something other than maps.
    """
    cfg = _without_weights(cfg)
    try:
        # The meta device needs no memory or arithmetic. Most parts run on it, even large ones.
        module, outs = _run(cfg, scope, inputs, "meta")
    except Exception:
        try:
            module, outs = _run(cfg, scope, inputs, "cpu")
        except Exception as error:
            raise InputError(
                f"{where} does not run by itself ({_describe(error)}), "
                "so the maps that it returns are unknown"
            ) from error
    outs = outs if isinstance(outs, list | tuple) else [outs]
    if not all(isinstance(out, Tensor) and out.ndim == 4 for out in outs):
        raise InputError(f"{where} returns more than feature maps (tokens, or nested outputs)")
    maps = tuple(Map(out.shape[1], round(SIDE / out.shape[3])) for out in outs)
    return Measured(maps, getattr(module, "norm_eval", None))


def _without_weights(cfg: Any) -> Any:
    """Return a copy without the weights that building the parts would look for."""
    cfg = without_pretrained(cfg)
    for part in find(cfg, lambda node: "pretrained" in node or _is_timm(node)):
        part.pop("pretrained", None)
        if _is_timm(part):
            part["pretrained"] = False
    return cfg


def _is_timm(node: Mapping) -> bool:
    return type_name(node).startswith("TIMM")


def _run(
    cfg: Any, scope: str, inputs: Sequence[Map] | None, device: str
) -> tuple[nn.Module, Tensor | Sequence[Tensor]]:
    with torch.device(device), torch.no_grad():
        module = build(cfg, scope)
        module.eval()  # not chained: some backbones return None here
        if inputs is None:
            return module, module(torch.zeros(1, 3, SIDE, SIDE))
        sides = [SIDE // m.stride for m in inputs]
        maps = tuple(torch.zeros(1, m.channels, s, s) for m, s in zip(inputs, sides, strict=True))
        return module, module(maps)


def try_model(config: Config, original: Config | None = None) -> str:
    """Build a config's model without pretrained weights, and run it on a blank image.

    Args:
        config: The config with the new backbone.
        original: The config with the old backbone. Some models fail on a CPU or with random
            weights whatever their backbone, so this one is tried in the same way if the other
            fails.

    Returns:
        A remark if both models fail in the same way, so that nothing is known; empty if the model
        runs.

    Raises:
        InputError: The model does not build, or does not run where the original does.
    """
    try:
        failures = _failures(config)
    except Exception as error:
        raise _does_not_run(config, error) from error
    if not failures:
        return ""
    if original is None or not _all_alike(failures, _failures_of_original(original)):
        raise _does_not_run(config, failures[0]) from failures[0]
    return (
        "not known to run: with random weights and a blank image, both the original and the new "
        f"model fail with {_describe(failures[0])}"
    )


def _failures(config: Config) -> list[Exception]:
    """Build the model, and return the errors of all attempts; none once an attempt runs."""
    scope = config.default_scope
    model_cfg = _without_weights(config.model)
    if "data_preprocessor" not in model_cfg and "data_preprocessor" in config:
        model_cfg["data_preprocessor"] = config.data_preprocessor
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # random weights may fail; the same ones each time
        model = build(model_cfg, scope)
        model.eval()
        needs_proposals = scope == "mmdet" and not getattr(model, "with_rpn", True)
        failures = []
        for mode, side in ATTEMPTS:
            try:
                with torch.no_grad():
                    batch = _blank_batch(scope, side, needs_proposals)
                    model(**model.data_preprocessor(batch, False), mode=mode)
            except Exception as error:
                failures.append(error)
            else:
                return []
    return failures


def _failures_of_original(config: Config) -> list[Exception]:
    try:
        return _failures(config)
    except Exception:  # it does not even build, so it says nothing about the other
        return []


def _all_alike(errors: Sequence[Exception], others: Sequence[Exception]) -> bool:
    """Whether two models failed each attempt at the same line, with the same words."""
    return list(map(_kind, errors)) == list(map(_kind, others))


def _kind(error: Exception) -> tuple[type, str, str, int]:
    """Return what two errors of the same cause share. Numbers in their messages may differ."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return type(error), re.sub(r"\d+", "N", str(error)), frame.filename, frame.lineno


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 200)}"


def _does_not_run(config: Config, error: Exception) -> InputError:
    return InputError(
        f"{config.model.type} with the new backbone does not run ({_describe(error)})"
    )


def _blank_batch(scope: str, side: int, with_proposal: bool) -> dict:
    """Return a batch of one grey image, with a proposal if the model needs one (Fast R-CNN)."""
    structures = importlib.import_module(f"{scope}.structures")
    sample = (structures.DetDataSample if scope == "mmdet" else structures.SegDataSample)()
    sample.set_metainfo(
        dict(
            img_id=0,
            img_path="",
            img_shape=(side, side),
            ori_shape=(side, side),
            scale_factor=(1.0, 1.0),
            flip=False,
            border=torch.tensor([0, side, 0, side]).numpy(),  # for CenterNet
        )
    )
    if with_proposal:
        box = torch.tensor([[0.0, 0.0, side / 2, side / 2]])
        sample.proposals = InstanceData(bboxes=box, scores=torch.ones(1))
    image = torch.full((3, side, side), 128, dtype=torch.uint8)
    return {"inputs": [image], "data_samples": [sample]}
