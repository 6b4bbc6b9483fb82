"""Small checkpoints: intact, damaged, and with code that an unsafe reader runs."""

from __future__ import annotations

import argparse
import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor

State = dict[str, Tensor]


def weights() -> State:
    """Return a few tensors, always the same."""
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
    }


def equal(first: State, second: State) -> bool:
    """Whether names, dtypes and numbers are equal, to the last bit."""
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


class Call:
    """An object that pickles to a call, which an unsafe reader runs."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __call__(self) -> None:  # pickle wants a function in first place to be callable
        ...

    def __reduce__(self) -> tuple:
        return self.call


def touch(marker: Path) -> Call:
    """Return a call that creates the file ``marker``."""
    return Call(os.system, f"touch '{marker}'")


def through_history_buffer(marker: Path) -> Call:
    """Return a call of ``eval``, reached by getattr from a class that mmengine allows."""
    names = Call(getattr, Call(getattr, HistoryBuffer, "update"), "__globals__")
    builtins = Call(Call(getattr, names, "get"), "__builtins__")
    return Call(Call(Call(getattr, builtins, "get"), "eval"), f"open({str(marker)!r}, 'w')")


PAYLOADS: dict[str, Callable[[Path], object]] = {
    "system": touch,
    "eval": lambda marker: Call(eval, f"open({str(marker)!r}, 'w')"),
    "open": lambda marker: Call(open, str(marker), "w"),
    "subprocess": lambda marker: Call(subprocess.call, ["touch", str(marker)]),
    "method": lambda marker: Call(Path.touch, marker),
    "getattr": through_history_buffer,
    "nested": lambda marker: [{"deep": (touch(marker),)}],
    "namespace": lambda marker: argparse.Namespace(lr=touch(marker)),
    "object array": lambda marker: np.array([touch(marker)], dtype=object),
}
# Places of a payload in a checkpoint with good weights.
PLACES: dict[str, Callable[[dict, Path], object]] = {
    "alone": lambda state, marker: touch(marker),
    "next to the weights": lambda state, marker: {"state_dict": state, "args": touch(marker)},
    "among the weights": lambda state, marker: {"state_dict": state | {"x": touch(marker)}},
    "in the optimizer": lambda state, marker: {
        "state_dict": state,
        "optimizer": {"state": {0: {"step": touch(marker)}}, "param_groups": []},
    },
    "in the message hub": lambda state, marker: {
        "state_dict": state,
        "message_hub": {
            "log_scalars": {"loss": through_history_buffer(marker)},
            "runtime_info": {},
            "resumed_keys": {},
        },
    },
}


def save(content: object, path: Path, marker: Path) -> None:
    """Write a checkpoint with a payload, and check that the payload works."""
    torch.save(content, path)
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()


def damaged(intact: bytes) -> dict[str, bytes]:
    """Return the typical remains of a file after a failed download or on a full disk."""
    return {
        "empty": b"",
        "page": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        "half": intact[: len(intact) // 2],
        "cut short": intact[:-30],
        "zeros": bytes(4096),
    }


class Full(OSError):
    """The error of a full disk."""

    def __init__(self, *_: object) -> None:
        super().__init__(errno.ENOSPC, os.strerror(errno.ENOSPC))
