"""What all runtimes have in common once a file is open: pictures in, named tensors out."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from care_mm.errors import InputError

Opened = TypeVar("Opened")


def needs(*packages: str) -> None:
    """Raise InputError for the first of the packages that is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise InputError(f"{package} is not installed: pip install care-mm[export]")


def opened(path: Path, call: Callable[[], Opened]) -> Opened:
    """What a runtime's ``call`` makes of the file.

    Raises:
        InputError: No such file, or one that the runtime does not take.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return call()
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: damaged, or no file for this runtime ({reason})") from error


class Program(ABC):
    """An exported file that has been opened.

    Args:
        path: The file.
        about: Its description, see :meth:`care_mm.export.graphs.Graph.metadata`.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.about = about
        # Of a detector in parts: its networks, by the names that Detector has for them.
        self.parts: dict[str, Callable[..., Any]] = {}

    @abstractmethod
    def run(self, image: np.ndarray) -> Sequence[np.ndarray]:
        """A batch that the file takes, (B, 3, H, W) float32, -> its outputs in their order."""

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of the only input that the file takes; ``None`` where any will do."""
        return tuple(self.about["shape"]) if self.about.get("shape") else None

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Normalised pictures (B, 3, H, W) -> outputs by name, on the device of the pictures.

        Raises:
            InputError: The file is for pictures of another size.
        """
        self.check_shape(images)
        array = np.ascontiguousarray(images.detach().float().cpu().numpy())
        batches = [array] if self.about.get("batched") else np.split(array, len(array))
        found = [self.run(batch) for batch in batches]
        return {
            name: torch.from_numpy(np.concatenate(values)).to(images.device)
            for name, values in zip(self.about["outputs"], zip(*found, strict=True), strict=True)
        }

    def check_shape(self, images: Tensor) -> None:
        """Raise InputError for pictures (B, 3, H, W) of another size than the file takes."""
        size = tuple(images.shape[2:])
        if self.shape not in (None, size):
            raise InputError(
                f"{self.path} takes pictures of {self.shape[0]}x{self.shape[1]} (HxW), not "
                f"{size[0]}x{size[1]}: export with --shape {size[0]} {size[1]}, or give the test "
                "pipeline a fixed size"
            )
