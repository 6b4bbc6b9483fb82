"""Pictures of a user's folder as the model sees them, to take the ranges of activations from."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from care_mm.errors import InputError
from care_mm.predict.files import find_files, is_video
from care_mm.predict.predictor import Predictor

MAX_PICTURES = 200


@torch.no_grad()
def calibration(
    predictor: Predictor, folder: Path, shape: tuple[int, int] | None = None
) -> list[Tensor]:
    """Up to ``MAX_PICTURES`` images, evenly spaced, each (1, 3, H, W) and normalised.

    Args:
        predictor: Whose test pipeline and data preprocessor prepare them.
        folder: Where they are, at any depth.
        shape: Height and width to resize to; ``None`` leaves them as the pipeline gives them.

    Raises:
        InputError: No image, or one that cannot be read.
    """
    files = [file for file in find_files([folder]).values() if not is_video(file)]
    if not files:
        raise InputError(f"--calibration {folder}: no image in it")
    found = []
    for file in files[:: -(-len(files) // MAX_PICTURES)]:
        batch = predictor.prepare(predictor.read(file))
        image = predictor.model.data_preprocessor(batch, False)["inputs"]
        if shape is not None and tuple(image.shape[2:]) != shape:
            image = F.interpolate(image, shape, mode="bilinear")
        found.append(image)
    return found
