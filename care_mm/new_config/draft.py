"""The arguments of the command, and the config before it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from care_mm.new_config.decisions import Machine, Schedule, Weights


@dataclass(frozen=True)
class Request:
    """The arguments of the command.

    Attributes:
        data: Folder of the user.
        out: The config file to write.
        arch: ``s0``, ``s1`` or ``s2``.
        model: Name of the model; ``None`` to choose.
        machine: The machine that trains.
        weights: The weights to start from.
    """

    data: Path
    out: Path
    arch: str
    model: str | None
    machine: Machine
    weights: Weights


@dataclass(frozen=True)
class Draft:
    """A config before it is formatted and tried.

    Attributes:
        text: The Python text.
        plan: Batch, length and rate of training.
    """

    text: str
    plan: Schedule
