"""Draw the embedded data set on first use: once, and safely from several processes.

The data set is drawn, not downloaded, so that every task runs from a fresh clone. In a config,
``type='Shapes', of='CocoDataset'`` in place of ``type='CocoDataset'`` draws the data on first use.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from mmengine.registry import DATASETS

from care_mm.datasets.shapes.layouts import MARKER, Settings, write_all
from care_mm.errors import InputError

_TAILS = (("coco",), ("ade", "ADEChallengeData2016"), ("imagenet",))


def _say(message: str, end: str = "\n") -> None:
    """Print to stderr, since stdout belongs to the command that needs the data."""
    print(message, end=end, file=sys.stderr, flush=True)


def _is_drawn(root: Path, settings: Settings) -> bool:
    """Whether ``root`` holds this drawing; raise InputError if it holds something else."""
    if not root.exists():
        return False
    names = os.listdir(root) if root.is_dir() else [root.name]
    if not names:
        return False
    if MARKER not in names:
        raise InputError(f"{root} exists and was not drawn by care_mm: choose another folder")
    try:
        actual = dict(json.loads((root / MARKER).read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{root / MARKER} is damaged: delete {root}, then try again") from error
    expected = settings.marker()
    differences = ", ".join(
        f"{key} {actual.get(key)} (requested: {expected.get(key)})"
        for key in {**expected, **actual}
        if actual.get(key) != expected.get(key)
    )
    if differences:
        raise InputError(f"{root} was drawn with {differences}: delete it or choose another folder")
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock ``path`` against other processes; the file stays, since removing it would be a race."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_shapes(
    root: str | os.PathLike,
    num_train: int = Settings.num_train,
    num_val: int = Settings.num_val,
    size: int = Settings.size,
    seed: int = Settings.seed,
) -> Path:
    """Draw the data set into ``root`` unless ``root`` already holds it.

    Several processes may call this at once. The files are drawn into a sibling folder that is
    renamed at the end, so that ``root`` is complete or absent.

    Args:
        root: Folder to draw into. Its parents are created.
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Longer side of the images in pixels.
        seed: Seed of the random numbers.

    Returns:
        The absolute path of ``root``.

    Raises:
        InputError: The settings are out of range, the folder holds other files or was drawn with
            other settings, or it cannot be written.
    """
    settings, root = Settings(num_train, num_val, size, seed), Path(root).expanduser().resolve()
    try:
        if _is_drawn(root, settings):
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root.parent / f".{root.name}.lock"):
            if _is_drawn(root, settings):  # by another process while this one waited
                return root
            _draw(root, settings)
    except OSError as error:
        raise InputError(f"cannot draw the embedded data set into {root}: {error}") from error
    return root


def _draw(root: Path, settings: Settings) -> None:
    """Draw next to ``root``, then rename; the caller holds the lock."""
    partial = root.parent / f".{root.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    total, start = settings.num_train + settings.num_val, time.perf_counter()
    _say(f"Drawing {total} scenes of the embedded data set into {root}")
    try:
        partial.mkdir()
        for done, _ in enumerate(write_all(partial, settings), 1):
            if sys.stderr.isatty():
                _say(f"\rdrawn {done} of {total} scenes", end="\n" if done == total else "")
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _say(f"Drew {total} scenes in {time.perf_counter() - start:.0f} s")


@DATASETS.register_module(name="Shapes")
def build_shapes(of: str, draw: dict | None = None, **kwargs: Any) -> Any:
    """Draw the files of a data set if they are missing, then build the data set.

    The function is registered as ``Shapes`` in the root registry, so that every scope finds it. It
    passes on all arguments except ``of`` and ``draw``, so that ``pipeline``, ``ann_file`` and so on
    stay where tools look for them.

    Args:
        of: Type of the data set, such as ``CocoDataset``, in the current scope.
        draw: Settings for :func:`ensure_shapes` that differ from its defaults.
        **kwargs: Arguments of the data set. ``data_root`` must end in ``coco``,
            ``ade/ADEChallengeData2016`` or ``imagenet``; the files are drawn above that.

    Raises:
        InputError: As for :func:`ensure_shapes`; also for an unknown key of ``draw``, or another
            ``data_root``.
    """
    draw = draw or {}
    known = [field.name for field in fields(Settings)]
    if unknown := sorted(set(draw) - set(known)):
        raise InputError(
            f"Shapes: draw has no {', '.join(unknown)}; its keys are {', '.join(known)}"
        )
    parts = Path(str(kwargs.get("data_root") or "")).parts
    for tail in _TAILS:
        if parts[-len(tail) :] == tail:
            ensure_shapes(Path(*parts[: -len(tail)]), **draw)
            return DATASETS.build({"type": of, **kwargs})
    tails = ", ".join("/".join(tail) for tail in _TAILS)
    raise InputError(
        f"Shapes: data_root must end in one of {tails}, not {kwargs.get('data_root')!r}"
    )
