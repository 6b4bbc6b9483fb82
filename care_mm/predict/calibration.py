"""Calibration images for int8: a folder of images as the model sees them."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from care_mm.errors import InputError
from care_mm.predict.files import find_files, is_video
from care_mm.predict.predictor import Predictor

MAX_IMAGES = 200


@torch.no_grad()
def calibration(
    predictor: Predictor, folder: Path, shape: tuple[int, int] | None = None
) -> list[Tensor]:
    """Return up to ``MAX_IMAGES`` images, evenly spaced, each (1, 3, H, W) and normalised.

    Args:
        predictor: Its test pipeline and data preprocessor prepare the images.
        folder: Searched for images at any depth.
        shape: Height and width to resize to; ``None`` leaves them as the pipeline returns them.

    Raises:
        InputError: The folder has no image, or one that cannot be read.
    """
    files = [file for file in find_files([folder]).values() if not is_video(file)]
    if not files:
        raise InputError(f"--calibration {folder}: no image in it")
    images = []
    for file in files[:: -(-len(files) // MAX_IMAGES)]:
        batch = predictor.prepare(predictor.read(file))
        image = predictor.model.data_preprocessor(batch, False)["inputs"]
        if shape is not None and tuple(image.shape[2:]) != shape:
            image = F.interpolate(image, shape, mode="bilinear")
        images.append(image)
    return images
