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
from care_mm.files import atomic_file, write_bytes

SAFETENSORS = ".safetensors"
# Bytes written between two requests to start writing them to disk.
AHEAD = 1 << 23


def serialise(content: Mapping, suffix: str) -> bytes:
    """Return a checkpoint as bytes; in torch's format, equal contents give equal bytes.

    Args:
        content: Anything that ``torch.save`` accepts. For safetensors: ``state_dict`` and a flat
            ``meta``, whose values become strings.
        suffix: ``.safetensors``; any other suffix means torch's format.

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
    # The format rejects tensors that share memory, so write copies.
    state = {
        key: value.detach().clone().contiguous() for key, value in content["state_dict"].items()
    }
    return save(state, {key: str(value) for key, value in meta.items()})


def write_checkpoint(content: Mapping, path: str | Path, overwrite: bool = True) -> str:
    """Write a checkpoint atomically.

    Args:
        content: What to write; see :func:`serialise`.
        path: The file; its suffix selects the format.
        overwrite: Replace a file of that name.

    Returns:
        SHA-256 of the file, as 64 hex digits.

    Raises:
        InputError: As :func:`serialise` and :func:`care_mm.files.atomic_file`.
    """
    data = serialise(content, Path(path).suffix)
    write_bytes(data, path, overwrite)
    return hashlib.sha256(data).hexdigest()


def write_torch(content: Mapping, path: str | Path) -> None:
    """Run ``torch.save`` atomically, without a copy of the file in memory.

    Raises:
        InputError: As :func:`care_mm.files.atomic_file`.
    """
    with atomic_file(path) as file:
        sink = _Sink(file)
        torch.save(content, sink)
        if sink.error is not None:
            raise sink.error


class _Sink:
    """The file object that ``torch.save`` writes to.

    The disk starts writing while torch still serialises, so that the final fsync is short. The
    first error is kept and raised later, because torch goes on to write the end of the archive
    and would raise a follow-up error instead.
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
            # DONTNEED makes Linux start writing these pages back now.
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.started = self.written

    def flush(self) -> None:
        """Do nothing: ``torch.save`` requires the method; the complete file is flushed once."""
