"""A swap as a config file that a person reads and mmengine runs."""

from __future__ import annotations

import keyword
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from care_mm.swap.backbone import Swap
from care_mm.swap.source import Source, base_reference

WIDTH = 100
# What our own configs take: images a step, and the optimizer.
RECIPES = {
    "mmdet": ("16", "type='AdamW', lr=2e-4, weight_decay=0.05"),
    "mmseg": ("32", "type='AdamW', lr=2e-4, weight_decay=1e-4"),
}


def swap_text(swap: Swap, source: Source, out: str | Path) -> str:
    """The difference to ``source`` as a config file that is to stand at ``out``."""
    arch = f"CARE-{swap.arch.upper()}" if isinstance(swap.arch, str) else "CARE"
    base = base_reference(source, Path(out))
    lines = [*_comment(f"{arch} in place of {swap.old_backbone}; by tools/swap_backbone.py.")]
    if "::" in source.name and base != source.name:
        lines += _comment(f"{source.name}, by its path: mmengine does not find it by that name.")
    lines += [f"_base_ = {base!r}", ""]
    changes = dict(swap.changes)
    for name in ("custom_imports", "model", *changes):
        if name in changes:
            lines += _assignment(name, changes.pop(name), swap.remarks)
    return "\n".join([*lines, *_optimizer_choice(swap)]) + "\n"


def _assignment(name: str, value: Any, remarks: Mapping[tuple, str]) -> list[str]:
    remark = _comment(remarks.get((name,), ""))
    return [*remark, *_entry(f"{name} = ", value, "", (name,), remarks)]


def _optimizer_choice(swap: Swap) -> list[str]:
    """The recipe of our own configs, to uncomment."""
    optimizer = (swap.config.get("optim_wrapper") or {}).get("optimizer") or {}
    if optimizer.get("type") in (None, "AdamW"):
        return []
    batch, recipe = RECIPES[swap.config.default_scope]
    given = f"{optimizer['type']}, lr={optimizer.get('lr')}"
    return [
        "",
        *_comment(
            f"The optimizer ({given}) and the schedule are the base's. Our own configs with CARE "
            f"take, for {batch} images a step:"
        ),
        f"# optim_wrapper = dict(optimizer=dict(_delete_=True, {recipe}))",
    ]


def _comment(text: str, indent: str = "") -> list[str]:
    lines = textwrap.wrap(
        text, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False
    )
    return [f"{indent}# {line}" for line in lines]


def _entry(
    lead: str, value: Any, tail: str, path: tuple, remarks: Mapping[tuple, str], indent: str = ""
) -> list[str]:
    """``lead`` and ``value`` on one line if that has room and no remarks, or one item a line."""
    line = f"{indent}{lead}{_inline(value)}{tail}"
    remarked = any(key[: len(path)] == path and key != path for key in remarks)
    empty = not isinstance(value, Mapping | list | tuple) or not value
    if empty or (len(line) <= WIDTH and not remarked and _depth(value) < 3):
        return [line]
    opening, closing, items = _parts(value)
    lines = [f"{indent}{lead}{opening}"]
    for i, (key, start, item) in enumerate(items):
        end = "," if i + 1 < len(items) else closing + tail
        inner = indent + "    "
        lines += _comment(remarks.get((*path, key), ""), inner)
        lines += _entry(start, item, end, (*path, key), remarks, inner)
    return lines


def _depth(value: Any) -> int:
    """Levels of dicts: a dict of dicts is 2, and reads well on one line only when short."""
    if isinstance(value, Mapping):
        return 1 + max(map(_depth, value.values()), default=0)
    if isinstance(value, list | tuple):
        return max(map(_depth, value), default=0)
    return 0


def _parts(value: Any) -> tuple[str, str, list[tuple[Any, str, Any]]]:
    """Opening, closing, and items as ``(key, text before the item, item)``."""
    if isinstance(value, Mapping):
        if all(str(key).isidentifier() and not keyword.iskeyword(str(key)) for key in value):
            return "dict(", ")", [(key, f"{key}=", item) for key, item in value.items()]
        return "{", "}", [(key, f"{key!r}: ", item) for key, item in value.items()]
    opening, closing = "[]" if isinstance(value, list) else "()"
    if isinstance(value, tuple) and len(value) == 1:
        closing = ",)"
    return opening, closing, [(i, "", item) for i, item in enumerate(value)]


def _inline(value: Any) -> str:
    if not isinstance(value, Mapping | list | tuple):
        return repr(value)
    opening, closing, items = _parts(value)
    return opening + ", ".join(start + _inline(item) for _, start, item in items) + closing
