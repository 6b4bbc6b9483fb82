"""The error for bad user input: one line naming the file, key or value at fault, and the fix."""

from __future__ import annotations

import difflib
import os
import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mmengine.registry import build_from_cfg


class InputError(ValueError):
    """Bad input from outside: a config, a file, an argument. Commands exit with status 2."""


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """Return a message on one line; for an error without one, its type and where it arose.

    Args:
        error: The error, or a text.
        limit: Maximum number of characters.
    """
    text = " ".join(str(error).split())
    if not text and isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)
        place = f" in {frames[-1].filename}, line {frames[-1].lineno}" if frames else ""
        text = f"{type(error).__name__}{place}"
    return text[:limit]


def did_you_mean(
    name: str, known: Iterable[str], label: Callable[[str], str] = repr, cutoff: float = 0.6
) -> str:
    """Return ``"; did you mean 'close'?"`` for a close name, or an empty string.

    Args:
        name: The unknown name.
        known: The names that exist.
        label: Formats the suggestion.
        cutoff: How similar a suggestion has to be, from 0 to 1.
    """
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {label(near[0])}?" if near else ""


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


@dataclass(frozen=True)
class Explanation:
    """An error of a library that bad input causes, and what to tell the user.

    Attributes:
        error: The type of the error.
        pattern: Regular expression for the beginning of the message, taken as one line.
        advice: The line for the user. ``{reason}`` stands for the message, or for the group
            ``reason`` of the pattern.
        raised_in: A function that the error has to come out of, if any.
    """

    error: type[Exception]
    pattern: str
    advice: str = "{reason}"
    raised_in: Callable | None = None

    def explain(self, error: BaseException) -> str | None:
        """Return the line for the user; ``None`` for an error of another kind."""
        reason = one_line(error)
        match = re.match(self.pattern, reason)
        if not isinstance(error, self.error) or match is None:
            return None
        if self.raised_in is not None:
            frames = traceback.walk_tb(error.__traceback__)
            if all(frame.f_code is not self.raised_in.__code__ for frame, _ in frames):
                return None
        return self.advice.format(reason=match.groupdict().get("reason", reason))


# The first entry that explains an error counts.
EXPLANATIONS = (
    # A loader's worker sends its traceback inside the message.
    Explanation(InputError, r"Caught InputError.*InputError: (?P<reason>.*)"),
    Explanation(InputError, ""),
    # Constructors raise anything for a config's wrong argument, so the place tells, not the words.
    Explanation(Exception, "", raised_in=build_from_cfg),
    Explanation(
        ValueError,
        "Expected more than 1 value per channel",
        "a batch norm needs more than one value of each channel ({reason}): use larger images or "
        "batches, or keep the statistics (model.backbone.norm_eval=True)",
    ),
    Explanation(
        RuntimeError,
        "DataLoader worker",
        "{reason}: out of memory? Use fewer workers "
        "(--cfg-options train_dataloader.num_workers=2) or smaller batches",
    ),
)


def explain(error: BaseException) -> str | None:
    """Return the line that tells a user what is wrong; ``None`` for a bug or an accident."""
    lines = (entry.explain(error) for entry in EXPLANATIONS)
    return next((line for line in lines if line is not None), None)


@contextmanager
def explained() -> Iterator[None]:
    """Turn the errors of :data:`EXPLANATIONS` into an :class:`InputError` of one line.

    Raises:
        InputError: In place of an error that bad input caused.
    """
    try:
        yield
    except Exception as error:
        line = explain(error)
        if line is None or (isinstance(error, InputError) and line == str(error)):
            raise
        raise InputError(line) from error
