"""The transforms of a data set, and those that leave objects without area behind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from care_mm.config import type_name

FILTER = "FilterAnnotations"
# Transforms of mmdet that cut images, and so objects.
CROPS = ("RandomCrop", "MinIoURandomCrop", "RandomCenterCropPad", "RandomAffine")
# Below this scale, objects of some pixels shrink to nothing.
LARGE_JITTER = 0.5
_PARTS = ("dataset", "datasets", "pipeline", "transforms")


def transforms_of(node: Any) -> Iterator[Any]:
    """Yield the transforms of a data set in the order in which they run.

    Args:
        node: A data set, a wrapper, a pipeline, or the part of a config that describes one.

    Yields:
        The transforms, as objects or dicts; those inside ``RandomApply`` and its like, too.
    """
    if isinstance(node, list | tuple):
        for item in node:
            yield from transforms_of(item)
        return
    parts = [part for name in _PARTS if (part := _part(node, name)) is not None]
    for part in parts:
        yield from transforms_of(part)
    if not parts and (not isinstance(node, Mapping) or "type" in node):
        yield node


def unfiltered_cut(node: Any) -> str | None:
    """Return the last transform that can empty a box and has no filter behind it.

    Args:
        node: As for :func:`transforms_of`.

    Returns:
        The name of a crop, or of a resize that makes images smaller than half their size.
    """
    last = None
    for transform in transforms_of(node):
        name = type_name(transform) or type(transform).__name__
        if name == FILTER:
            last = None
        elif name in CROPS or _jitters(name, transform):
            last = name
    return last


def _part(node: Any, name: str) -> Any:
    """Return a key of a dict, or an attribute of an object that its class does not define."""
    if isinstance(node, Mapping):
        return node.get(name)
    return getattr(node, "__dict__", {}).get(name)


def _jitters(name: str, transform: Any) -> bool:
    ratios = _part(transform, "ratio_range") if name == "RandomResize" else None
    return bool(ratios) and min(ratios) < LARGE_JITTER
