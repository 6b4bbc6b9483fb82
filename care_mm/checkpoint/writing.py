"""Write checkpoints atomically, in torch's format or as safetensors."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch

from care_mm.errors import InputError
from care_mm.files import whole_file, write_bytes

SAFETENSORS = ".safetensors"
AHEAD = 1 << 23  # bytes written before the disk is set to work


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
