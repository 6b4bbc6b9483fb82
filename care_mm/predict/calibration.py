"""Calibration images for int8: a folder of images as the model sees them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
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

    Images that cannot be read are skipped and logged.

    Raises:
        InputError: The folder has no image that can be read.
    """
    files = [file for file in find_files([folder]).values() if not is_video(file)]
    if not files:
        raise InputError(f"--calibration {folder}: no image in it")
    images = []
    for file in files[:: -(-len(files) // MAX_IMAGES)]:
        try:
            batch = predictor.prepare(predictor.read(file))
        except InputError as error:
            print_log(f"--calibration: skipped {error}", logger="current", level=logging.WARNING)
            continue
        image = predictor.model.data_preprocessor(batch, False)["inputs"]
        if shape is not None and tuple(image.shape[2:]) != shape:
            image = F.interpolate(image, shape, mode="bilinear")
        images.append(image)
    if not images:
        raise InputError(f"--calibration {folder}: none of its images can be read")
    return images
