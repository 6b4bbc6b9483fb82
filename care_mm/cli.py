"""What the commands in ``tools/`` share: exit status, and errors in one line."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from care_mm.errors import InputError

__all__ = ["InputError", "command"]

Main = Callable[[Sequence[str] | None], None]


def _built_from_config(error: BaseException) -> bool:
    """Whether the error came out of building something that a config describes."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_code.co_name == "build_from_cfg" for frame, _ in frames)


def command(main: Main) -> Main:
    """Decorate ``main(argv)``: status 0 on success, 2 and one line for bad input.

    Errors raised while building what the config describes count as bad input. Anything else is a
    bug or an accident: traceback and status 1. ``CARE_MM_TRACEBACK=1`` shows every traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        try:
            main(argv)
        except KeyboardInterrupt:
            _say("interrupted")
            sys.exit(130)
        except Exception as error:
            bad_input = isinstance(error, InputError) or _built_from_config(error)
            if not bad_input or os.environ.get("CARE_MM_TRACEBACK") == "1":
                raise
            _say(" ".join(str(error).split()) or type(error).__name__)
            sys.exit(2)

    return run


def _say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr)
