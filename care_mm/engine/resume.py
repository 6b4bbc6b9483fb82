"""Which checkpoint a run goes on from: the newest that is whole, with a reason for each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from care_mm.checkpoint.matching import not_finite
from care_mm.checkpoint.reading import read_checkpoint, state_dict_of
from care_mm.engine.hooks.checkpoint import LAST
from care_mm.errors import InputError


def checkpoint_folder(config: Config) -> Path:
    """Where the run's checkpoints lie, which ``default_hooks.checkpoint.out_dir`` may say."""
    out_dir = ((config.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    work_dir = Path(config.work_dir)
    return Path(out_dir) / work_dir.name if out_dir else work_dir


def saved(folder: Path) -> list[Path]:
    """Files of a run's checkpoints, newest first; ``best_*`` have no optimizer and are left out."""
    files = [file for file in folder.glob("*.pth") if not file.name.startswith(("best_", "."))]
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)


def holds_a_run(config: Config) -> str | None:
    """The name of the newest checkpoint, whole or not; ``None`` in a fresh work dir."""
    files = saved(checkpoint_folder(config))
    last = Path(config.work_dir, LAST)
    return files[0].name if files else LAST if last.is_file() else None


def read_state(path: str | Path) -> dict[str, Any]:
    """A checkpoint that training can go on from.

    Raises:
        InputError: Missing, damaged, not finite, or without what training needs to go on.
    """
    content = read_checkpoint(path)
    meta = content.get("meta")
    lacks = [key for key in ("state_dict", "optimizer", "message_hub") if key not in content]
    if not isinstance(meta, Mapping) or not all(
        type(meta.get(k)) is int for k in ("epoch", "iter")
    ):
        lacks.append("meta")
    if lacks:
        raise InputError(f"checkpoint {path}: has no {lacks[0]}, training cannot go on from it")
    bad = not_finite(state_dict_of(content, path))
    if bad:
        raise InputError(
            f"checkpoint {path}: {bad[0]} is not finite, training cannot go on from it"
        )
    return content


def find_resumable(config: Config) -> tuple[Path, dict[str, Any]] | None:
    """The newest whole checkpoint of the run in the work dir; says which it passes over and why.

    Returns:
        Its path and content; ``None`` where there is no checkpoint at all.

    Raises:
        InputError: There are some, and none is of use.
    """
    folder, reasons = checkpoint_folder(config), []
    for path in saved(folder):
        try:
            content = read_state(path)
        except InputError as error:
            print_log(f"--resume: skipped {error}")
            reasons.append(str(error))
            continue
        print_log(f"--resume: going on from {path}, iteration {content['meta']['iter']}")
        return path, content
    if reasons:
        raise InputError(
            f"--resume: none of {len(reasons)} checkpoints in {folder} is of use ({reasons[0]}): "
            "start afresh in another --work-dir"
        )
    return None
