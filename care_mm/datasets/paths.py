"""The files and folders that the config of a data set names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def is_url(path: str) -> bool:
    """Whether the path is a URL."""
    return "://" in path


def paths_of(dataset: Mapping) -> Iterator[Path]:
    """Yield the files and folders that the dict of a data set names, without URLs."""
    if is_url(str(dataset.get("data_root") or "")):
        return
    root = Path(dataset.get("data_root") or "")
    prefix = dataset.get("data_prefix") or {}
    prefixes = prefix.values() if isinstance(prefix, Mapping) else [prefix]
    names: list[Any] = [dataset.get("ann_file"), *prefixes]
    named = [name for name in names if isinstance(name, str) and name]
    if not named and str(dataset.get("type")).split(".")[-1] == "ImageNet" and "split" in dataset:
        named = [dataset["split"]]  # mmpretrain names the folder after the split
    if not named and dataset.get("data_root"):
        named = [""]
    for name in named:
        if not is_url(name):
            yield (root / name).expanduser()
