"""Translate the keys of the authors' checkpoints to ours, by a table visible in each file."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from care_mm.errors import InputError


class KeyTable:
    """The authors' names of modules and tensors, with ours.

    An entry also renames everything below its name, and the longest entry that fits is used. ``{}``
    stands for a number, which is kept. Keys of the backbone get the prefix ``backbone.``, as in our
    classifiers; names that start with ``head.`` keep theirs.

    Args:
        system: Name of the model, for messages.
        names: The authors' names -> ours; ``None`` drops a tensor that our model computes.
    """

    def __init__(self, system: str, names: Mapping[str, str | None]) -> None:
        self.system = system
        longest_first = sorted(names, key=len, reverse=True)
        self._rules = [
            (re.compile(re.escape(name).replace(r"\{\}", r"(\d+)") + r"(\.\S+)?"), names[name])
            for name in longest_first
        ]

    def _rename(self, key: str) -> tuple[bool, str | None]:
        """Return whether the table has the key, and our name for it."""
        for pattern, ours in self._rules:
            match = pattern.fullmatch(key)
            if match:
                if ours is None:
                    return True, None
                *numbers, rest = match.groups()
                new = ours.format(*numbers) + (rest or "")
                return True, new if new.startswith("head.") else f"backbone.{new}"
        return False, None

    def is_official(self, state_dict: Mapping[str, Tensor]) -> bool:
        """Whether most of the keys are the authors'."""
        return 2 * sum(self._rename(key)[0] for key in state_dict) > len(state_dict)

    def convert(self, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the authors' keys to those of our classifier (``backbone.*``, ``head.*``).

        Raises:
            InputError: The table does not have a key.
        """
        renamed = {}
        for key, value in state_dict.items():
            known, new = self._rename(key)
            if not known:
                raise InputError(f"key {key!r} is not one of the authors' {self.system} model")
            if new is not None:
                renamed[new] = value
        return renamed
