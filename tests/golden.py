"""Reference values of the published model, for weights and input that anyone can regenerate."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from care_mm.checkpoint.names import convert_official

FOLDER = Path(__file__).parent / "data" / "golden"
ARCHS = ("s0", "s1", "s2")


def shapes(arch: str) -> dict[str, list[int]]:
    """Return the keys of the authors' state dict with their shapes."""
    return json.loads((FOLDER / f"{arch}_state_dict.json").read_text())


def gradient_norms(arch: str) -> dict[str, float]:
    """Return the L2 norm of the training loss's gradient, by the authors' key."""
    return json.loads((FOLDER / f"{arch}_gradnorm.json").read_text())


def arrays(arch: str) -> dict[str, torch.Tensor]:
    """Return the reference outputs."""
    with np.load(FOLDER / f"{arch}.npz") as file:
        return {name: torch.from_numpy(file[name]).double() for name in file.files}


def inputs() -> torch.Tensor:
    """Return the reference input, (2, 3, 64, 96) in float64."""
    return torch.from_numpy(np.random.default_rng([0, 7]).standard_normal((2, 3, 64, 96)))


def draw(key: str, shape: Sequence[int]) -> np.ndarray:
    """Return a reproducible, well-conditioned tensor in float64 for a key of a state dict."""
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    normal = rng.standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    if leaf == "running_var":
        return 0.5 + rng.random(shape)
    if leaf in ("running_mean", "bias"):
        return 0.1 * normal
    if leaf == "gamma":
        return 0.5 + 0.1 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    return normal * np.prod(shape[1:]) ** -0.5


def state_dict(arch: str) -> dict[str, torch.Tensor]:
    """Return reproducible, well-conditioned weights under the authors' keys, in float64."""
    return {key: torch.as_tensor(draw(key, shape)) for key, shape in shapes(arch).items()}


@cache
def single(arch: str) -> dict[str, torch.Tensor]:
    """Return the same weights in float32, as in the authors' files."""
    return {
        key: value.float() if value.is_floating_point() else value
        for key, value in state_dict(arch).items()
    }


@cache
def backbone_weights(arch: str) -> dict[str, torch.Tensor]:
    """Return the same weights in float64 under the keys of our backbone, with the heads."""
    weights = convert_official(state_dict(arch))
    return {key.removeprefix("backbone."): value for key, value in weights.items()}


def relative_error(actual: torch.Tensor, reference: torch.Tensor) -> float:
    """Return max|actual - reference| / max|reference|."""
    return float((actual - reference).abs().max() / reference.abs().max())
