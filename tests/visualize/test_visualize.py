"""The maps mean what they are said to mean, and the command draws them for every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tool
import torch
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from untrained import CONFIGS, write_checkpoint

from care_mm.config import load_config
from care_mm.datasets.shapes import ensure_shapes
from care_mm.models.layers import LinearAttention
from care_mm.predict.predictor import Predictor
from care_mm.visualize import look
from care_mm.visualize.attention import attention_map
from care_mm.visualize.cam import Target, grad_cam
from care_mm.visualize.view import energy_map


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of all three tasks and a wide picture."""
    folder = tmp_path_factory.mktemp("user")
    for task in CONFIGS:
        write_checkpoint(task, folder)
    drawn = next((ensure_shapes(folder / "drawn", 1, 1, 128, seed=3) / "coco").rglob("*.jpg"))
    Image.open(drawn).resize((150, 100)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def classifier(folder: Path) -> Predictor:
    return Predictor(load_config(CONFIGS["classification"]), folder / "classification.pth", "cpu")


def test_attention_map_is_what_the_layer_computes() -> None:
    torch.manual_seed(0)
    layer = LinearAttention(16, head_dim=8).requires_grad_(False)
    x = 3 * torch.randn(2, 16, 5, 7)
    out = layer(x)
    for at in ((0, 0), (2, 6)):
        weights = attention_map(layer, x, at)
        assert weights.shape == (2, 2, 5, 7) and (weights > 0).all()
        assert weights.mean((2, 3)).allclose(torch.ones(2, 2), atol=1e-4)
        mixed = (weights.repeat_interleave(8, dim=1) * x).mean((2, 3))
        torch.testing.assert_close(mixed, out[:, :, at[0], at[1]])
    rows = torch.stack([attention_map(layer, x, (i, j)) for i in range(5) for j in range(7)])
    torch.testing.assert_close(attention_map(layer, x), rows.mean(0))


def test_energy_is_blind_to_what_is_the_same_everywhere() -> None:
    x = torch.full((1, 4, 6, 6), 7.0)
    assert energy_map(x).abs().max() == 0
    x[0, 1, 2, 3] += 1
    energy = energy_map(x)[0, 0]
    assert divmod(int(energy.argmax()), 6) == (2, 3)
    torch.testing.assert_close(energy_map(x + 5), energy_map(x))


def test_maps_lie_over_the_picture(classifier: Predictor, folder: Path) -> None:
    """A patch in a grey picture is where all stages have their energy."""
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


def test_grad_cam_answers_for_the_class_that_is_asked_for(
    classifier: Predictor, folder: Path
) -> None:
    views = [look(classifier, folder / "picture.png", target) for target in ("cube", "1", "star")]
    assert [view.target for view in views] == ["cube", "cube", "star"]
    for stage in (1, 2, 3, 4):
        assert views[0].cam[stage].min() >= 0 and views[0].cam[stage].max() <= 1
    np.testing.assert_allclose(views[0].cam[3], views[1].cam[3], atol=1e-5)
    assert not np.allclose(views[0].cam[3], views[2].cam[3], atol=1e-2)
    assert not any(p.grad is not None for p in classifier.model.parameters())


class Corner(torch.nn.Module):
    """Sees its class, brightness, in the upper left corner alone."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.PReLU(init=1.0)  # changes nothing, and has a parameter

    def forward(self, x: torch.Tensor, samples: list, mode: str) -> list:
        scores = self.features(x)[..., :8, :8].mean((1, 2, 3)).sigmoid()
        found = InstanceData(labels=torch.zeros(1, dtype=torch.long), scores=scores)
        return [BaseDataElement(pred_instances=found)]


def test_map_of_a_detection_is_where_the_detection_is() -> None:
    """Not at another bright place, where Grad-CAM as published has it."""
    x, model, maps = torch.rand(1, 3, 32, 32), Corner(), {}
    x[..., 20:, 20:] = 9.0
    for local in (True, False):
        target = Target(0, "bright", 0.3, local)
        (maps[local],) = grad_cam(model, [model.features], x.clone(), [None], target)
    assert maps[True].shape == (32, 32) and maps[True][:8, :8].mean() > 0.2
    assert maps[True][8:].max() == maps[True][:, 8:].max() == 0
    assert maps[False][20:, 20:].min() > 0.9


@pytest.mark.parametrize("task", CONFIGS)
def test_command(task: str, folder: Path, tmp_path: Path, capsys) -> None:
    checkpoint = folder / f"{task}.pth"
    args = (CONFIGS[task], checkpoint, folder / "picture.png", "--out-dir", tmp_path / "seen")
    tool.call("visualize", *args, "--score-thr", 0, "--device", "cpu")
    names = {file.stem for file in (tmp_path / "seen").iterdir()}
    assert names == {
        "prediction",
        "input",
        "sheet",
        *(f"{kind}_stage{n}" for kind in ("energy", "gradcam") for n in (1, 2, 3, 4)),
        *(f"{kind}_stage{n}" for kind in ("attention", "attention_from") for n in (3, 4)),
    }
    sizes = {Image.open(f).size for f in (tmp_path / "seen").glob("*_stage*.png")}
    assert len(sizes) == 1 and max(sizes.pop()) == 480
    before = (tmp_path / "seen" / "sheet.png").stat().st_mtime_ns
    assert "exists" in tool.refusal(capsys, "visualize", *args, "--no-cam")
    assert (tmp_path / "seen" / "sheet.png").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--target", "cubes"), "did you mean 'cube'"),
        (("--target", "9"), "no such class"),
        (("--point", 150, 3), "the picture is 150 x 100"),
    ],
)
def test_mistakes_are_named(folder: Path, tmp_path: Path, capsys, args: tuple, said: str) -> None:
    files = (CONFIGS["classification"], folder / "classification.pth", folder / "picture.png")
    line = tool.refusal(capsys, "visualize", *files, "--out-dir", tmp_path / "seen", *args)
    assert said in line
    assert not (tmp_path / "seen").exists()


def test_picture_without_detections_goes_without_grad_cam(folder: Path, tmp_path, capsys) -> None:
    files = (CONFIGS["detection"], folder / "detection.pth", folder / "picture.png")
    tool.call("visualize", *files, "--out-dir", tmp_path, "--score-thr", 1.1)
    assert "no Grad-CAM" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file() and not list(tmp_path.glob("gradcam*"))


def test_other_backbones_are_refused(folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "other.py").write_text(
        f"_base_ = {str(CONFIGS['classification'])!r}\n"
        "model = dict(teacher=None, backbone=dict(_delete_=True, type='ResNet', depth=18),\n"
        "    neck=dict(type='GlobalAveragePooling'), head=dict(in_channels=512))\n"
    )
    args = (tmp_path / "other.py", folder / "classification.pth", folder / "picture.png")
    line = tool.refusal(
        capsys, "visualize", *args, "--out-dir", tmp_path / "seen", "--allow-partial"
    )
    assert "no CARETransformer" in line
