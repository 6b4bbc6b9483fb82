"""The files and folders that a data set's config names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def is_url(path: str) -> bool:
    """Whether a path is of another kind than this machine's files."""
    return "://" in path


def paths_of(dataset: Mapping) -> Iterator[Path]:
    """The files and folders that one dataset dict names; URLs are passed over."""
    if is_url(str(dataset.get("data_root") or "")):
        return
    root = Path(dataset.get("data_root") or "")
    prefix = dataset.get("data_prefix") or {}
    prefixes = prefix.values() if isinstance(prefix, Mapping) else [prefix]
    names: list[Any] = [dataset.get("ann_file"), *prefixes]
    named = [name for name in names if isinstance(name, str) and name]
    if not named and str(dataset.get("type")).split(".")[-1] == "ImageNet" and "split" in dataset:
        named = [dataset["split"]]  # mmpretrain's: the folder is called as the split
    if not named and dataset.get("data_root"):
        named = [""]
    for name in named:
        if not is_url(name):
            yield (root / name).expanduser()
