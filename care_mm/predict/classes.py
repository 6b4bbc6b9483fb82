"""The class names of a model: from its checkpoint, or else from the config."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import DATASETS
from torch import nn

from care_mm.config import find
from care_mm.errors import InputError


def number_of_classes(model: nn.Module) -> int | None:
    """Return the number of classes that a model of any task tells apart; ``None`` if unknown."""
    if type(model).__name__ == "RPN":  # its proposals have no class
        return None
    roi_head = getattr(model, "roi_head", None)
    for owner, name in (
        (model, "panoptic_fusion_head"),
        (roi_head, "bbox_head"),
        (model, "bbox_head"),
        (model, "mask_head"),
        (model, "decode_head"),
        (model, "head"),
    ):
        head = getattr(owner, name, None)
        if isinstance(head, nn.ModuleList) and len(head):
            head = head[-1]  # the last one of a cascade predicts
        number = getattr(head, "num_classes", None)
        if isinstance(number, int):
            return number
    return None


def metainfo_of(
    config: Config, meta: Mapping[str, Any], model: nn.Module, path: str | Path
) -> dict[str, Any]:
    """Return the meta information of the data that a model was trained on.

    The names in the checkpoint count. Those of the config take their place if the checkpoint has
    none, or has another number of names than the model has classes. If there are none at all,
    the classes are named by their number. Differences are logged.

    Args:
        config: The config of the model.
        meta: ``meta`` of the checkpoint or the exported file.
        model: Built from the config.
        path: The file, for messages.

    Returns:
        ``classes``, a tuple of names, and what else the checkpoint or the config has.

    Raises:
        InputError: The number of names is not the number of the model's classes.
    """
    stored = _lower(meta.get("dataset_meta") or {}) or _lower(
        {key: meta[key] for key in ("CLASSES", "PALETTE") if meta.get(key) is not None}
    )
    configured = _of_config(config)
    names, expected = _names(stored), _names(configured)
    number = number_of_classes(model)
    usable = bool(expected) and (number is None or len(expected) == number)
    if names and number is not None and len(names) != number:
        message = f"checkpoint {path}: has {len(names)} class names, the model has {number} classes"
        if not usable:
            raise InputError(
                f"{message}: give the test data of the config metainfo with the {number} names"
            )
        _warn(f"{message}: the names in the config are used")
        names = ()
    if names:
        if usable and names != expected:
            kind = "in another order than" if set(names) == set(expected) else "that differ from"
            _warn(
                f"checkpoint {path}: has class names {kind} those in the config; those in the "
                "checkpoint are used"
            )
        elif usable and configured.get("palette"):
            stored["palette"] = configured["palette"]
        return {**stored, "classes": names}
    if usable:
        return {**configured, "classes": expected}
    _warn(
        f"checkpoint {path}: has no class names, and the config has "
        f"{len(expected) or 'none'}{f' for {number} classes' if expected else ''}: classes are "
        "named by their number"
    )
    return {**configured, "palette": None, "classes": tuple(map(str, range(number or 0)))}


def _warn(message: str) -> None:
    print_log(message, logger="current", level=logging.WARNING)


def _lower(meta: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key).lower(): value for key, value in meta.items()}


def _names(meta: Mapping[str, Any]) -> tuple[str, ...]:
    names = meta.get("classes")
    if isinstance(names, str):
        file = Path(names)
        names = file.read_text().splitlines() if file.is_file() else ()
    return () if names is None else tuple(map(str, names))


def _of_config(config: Config) -> dict[str, Any]:
    """Return the meta information of the first data set of a config that names its classes."""
    for split in ("test", "val", "train"):
        settings = (config.get(f"{split}_dataloader") or {}).get("dataset") or {}
        for meta in _of_datasets(settings):
            if _names(meta):
                return meta
    return {}


def _of_datasets(settings: Any) -> Iterator[dict[str, Any]]:
    """Yield the meta information of a data set and those within it, the outer one first."""
    for node in find(settings, lambda node: "type" in node):
        kind = node["type"]
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        own = getattr(kind, "METAINFO", None)
        given = node.get("metainfo")
        if isinstance(own, Mapping) or isinstance(given, Mapping):
            meta = {**_lower(own or {}), **_lower(given or {})}
            if node.get("classes"):  # an argument of mmpretrain's data sets
                meta["classes"] = node["classes"]
            yield meta
