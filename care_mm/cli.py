"""What the commands in ``tools/`` share: arguments, exit status, and errors in one line."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.config import DictAction

from care_mm.checkpoint.reading import trusting
from care_mm.errors import explain

Main = Callable[[Sequence[str] | None], None]


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
            line = explain(error)
            if line is None or os.environ.get("CARE_MM_TRACEBACK") == "1":
                raise
            _say(line)
            sys.exit(2)

    return run


def _say(message: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"{os.path.basename(sys.argv[0])}: error: {message}", file=sys.stderr)


# Arguments


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser whose ``--help`` begins with the command's docstring, line by line as it is."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """A config file, and options that change it."""
    parser.add_argument("config", help="config file")
    add_config_options(parser)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """``--cfg-options`` alone."""
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="K=V", help="override the config"
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """A checkpoint for the config's model, and how much is asked of it."""
    parser.add_argument("checkpoint", help="what training wrote")
    parser.add_argument(
        "--allow-partial", action="store_true", help="load what fits, and list what stays random"
    )
    add_trust_argument(parser)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """``--trust-checkpoint``; see :func:`trust_of`."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="read checkpoints that are refused for what they hold; that can run any program in "
        "them: for files of people whom you would let use this account",
    )


def trust_of(args: argparse.Namespace) -> AbstractContextManager:
    """The context in which a command with ``--trust-checkpoint`` reads checkpoints."""
    return trusting() if args.trust_checkpoint else nullcontext()


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Where a run writes and in how many processes; for ``engine.config.from_arguments``."""
    parser.add_argument("--work-dir", help="logs and checkpoints; default: work_dirs/<config>")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """``--device``, tried while the arguments are read; ``None`` where it is not given."""
    parser.add_argument(
        "--device",
        type=_device,
        help="cpu, cuda, cuda:1, ...; default: the GPU if there is one",
    )


def _device(name: str) -> str:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter in a torch without CUDA
        reason = " ".join(str(error).split()).split(": ")[0]
        raise argparse.ArgumentTypeError(f"{name}: {reason}") from error
    return name


# Results


def text_table(rows: Sequence[Sequence[str]], markdown: bool = False) -> str:
    """Format rows, heading first, as aligned text or a Markdown table; leave out empty columns."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    if markdown:
        lines = [list(row) for row in zip(*columns, strict=True)]
        lines.insert(1, ["---"] * len(columns))
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(map(len, column)) for column in columns]
    lines = []
    for name, *figures in zip(*columns, strict=True):
        cells = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(lines)
