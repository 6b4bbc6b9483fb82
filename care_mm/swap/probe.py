"""What a backbone or neck gives: measured by building it and passing a small picture through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from care_mm.config import without_pretrained
from care_mm.errors import InputError

SIDE = 256  # pixels; every stride up to 64 divides it, and windowed attention takes it


@dataclass(frozen=True)
class Map:
    """One feature map: its channels, and the pixels of the picture per cell."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Measured:
    """A part of a model after a run.

    Args:
        maps: What it gives.
        norm_eval: Whether it keeps batch norms in evaluation mode; ``None`` when it cannot tell.
    """

    maps: tuple[Map, ...]
    norm_eval: bool | None


def build(cfg: Any, scope: str) -> nn.Module:
    """Build a part of a model, looking names up in ``scope`` (``'mmdet'``, ``'mmseg'``)."""
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(cfg)


def measure(cfg: Any, scope: str, where: str, inputs: Sequence[Map] | None = None) -> Measured:
    """Build a backbone, or a neck that takes the maps ``inputs``, and look at what it gives.

    Args:
        cfg: The config of the part; files that it would load are left out.
        scope: Where names are looked up.
        where: What an error calls the part.
        inputs: Maps that a neck gets; ``None`` for a backbone, which gets a picture.

    Raises:
        InputError: The part does not build or run, or gives something other than maps.
    """
    cfg = _unloaded(cfg)
    try:
        # Without memory or arithmetic: enough for most, and quick for the largest.
        module, outs = _run(cfg, scope, inputs, "meta")
    except Exception:
        try:
            module, outs = _run(cfg, scope, inputs, "cpu")
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{where} does not run by itself ({type(error).__name__}: {reason}), so what it "
                "gives to the rest of the model is not known"
            ) from error
    outs = outs if isinstance(outs, list | tuple) else [outs]
    if not all(isinstance(out, Tensor) and out.ndim == 4 for out in outs):
        raise InputError(f"{where} gives more than feature maps (tokens, or nested outputs)")
    maps = tuple(Map(out.shape[1], round(SIDE / out.shape[3])) for out in outs)
    return Measured(maps, getattr(module, "norm_eval", None))


def _unloaded(cfg: Any) -> Any:
    """The config without the weights that building it would look for."""
    cfg = without_pretrained(cfg)
    if isinstance(cfg, Mapping):
        cfg = {key: value for key, value in cfg.items() if key != "pretrained"}
        if str(cfg.get("type", "")).startswith("TIMM"):
            cfg["pretrained"] = False
    return cfg


def _run(
    cfg: Any, scope: str, inputs: Sequence[Map] | None, device: str
) -> tuple[nn.Module, Tensor | Sequence[Tensor]]:
    with torch.device(device), torch.no_grad():
        module = build(cfg, scope)
        module.eval()  # by itself: not every backbone's returns the module
        if inputs is None:
            return module, module(torch.zeros(1, 3, SIDE, SIDE))
        sides = [SIDE // m.stride for m in inputs]
        maps = tuple(torch.zeros(1, m.channels, s, s) for m, s in zip(inputs, sides, strict=True))
        return module, module(maps)
