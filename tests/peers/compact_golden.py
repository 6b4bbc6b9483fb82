"""Golden figures of peers in one small file each: the authors' code in float64, thinned.

A file holds the keys and shapes of the published state dict at 224 x 224, the gradient norms by
key, and about 600 values of every array. Weights and inputs are regenerated from seeds.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from functools import cache

import golden
import numpy as np
import torch
from torch import Tensor

# Name of an input -> seed and shape.
INPUTS = {
    "main": (7, (2, 3, 64, 96)),
    "large": (8, (1, 3, 160, 224)),
    "train": (9, (4, 3, 64, 96)),
}


@dataclass(frozen=True)
class Golden:
    """The figures of one model.

    Attributes:
        shapes: The authors' keys and shapes.
        norms: The authors' keys and gradient norms.
        layout: Name of an array -> its full ``shape``, the ``steps`` that thinned each dimension,
            and ``every`` which value of the flattened rest is stored.
        values: Name of an array -> the stored values.
    """

    shapes: dict[str, list[int]]
    norms: dict[str, float]
    layout: dict[str, dict]
    values: dict[str, np.ndarray]

    def weights(self, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
        """Return reproducible, well-conditioned weights under the authors' keys."""
        drawn = {key: torch.as_tensor(_draw(key, shape)) for key, shape in self.shapes.items()}
        return {k: v.to(dtype) if v.is_floating_point() else v for k, v in drawn.items()}

    def error(self, name: str, actual: Tensor) -> float:
        """Return max|actual - reference| / max|reference| over the stored values."""
        layout = self.layout[name]
        assert list(actual.shape) == layout["shape"], name
        thinned = actual.detach()[tuple(slice(None, None, step) for step in layout["steps"])]
        stored = torch.from_numpy(self.values[name]).double()
        return golden.relative_error(thinned.reshape(-1)[:: layout["every"]], stored)


def _draw(key: str, shape: list[int]) -> np.ndarray:
    """Draw as :func:`golden.draw`, which does not know MobileViG's name of a layer scale."""
    if key.endswith("layer_scale_2"):
        normal = np.random.default_rng([0, zlib.crc32(key.encode())]).standard_normal(shape)
        return 0.5 + 0.1 * normal
    return golden.draw(key, shape)


@cache
def load(name: str) -> Golden:
    """Read the figures of a model, such as ``'emo_1m'``."""
    with np.load(golden.FOLDER / f"{name}.npz") as file:
        values = {key: file[key] for key in file.files}
    facts = json.loads(values.pop("json").tobytes())
    return Golden(facts["shapes"], facts["norms"], facts["arrays"], values)


def inputs(name: str) -> Tensor:
    """Return one of ``INPUTS`` in float64."""
    seed, shape = INPUTS[name]
    return torch.from_numpy(np.random.default_rng([0, seed]).standard_normal(shape))
