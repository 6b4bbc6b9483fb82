"""Read a config, and find or remove parts of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from care_mm.config_keys import refuse_misspelt_names, refuse_unread_options
from care_mm.errors import InputError, did_you_mean, one_line
from care_mm.shipped import packaged_config


def load_config(path: str | Path, options: Mapping[str, Any] | None = None) -> Config:
    """Read a config file and merge ``--cfg-options`` into it.

    Args:
        path: The config file, or ``package::folder/name.py`` for a config of care_mm, mmdet, mmseg
            or mmpretrain.
        options: Dotted key -> value.

    Raises:
        InputError: There is no such file, the file does not parse, or nothing reads a name in it or
            the key of an option.
    """
    path = packaged_config(str(path)) if "::" in str(path) else Path(path)
    if not path.is_file():
        siblings = [file.name for file in path.parent.glob("*.py")]
        hint = did_you_mean(path.name, siblings, lambda name: str(path.parent / name))
        raise InputError(f"config {path}: no such file{hint}")
    try:
        config = Config.fromfile(path)
    except InputError as error:  # a base of ours that does not exist
        raise InputError(f"config {path}: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(str(error))}"
        raise InputError(f"config {path}: {reason}") from error
    refuse_misspelt_names(config.keys(), path)
    if options:
        refuse_unread_options(config.to_dict(), options, path)
        try:
            config.merge_from_dict(dict(options))
        except (KeyError, TypeError, AssertionError) as error:
            raise InputError(f"--cfg-options: {error}") from error
    return config


def find(node: Any, matches: Callable[[Mapping], bool]) -> Iterator[ConfigDict]:
    """Yield the dicts in ``node`` that match, depth first, ``node`` itself included."""
    if isinstance(node, Mapping):
        if matches(node):
            yield node
        for value in node.values():
            yield from find(value, matches)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from find(value, matches)


def type_name(node: Any) -> str:
    """Return the class name in a dict's ``type``, without scope or module; empty if it has none.

    A type may be a name, a name with a scope (``mmdet.CocoDataset``), or, in mmengine's pure
    Python style, a class or its import path.
    """
    kind = node.get("type") if isinstance(node, Mapping) else None
    name = kind if isinstance(kind, str) else getattr(kind, "__name__", "")
    return name.rpartition(".")[2]


def is_pretrained(node: Mapping) -> bool:
    """Whether the dict is an ``init_cfg`` that loads a file."""
    return type_name(node) in ("Pretrained", "PretrainedInit") and "checkpoint" in node


def without_pretrained(node: Any) -> Any:
    """Return a copy of a config part without any ``init_cfg`` that loads a file."""
    if isinstance(node, Mapping):
        kept = {}
        for key, value in node.items():
            if key == "init_cfg" and isinstance(value, Mapping) and is_pretrained(value):
                continue
            kept[key] = without_pretrained(value)
        return type(node)(kept)
    if isinstance(node, list | tuple):
        items = [v for v in node if not (isinstance(v, Mapping) and is_pretrained(v))]
        return type(node)(without_pretrained(v) for v in items)
    return node
