"""Compare the weights of a file with those of a model, and load them strictly."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from care_mm.checkpoint.reading import read_checkpoint, state_dict_of
from care_mm.errors import InputError


@dataclass(frozen=True)
class Match:
    """The differences between the tensors of a file and those of a model, as keys.

    Attributes:
        total: Number of tensors in the model.
        missing: Keys of the model that are not in the file.
        unexpected: Keys of the file that are not in the model.
        misshapen: Shared keys with another shape, or with a dtype that cannot be converted.
        not_finite: Keys of the file with NaN or infinity.
    """

    total: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    not_finite: tuple[str, ...] = ()

    @classmethod
    def compare(
        cls, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], finite: bool = False
    ) -> Match:
        """Compare a file with a model.

        Args:
            expected: The state dict of the model.
            state: The state dict of the file.
            finite: Also check the file for NaN and infinity.
        """
        shared = [key for key in expected if key in state]
        return cls(
            total=len(expected),
            missing=tuple(key for key in expected if key not in state),
            unexpected=tuple(key for key in state if key not in expected),
            misshapen=tuple(key for key in shared if not is_loadable(state[key], expected[key])),
            not_finite=not_finite(state) if finite else (),
        )

    def refuse(self, message: str) -> None:
        """Raise InputError with ``message`` and the first kind of mismatch, if there is any."""
        kinds = {
            "missing": self.missing,
            "left over": self.unexpected,
            "of another shape or kind": self.misshapen,
            "not finite": self.not_finite,
        }
        for kind, keys in kinds.items():
            if keys:
                raise InputError(
                    f"{message}: {len(keys)} tensors {kind} (the model has {self.total}), "
                    f"the first is {keys[0]!r}"
                )

    def _hint(self) -> str:
        """Name the prefix that all keys of the file share, if the rest are keys of the model."""
        for key in self.unexpected:
            for name in self.missing:
                if key.endswith(f".{name}"):
                    return f": its keys start with {key.removesuffix(name)!r}"
        return ""

    def report_partial(self, path: str | Path) -> None:
        """Log which tensors of the model stay random and which tensors of the file go unused.

        Raises:
            InputError: No tensor matches.
        """
        random = (*self.missing, *self.misshapen)
        loaded = self.total - len(random)
        if not loaded:
            raise InputError(
                f"checkpoint {path} does not fit the config's model: not one tensor matches"
                f"{self._hint()}"
            )
        lines = [f"--allow-partial: {loaded} of {self.total} tensors loaded from {path}"]
        if random:
            lines.append(f"  {len(random)} stay random: {', '.join(random)}")
        if self.unexpected:
            lines.append(f"  {len(self.unexpected)} unused: {', '.join(self.unexpected)}")
        print_log("\n".join(lines), logger="current", level=logging.WARNING)


def is_loadable(source: Tensor, target: Tensor) -> bool:
    """Whether ``source`` can be copied into ``target``: equal shapes and convertible dtypes.

    Floating point of any precision converts to any dtype: also to the integer counters of norms,
    which become floating point when a whole model is cast.
    """
    convertible = source.is_floating_point() or not (
        target.is_floating_point() or source.is_complex()
    )
    return source.shape == target.shape and convertible


def not_finite(state: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the keys of tensors with NaN or infinity."""
    return tuple(key for key, value in state.items() if not torch.isfinite(value).all())


def load_model(
    model: nn.Module,
    path: str | Path,
    name: str = "the config's model",
    allow_partial: bool = False,
) -> dict:
    """Load a complete model from a checkpoint; every tensor must match.

    Args:
        model: Loaded in place.
        path: A file or URL.
        name: How errors refer to the model.
        allow_partial: Load the tensors that fit, and log which ones stay random.

    Returns:
        The checkpoint's ``meta`` (classes, config, iteration), empty if it has none.

    Raises:
        InputError: Missing, unreadable or unfitting file; with ``allow_partial``, a file of which
            no tensor fits.
    """
    content = read_checkpoint(path)
    state = state_dict_of(content, path)
    match = Match.compare(model.state_dict(), state)
    unfit = {*match.unexpected, *match.misshapen}
    if allow_partial:
        match.report_partial(path)
        state = {key: value for key, value in state.items() if key not in unfit}
    else:
        match.refuse(f"checkpoint {path} does not fit {name}")
    model.load_state_dict(state, strict=not allow_partial)
    return content.get("meta") or {}
