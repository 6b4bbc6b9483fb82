"""Atomic file writes: a file appears complete under its name, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from care_mm.errors import InputError, refuse_existing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Suffix of a file that is being written; a killed process leaves such a file behind.
PARTIAL = ".partial"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def prepare_folder(folder: str | Path, option: str, keep: bool = True) -> None:
    """Create a folder for results and check that it is writable, before anything is computed.

    Args:
        folder: The folder.
        option: The option that named it, for the message.
        keep: Keep a folder that is new; otherwise it is only tried.

    Raises:
        InputError: The folder cannot be created or written to, or the disk is full.
    """
    folder = Path(folder)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(f"{option} {folder}: {existing} is a file, not a folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}{PARTIAL}"
        try:
            probe.write_bytes(bytes(4096))
        finally:
            probe.unlink(missing_ok=True)
            for new in (folder, *folder.absolute().parents) if not keep else ():
                if new.samefile(existing):
                    break
                new.rmdir()
    except OSError as error:
        raise InputError(
            f"{option} {folder}: cannot be written ({error.strerror or error}): is it read-only, "
            "or the disk full?"
        ) from error


@contextmanager
def atomic_file(path: str | Path, overwrite: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that gets its name only when it is complete.

    The data go to a temporary file in the same folder. At the end of the context the file is
    flushed to disk and renamed, and the folder is flushed, so that a crash or a full disk leaves
    the old file or none. An error removes the temporary file; a killed process leaves it, under a
    name that ends in ``.partial``.

    Args:
        path: The file to write, in a folder that exists.
        overwrite: Replace a file of that name.

    Yields:
        The temporary file, open for writing bytes.

    Raises:
        InputError: The disk is full, the folder is missing or read-only, or the file exists and
            must not be overwritten.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            _publish(temporary, path, overwrite)
        finally:
            temporary.unlink(missing_ok=True)
    except FileExistsError:
        raise InputError(f"{path}: exists already, choose another name") from None
    except OSError as error:
        raise InputError(
            f"{path}: could not be written ({error.strerror or error}): is the disk full, or the "
            "folder missing or read-only?"
        ) from error
    _sync_folder(path.parent)


def write_bytes(data: bytes, path: str | Path, overwrite: bool = True) -> None:
    """Write a file atomically; see :func:`atomic_file` for arguments and errors."""
    with atomic_file(path, overwrite) as file:
        file.write(data)


def check_new_figure(path: str | Path, option: str) -> None:
    """Check the name of a figure, and that its folder is writable, before anything is computed.

    Args:
        path: The figure to be written.
        option: The option that named it, for the message.

    Raises:
        InputError: The file exists, matplotlib cannot write its format, or see
            :func:`prepare_folder`.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    path = Path(path)
    refuse_existing(path, option)
    formats = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.lower().lstrip(".") not in formats:
        raise InputError(
            f"{option} {path}: the name must end in the format of the figure, for example .png "
            f"or .svg; known: {', '.join(sorted(formats))}"
        )
    prepare_folder(path.parent, option)


def save_figure(
    figure: Figure, path: str | Path, overwrite: bool = True, dpi: float | str = "figure"
) -> None:
    """Write a figure of matplotlib atomically, in the format of the suffix.

    See :func:`atomic_file` for errors.
    """
    buffer = io.BytesIO()
    figure.savefig(buffer, format=Path(path).suffix.lower().lstrip("."), dpi=dpi)
    write_bytes(buffer.getvalue(), path, overwrite)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name in one step.

    Raises:
        FileExistsError: The name is taken, and ``overwrite`` is off.
    """
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename, it fails if the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, if the system can; the data are on disk already."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
