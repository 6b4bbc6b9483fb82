"""Pictures of a user's folder as the model sees them, to take the ranges of activations from."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from torch import Tensor, nn

from care_mm.engine.files import find_files, is_video
from care_mm.errors import InputError

MAX_PICTURES = 200


@torch.no_grad()
def pictures_of(
    config: Config, model: nn.Module, folder: Path, shape: tuple[int, int] | None
) -> list[Tensor]:
    """Up to ``MAX_PICTURES`` images, evenly spaced, each (1, 3, H, W) and normalised.

    Args:
        config: Whose test pipeline prepares them.
        model: Whose data preprocessor does.
        folder: Where they are, at any depth.
        shape: Height and width to resize to; ``None`` leaves them as the pipeline gives them.

    Raises:
        InputError: No image, or one that cannot be read.
    """
    files = [file for file in find_files([folder]).values() if not is_video(file)]
    step = -(-len(files) // MAX_PICTURES)
    steps = config.test_dataloader.dataset.pipeline
    pipeline = Compose([step for step in steps if "Annotations" not in step["type"]])
    found = []
    for file in files[::step]:
        try:
            data = pipeline({"img_path": str(file), "img_id": 0})
        except Exception as error:
            raise InputError(f"image {file}: cannot be read ({error})") from error
        image = model.data_preprocessor(pseudo_collate([data]), False)["inputs"]
        if shape is not None and image.shape[2:] != shape:
            image = F.interpolate(image, shape, mode="bilinear")
        found.append(image)
    if not found:
        raise InputError(f"--calibration {folder}: no image in it")
    return found
