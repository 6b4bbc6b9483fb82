"""Shared parts of the commands in ``tools/``: exit status, arguments, text tables."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from mmengine.config import DictAction

from care_mm import noise
from care_mm.checkpoint.reading import trusting
from care_mm.errors import explain, one_line

Main = Callable[[Sequence[str] | None], None]


def command(main: Main) -> Main:
    """Decorate ``main(argv)``: exit with status 0 on success, with 2 and one line for bad input.

    :data:`care_mm.errors.EXPLANATIONS` defines bad input. Any other error is a bug or an accident
    and exits with a traceback and status 1. ``CARE_MM_TRACEBACK=1`` shows every traceback.
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> None:
        noise.hide()
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


class OptionAction(DictAction):
    """mmengine's ``DictAction``, which keeps the spaces in texts: ``work_dir='my runs/x'``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Sequence[str],
        option_string: str | None = None,
    ) -> None:
        """Add ``KEY=VALUE`` texts to the dict of options."""
        options = dict(getattr(namespace, self.dest) or {})
        for item in values:
            key, separator, text = item.partition("=")
            if not separator or not key:
                parser.error(f"--cfg-options {item}: is not of the form KEY=VALUE")
            options[key] = self.parse(text)
        setattr(namespace, self.dest, options)

    @classmethod
    def parse(cls, text: str) -> Any:
        """Return a number, a truth value, ``None``, a text, or a list or tuple of them."""
        text = text.strip()
        if text[:1] in ("'", '"') and text.find(text[0], 1) == len(text) - 1:
            return cls._parse_int_float_bool(text[1:-1])
        pair = text[:1] + text[-1:]
        items = _split(text[1:-1] if pair in ("[]", "()") else text)
        if pair == "()":
            return tuple(map(cls.parse, items))
        if pair == "[]" or len(items) > 1:
            return [cls.parse(item) for item in items]
        return cls._parse_int_float_bool(text)


def _split(text: str) -> list[str]:
    """Split a text at the commas outside brackets; an empty last item does not count."""
    items, depth = [""], 0
    for character in text:
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return items if items[-1].strip() else items[:-1]


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser whose ``--help`` starts with the docstring of the command, unwrapped."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config file and ``--cfg-options``."""
    parser.add_argument("config", help="config file")
    add_config_options(parser)


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=OptionAction,
        metavar="K=V",
        help="override config values",
    )


def add_checkpoint_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the checkpoint argument, and how strictly it must match."""
    parser.add_argument("checkpoint", help="checkpoint of the config's model")
    parser.add_argument(
        "--allow-partial", action="store_true", help="load what fits, and list the rest"
    )
    add_trust_argument(parser)


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--trust-checkpoint``; see :func:`trust_of`."""
    parser.add_argument(
        "--trust-checkpoint",
        action="store_true",
        help="load checkpoints that the safe reader rejects; this can execute code in the file, so "
        "use it only for sources you trust",
    )


def trust_of(args: argparse.Namespace) -> AbstractContextManager:
    """Return the context in which a command with ``--trust-checkpoint`` reads checkpoints."""
    return trusting() if args.trust_checkpoint else nullcontext()


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--work-dir`` and ``--launcher``; :mod:`care_mm.engine.options` reads them."""
    parser.add_argument("--work-dir", help="folder of the run; default: work_dirs/<config>")
    parser.add_argument("--launcher", choices=("none", "pytorch", "slurm"), default="none")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``, validated while parsing; ``None`` if omitted."""
    parser.add_argument(
        "--device",
        type=_device,
        help="cpu, cuda, cuda:1, ...; default: the GPU if there is one",
    )


def count(text: str) -> int:
    """Return a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: is not a positive integer")
    return int(text)


def _device(name: str) -> str:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter in a torch without CUDA
        reason = one_line(error).split(": ")[0]
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
