"""The difference between two configs, in the form that a config with a ``_base_`` has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """What a config with base ``old`` has to say to become ``new``.

    Dicts merge key by key, and what lost a key is replaced whole by ``_delete_=True``; lists are
    always replaced whole. At the top, where nothing can be deleted, ``new`` keeps every key.
    """
    changed = {}
    for key, value in new.items():
        if key in old and _same(old[key], value):
            continue
        if not isinstance(value, Mapping) or key not in old:
            changed[key] = plain(value)
        elif isinstance(old[key], Mapping) and set(old[key]) <= set(value):
            changed[key] = difference(old[key], value)
        else:
            changed[key] = {"_delete_": True, **plain(value)}
    return changed


def plain(value: Any) -> Any:
    """The same in dicts, lists and tuples of Python's own, copied."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(plain(item) for item in value)
    return value


def _same(old: Any, new: Any) -> bool:
    # 1 == True == 1.0, and they print differently.
    return type(plain(old)) is type(plain(new)) and plain(old) == plain(new)
