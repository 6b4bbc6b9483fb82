"""Exported files that have been opened: images in, named tensors out."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from care_mm.errors import InputError, one_line

Opened = TypeVar("Opened")


def needs(*packages: str) -> None:
    """Raise InputError for the first of the packages that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed: pip install care-mm[export]")


def opened(path: Path, call: Callable[[], Opened]) -> Opened:
    """Return the result of a runtime's ``call`` that reads a file.

    Raises:
        InputError: The file does not exist, or the runtime rejects it.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return call()
    except Exception as error:
        reason = one_line(error, 200)
        raise InputError(f"{path}: damaged, or no file for this runtime ({reason})") from error


class Program(ABC):
    """An exported file, opened in its runtime.

    Args:
        path: The file.
        about: Its description, see :meth:`care_mm.export.graphs.Graph.metadata`.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = about
        # The networks of a divided detector, under the names of Detector's arguments.
        self.parts: dict[str, Callable[..., Any]] = {}

    @abstractmethod
    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run a batch that the file accepts, (B, 3, H, W) float32; return the outputs in order."""

    @property
    def shape(self) -> tuple[int, int] | None:
        """The only height and width that the file accepts; ``None`` if it accepts any."""
        return tuple(self.about["shape"]) if self.about.get("shape") else None

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Run normalised images (B, 3, H, W); return the outputs by name, on the same device.

        Raises:
            InputError: The file accepts another input size only.
        """
        self.check_shape(images)
        array = np.ascontiguousarray(images.detach().float().cpu().numpy())
        batches = [array] if self.about.get("batched") else np.split(array, len(array))
        results = zip(*map(self.run, batches), strict=True)
        return {
            name: torch.from_numpy(np.concatenate(values)).to(images.device)
            for name, values in zip(self.about["outputs"], results, strict=True)
        }

    def check_shape(self, images: Tensor) -> None:
        """Raise InputError for images (B, 3, H, W) of a size that the file does not accept."""
        size = tuple(images.shape[2:])
        if self.shape not in (None, size):
            (height, width), step = self.shape, "dict(type='Resize', scale={}, keep_ratio=False)"
            raise InputError(
                f"{self.path} accepts images of {height}x{width} (HxW) only, not "
                f"{size[0]}x{size[1]}: let the test pipeline resize by "
                f"{step.format((width, height))}, or export for another size with --shape"
            )
