"""Settings of small drawings, and their files."""

from __future__ import annotations

from pathlib import Path

SMALL = {"num_train": 24, "num_val": 20, "size": 96, "seed": 3}  # enough for every 16th scene
TINY = {"num_train": 2, "num_val": 1, "size": 64, "seed": 0}
SPLITS = {"train": "training", "val": "validation"}


def files(root: Path) -> list[str]:
    """Return the relative paths of all files."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
