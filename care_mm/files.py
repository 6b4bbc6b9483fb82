"""Files written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from care_mm.errors import InputError

# Ends the name of a file that is being written; one that stays behind is what a kill left.
PARTIAL = ".partial"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def whole_file(path: str | Path, overwrite: bool = True) -> Iterator[BinaryIO]:
    """A file to write to; a kill or a full disk leaves the old one, or none, under its name.

    A temporary file in the same folder; when the context ends fsync, rename, fsync of the folder.
    An error removes the temporary file; a kill leaves it, its name ending in ``.partial``.

    Args:
        path: In a folder that exists.
        overwrite: Replace a file of that name.

    Raises:
        InputError: A full disk, a folder that is missing or read-only, or a file that must not be
            overwritten.
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
    """Write a file whole or not at all; arguments and errors of :func:`whole_file`."""
    with whole_file(path, overwrite) as file:
        file.write(data)


def _publish(temporary: Path, path: Path, overwrite: bool) -> None:
    """Give the finished file its name in one step.

    Raises:
        FileExistsError: The name is taken, and ``overwrite`` is off.
    """
    if overwrite:
        os.replace(temporary, path)
        return
    try:
        os.link(temporary, path)  # unlike a rename it fails where the name is taken
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(path) from None
        os.replace(temporary, path)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a power cut, where the system can: the file itself is safe."""
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
