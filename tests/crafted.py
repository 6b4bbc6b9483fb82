"""Small checkpoints: good ones, damaged ones, and ones that run something when read carelessly."""

from __future__ import annotations

import argparse
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
    """A handful of tensors, the same every time."""
    generator = torch.Generator().manual_seed(0)
    return {
        "conv.weight": torch.randn(8, 4, 3, 3, generator=generator),
        "conv.bias": torch.randn(8, generator=generator),
        "norm.num_batches_tracked": torch.tensor(7),
    }


def equal(first: State, second: State) -> bool:
    """The same names, types and numbers, to the last bit."""
    return first.keys() == second.keys() and all(
        first[k].dtype == second[k].dtype and torch.equal(first[k], second[k]) for k in first
    )


class Call:
    """Pickles to a call, which a careless loader makes."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __call__(self) -> None:  # pickle wants a function in first place to be callable
        ...

    def __reduce__(self) -> tuple:
        return self.call


def touch(marker: Path) -> Call:
    """Reading it makes the file ``marker``."""
    return Call(os.system, f"touch '{marker}'")


def through_history_buffer(marker: Path) -> Call:
    """From the class that mmengine's own allow-list admits to ``eval``, by getattr."""
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
# Where in a checkpoint of training a payload hides beside good weights.
PLACES: dict[str, Callable[[dict, Path], object]] = {
    "alone": lambda state, marker: touch(marker),
    "beside the weights": lambda state, marker: {"state_dict": state, "args": touch(marker)},
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
    """Write a checkpoint with a payload, and see that the payload is alive."""
    torch.save(content, path)
    torch.load(path, weights_only=False)
    assert marker.exists()
    marker.unlink()


def damaged(whole: bytes) -> dict[str, bytes]:
    """What failed downloads and full disks leave of a file."""
    return {
        "empty": b"",
        "page": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        "half": whole[: len(whole) // 2],
        "cut short": whole[:-30],
        "zeros": bytes(4096),
    }
