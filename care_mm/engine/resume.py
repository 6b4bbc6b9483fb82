"""Choose the checkpoint to resume from: the newest intact one; log why others were skipped."""

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
    """Return the folder of a run's checkpoints, which the checkpoint hook's ``out_dir`` can set."""
    out_dir = ((config.get("default_hooks") or {}).get("checkpoint") or {}).get("out_dir")
    work_dir = Path(config.work_dir)
    return Path(out_dir) / work_dir.name if out_dir else work_dir


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints of a run, newest first, without ``best_*``, which cannot resume."""
    files = [file for file in folder.glob("*.pth") if not file.name.startswith(("best_", "."))]
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)


def existing_run(config: Config) -> str | None:
    """Return the name of the newest checkpoint, intact or not; ``None`` in a fresh work dir."""
    files = saved(checkpoint_folder(config))
    last = Path(config.work_dir, LAST)
    return files[0].name if files else LAST if last.is_file() else None


def read_state(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that training can resume from.

    Raises:
        InputError: The checkpoint is missing, damaged, not finite or lacks what training needs.
    """
    content = read_checkpoint(path)
    meta = content.get("meta")
    lacks = [key for key in ("state_dict", "optimizer", "message_hub") if key not in content]
    if not isinstance(meta, Mapping) or not all(
        type(meta.get(k)) is int for k in ("epoch", "iter")
    ):
        lacks.append("meta")
    if lacks:
        raise InputError(f"checkpoint {path}: has no {lacks[0]}, training cannot resume from it")
    bad = not_finite(state_dict_of(content, path))
    if bad:
        raise InputError(f"checkpoint {path}: {bad[0]} is not finite, training cannot resume")
    return content


def find_checkpoint(path: str | Path) -> str:
    """Return a checkpoint or exported file; for a work dir, its newest checkpoint.

    Raises:
        InputError: There is no such file, or the folder has no checkpoint.
    """
    path = Path(path)
    if path.is_dir() and path.suffix != ".mlpackage":
        files = saved(path)
        if not files:
            raise InputError(f"checkpoint {path}: is a folder without a checkpoint (*.pth)")
        print_log(f"checkpoint {path}: using its newest, {files[0].name}")
        return str(files[0])
    if not path.exists():
        raise InputError(f"checkpoint {path}: no such file")
    return str(path)


def find_resumable(config: Config) -> tuple[Path, dict[str, Any]] | None:
    """Find the newest intact checkpoint of the run in the work dir, and log why others are not.

    Returns:
        The path and content of the checkpoint; ``None`` if there is no checkpoint at all.

    Raises:
        InputError: There are checkpoints, but none is intact.
    """
    folder, reasons = checkpoint_folder(config), []
    for path in saved(folder):
        try:
            content = read_state(path)
        except InputError as error:
            print_log(f"--resume: skipped {error}")
            reasons.append(str(error))
            continue
        print_log(f"--resume: resuming from {path}, iteration {content['meta']['iter']}")
        return path, content
    if reasons:
        raise InputError(
            f"--resume: none of {len(reasons)} checkpoints in {folder} is usable ({reasons[0]}): "
            "start again in another --work-dir"
        )
    return None
