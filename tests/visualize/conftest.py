"""Checkpoints with random weights, and an image to show."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from untrained import CONFIGS, write_checkpoint

from care_mm.config import load_config
from care_mm.datasets.shapes import ensure_shapes
from care_mm.predict.predictor import Predictor


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write checkpoints of all three tasks and a wide image."""
    folder = tmp_path_factory.mktemp("user")
    for task in CONFIGS:
        write_checkpoint(task, folder)
    drawn = next((ensure_shapes(folder / "drawn", 1, 1, 128, seed=3) / "coco").rglob("*.jpg"))
    Image.open(drawn).resize((150, 100)).save(folder / "image.png")
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Predictor:
    return Predictor(load_config(CONFIGS["classification"]), folder / "classification.pth", "cpu")
