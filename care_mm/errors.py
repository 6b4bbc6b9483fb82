"""The error for bad user input: one line naming the file, key or value at fault, and the fix."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class InputError(ValueError):
    """Bad input from outside: a config, a file, an argument. Commands exit with status 2."""


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """Return a message on one line; the type's name for an error without a message.

    Args:
        error: The error, or a text.
        limit: Maximum number of characters.
    """
    text = " ".join(str(error).split())
    if not text and isinstance(error, BaseException):
        text = type(error).__name__
    return text[:limit]


def did_you_mean(name: str, known: Iterable[str], label: str = "{!r}") -> str:
    """Return ``"; did you mean 'close'?"`` for a close name, or an empty string.

    Args:
        name: The unknown name.
        known: The names that exist.
        label: Format of the suggestion.
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {label.format(near[0])}?" if near else ""


def refuse_existing(path: str | Path, option: str = "") -> None:
    """Refuse to write over a file or folder.

    Args:
        path: The file or folder that a command would write.
        option: The option that named it, for the message.

    Raises:
        InputError: The path exists.
    """
    if os.path.lexists(path):
        prefix = f"{option} " if option else ""
        raise InputError(f"{prefix}{path}: exists already, choose another name")
