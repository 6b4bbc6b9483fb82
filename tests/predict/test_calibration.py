"""Calibration images are prepared as the model sees them, evenly chosen from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import CONFIGS, write_checkpoint

from care_mm.config import load_config
from care_mm.errors import InputError
from care_mm.predict import calibration as module
from care_mm.predict.calibration import calibration
from care_mm.predict.predictor import Predictor


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    checkpoint = write_checkpoint("classification", tmp_path_factory.mktemp("model"))
    return Predictor(load_config(CONFIGS["classification"]), checkpoint, "cpu")


def write_images(folder: Path, number: int) -> None:
    """Write grey images, each brighter than the one before, in a folder below."""
    (folder / "below").mkdir()
    for index in range(number):
        image = np.full((48, 64, 3), 20 * index, np.uint8)
        Image.fromarray(image).save(folder / "below" / f"{index}.png")


def test_images_are_normalised_and_resized(predictor: Predictor, tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    (tmp_path / "notes.txt").write_text("no image")
    images = calibration(predictor, tmp_path, (40, 56))
    assert [tuple(image.shape) for image in images] == [(1, 3, 40, 56)] * 3
    mean, std = (
        getattr(predictor.model.data_preprocessor, name).reshape(1, 3, 1, 1)
        for name in ("mean", "std")
    )
    for index, image in enumerate(images):
        expected = ((20.0 * index - mean) / std).expand_as(image)
        torch.testing.assert_close(image, expected, rtol=1e-4, atol=1e-4)


def test_many_images_are_thinned_out_evenly(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_IMAGES", 3)
    write_images(tmp_path, 5)
    every = calibration(predictor, tmp_path)
    levels = [float(image.mean()) for image in every]
    assert len(levels) == 3 and levels == sorted(levels)


def test_a_folder_of_videos_alone_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "film.mp4").write_bytes(b"")
    with pytest.raises(InputError, match="no image in it"):
        calibration(predictor, tmp_path)
