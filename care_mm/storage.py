"""Files written whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import torch

from care_mm.errors import InputError

SAFETENSORS = ".safetensors"
# Ends the name of a file that is being written; one that stays behind is what a kill left.
PARTIAL = ".partial"
AHEAD = 1 << 23  # bytes written before the disk is set to work


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def serialise(content: Mapping, suffix: str) -> bytes:
    """A checkpoint as the bytes of a file; in torch's format equal contents give equal bytes.

    Args:
        content: Anything that ``torch.save`` takes. For safetensors ``state_dict`` and ``meta``,
            a flat dict, whose values become strings.
        suffix: ``.safetensors``, anything else is torch's format.

    Raises:
        InputError: safetensors cannot hold the content, or is not installed.
    """
    if suffix != SAFETENSORS:
        buffer = io.BytesIO()
        torch.save(content, buffer)
        return buffer.getvalue()
    try:
        from safetensors.torch import save
    except ImportError:
        raise InputError("writing .safetensors needs `pip install safetensors`") from None
    meta = content.get("meta") or {}
    nested = [key for key, value in meta.items() if not isinstance(value, str | int | float)]
    if nested or not set(content) <= {"state_dict", "meta"}:
        other = nested or sorted(set(content) - {"state_dict", "meta"})
        raise InputError(f".safetensors holds weights and flat meta only, not {other[0]!r}")
    # Copies, since the format refuses tensors that share memory.
    state = {
        key: value.detach().clone().contiguous() for key, value in content["state_dict"].items()
    }
    return save(state, {key: str(value) for key, value in meta.items()})


def write_checkpoint(content: Mapping, path: str | Path, overwrite: bool = True) -> str:
    """Write a checkpoint whole or not at all, see :func:`serialise` and :func:`write_bytes`.

    Returns:
        SHA-256 of the file, as 64 hex digits.

    Raises:
        InputError: As those two.
    """
    data = serialise(content, Path(path).suffix)
    write_bytes(data, path, overwrite)
    return hashlib.sha256(data).hexdigest()


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


def write_torch(content: Mapping, path: str | Path) -> None:
    """``torch.save`` into a file, whole or not at all, without a copy of it in memory.

    Raises:
        InputError: As :func:`whole_file`.
    """
    with whole_file(path) as file:
        sink = _Sink(file)
        torch.save(content, sink)
        if sink.error is not None:
            raise sink.error


class _Sink:
    """What ``torch.save`` writes to.

    The disk works while torch serialises, so that the final fsync finds little left to do. An
    error is kept for later: torch writes the end of an archive whatever happens, and would raise
    what that runs into instead.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: BaseException | None = None
        self.started = self.written = 0

    def write(self, data: memoryview) -> int:
        if self.error is None:
            try:
                self.file.write(data)
                self.written += len(data)
                self._start_disk()
            except BaseException as error:
                self.error = error
        return len(data)

    def _start_disk(self) -> None:
        if self.written - self.started >= AHEAD and hasattr(os, "posix_fadvise"):
            # What is not needed any more, Linux begins to write out.
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.started = self.written

    def flush(self) -> None:
        """Which ``torch.save`` asks for; the file is flushed when it is whole."""


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
