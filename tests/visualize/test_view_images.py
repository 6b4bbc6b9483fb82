"""tools/visualize.py draws the maps for every task, and names mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import tool
from PIL import Image
from untrained import CONFIGS


@pytest.mark.parametrize("task", CONFIGS)
def test_command_writes_all_images_once(task: str, folder: Path, tmp_path: Path, capsys) -> None:
    checkpoint = folder / f"{task}.pth"
    args = (CONFIGS[task], checkpoint, folder / "image.png", "--out-dir", tmp_path / "seen")
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
    ("args", "reason"),
    [
        (("--target", "cubes"), "did you mean 'cube'"),
        (("--target", "9"), "no such class"),
        (("--point", 150, 3), "the image is 150 x 100"),
    ],
)
def test_mistakes_are_named(folder: Path, tmp_path: Path, capsys, args: tuple, reason: str) -> None:
    files = (CONFIGS["classification"], folder / "classification.pth", folder / "image.png")
    line = tool.refusal(capsys, "visualize", *files, "--out-dir", tmp_path / "seen", *args)
    assert reason in line
    assert not (tmp_path / "seen").exists()


def test_image_without_detections_has_no_grad_cam(folder: Path, tmp_path, capsys) -> None:
    files = (CONFIGS["detection"], folder / "detection.pth", folder / "image.png")
    tool.call("visualize", *files, "--out-dir", tmp_path, "--score-thr", 1.1)
    assert "no Grad-CAM" in capsys.readouterr().out
    assert (tmp_path / "sheet.png").is_file() and not list(tmp_path.glob("gradcam*"))


def test_an_exported_file_is_refused_in_words_that_help(folder: Path, tmp_path, capsys) -> None:
    (tmp_path / "model.onnx").touch()
    files = (CONFIGS["detection"], tmp_path / "model.onnx", folder / "image.png")
    line = tool.refusal(capsys, "visualize", *files, "--out-dir", tmp_path / "seen")
    assert "give the checkpoint" in line and not (tmp_path / "seen").exists()


def test_a_folder_that_cannot_be_written_is_named_first(folder: Path, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    files = (CONFIGS["detection"], folder / "detection.pth", folder / "image.png")
    line = tool.refusal(capsys, "visualize", *files, "--out-dir", tmp_path / "file" / "seen")
    assert "--out-dir" in line
