"""The maps of the stages and their place over the image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tool
import torch
from PIL import Image
from untrained import CONFIGS

from care_mm.predict.predictor import Predictor
from care_mm.visualize import look
from care_mm.visualize.view import _Frame, energy_map


def test_energy_ignores_what_is_the_same_everywhere() -> None:
    x = torch.full((1, 4, 6, 6), 7.0)
    assert energy_map(x).abs().max() == 0
    x[0, 1, 2, 3] += 1
    energy = energy_map(x)[0, 0]
    assert divmod(int(energy.argmax()), 6) == (2, 3)
    torch.testing.assert_close(energy_map(x + 5), energy_map(x))


def test_point_lies_at_the_same_place_in_image_and_features() -> None:
    """The input is padded on the right and below, which the image shown is not."""
    frame = _Frame(padded=(64, 96), size=(50, 80))
    assert frame.point((0.5, 0.25)) == (120, 150)
    assert frame.cell((0.5, 0.25), (8, 12)) == (3, 2)
    assert frame.cell((0.999, 0.999), (8, 12)) == (6, 9)
    assert frame.fit(torch.zeros(1, 1, 8, 12)).shape == (300, 480)


def test_maps_lie_over_the_image(classifier: Predictor, folder: Path) -> None:
    """A patch in a grey image is where the stages have their energy."""
    pixels = np.full((96, 96, 3), 120, np.uint8)
    pixels[60:90, 6:36] = np.random.default_rng(0).integers(0, 255, (30, 30, 3))
    Image.fromarray(pixels).save(folder / "patch.png")
    view = look(classifier, folder / "patch.png", cam=False)
    assert view.image.shape == (480, 480, 3)
    assert set(view.energy) == {1, 2, 3, 4} and set(view.attention) == {3, 4}
    for stage in (1, 2):
        inside = view.energy[stage][300:450, 30:180].mean()
        assert inside > 3 * view.energy[stage][:240, 240:].mean()
    assert abs(view.image[150, 300].astype(int) - 120).max() <= 1


def test_other_backbones_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "other.py").write_text(
        f"_base_ = {str(CONFIGS['classification'])!r}\n"
        "model = dict(teacher=None, backbone=dict(_delete_=True, type='ResNet', depth=18),\n"
        "    neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=512))\n"
    )
    args = (tmp_path / "other.py", folder / "classification.pth", folder / "image.png")
    line = tool.refusal(
        capsys, "visualize", *args, "--out-dir", tmp_path / "seen", "--allow-partial"
    )
    assert "no CARETransformer" in line
