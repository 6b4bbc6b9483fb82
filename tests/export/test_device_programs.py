"""The programs of docs/devices.md print the classes that the model predicts."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from export.conftest import MakeFile, MakeJob
from export.test_litert import CLASSIFIER, converts
from export.test_stand_in import predict
from PIL import Image

PROGRAMS = Path(__file__).parents[2] / "docs" / "devices"


@pytest.fixture(scope="module")
def photo(image_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.open(image_file).convert("RGB").save(path, quality=95)
    return path


def printed(*command: object) -> list[tuple[str, float]]:
    """Run a program and return the names and scores that it prints."""
    process = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    lines = [line.rsplit(" ", 1) for line in process.stdout.splitlines()]
    return [(name, float(score)) for name, score in lines]


def best(job: MakeJob, photo: Path) -> list[tuple[int, float]]:
    """Return the labels and scores that torch predicts, best first."""
    scores = predict(job("classifier"), job("classifier")[1], photo).pred_score
    values, labels = scores.topk(3)
    return list(zip(labels.tolist(), values.tolist(), strict=True))


@converts
def test_the_python_program_for_litert(job: MakeJob, exported: MakeFile, photo: Path) -> None:
    pytest.importorskip("ai_edge_litert")
    file = exported(*CLASSIFIER)
    lines = printed(sys.executable, PROGRAMS / "classify_litert.py", file, photo)
    _, checkpoint = job("classifier")

    classes = torch.load(checkpoint, weights_only=True)["meta"]["dataset_meta"]["classes"]
    expected = best(job, photo)
    assert [name for name, _ in lines] == [classes[label] for label, _ in expected]
    for (_, actual), (_, score) in zip(lines, expected, strict=True):
        assert actual == pytest.approx(score, abs=2e-4)


def _flags() -> list[str] | None:
    """Return the flags that compile the C++ program; ``None`` if a library is absent."""
    compiler, config = shutil.which("c++"), shutil.which("pkg-config")
    if compiler is None or config is None:
        return None
    command = [config, "--cflags", "--libs", "opencv4"]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        return None
    flags = process.stdout.split()
    probe = [compiler, "-fsyntax-only", "-std=c++17", "-x", "c++", "-", *flags]
    source = "#include <ncnn/net.h>"
    found = subprocess.run(probe, input=source, capture_output=True, text=True).returncode == 0
    return flags if found else None


@pytest.mark.skipif(_flags() is None, reason="needs libncnn-dev and libopencv-dev")
def test_the_cpp_program_for_ncnn(
    job: MakeJob, exported: MakeFile, photo: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ncnn")
    file = exported("classifier", "c.param", "--shape", 64, 64)
    program = tmp_path / "classify"
    source = PROGRAMS / "classify_ncnn.cpp"
    command = ["c++", "-std=c++17", "-O2", str(source), "-o", str(program), *_flags(), "-lncnn"]
    subprocess.run(command, check=True)
    lines = printed(program, file, file.with_suffix(".bin"), photo, 64, 64)
    expected = best(job, photo)
    assert [name for name, _ in lines] == [f"class {label}" for label, _ in expected]
    for (_, actual), (_, score) in zip(lines, expected, strict=True):
        assert actual == pytest.approx(score, abs=0.02)  # ncnn resizes with another rounding
    about = json.loads(file.read_text().splitlines()[-1].partition(" ")[2])
    assert about["channels"] == "RGB" and about["mean"] == [123.675, 116.28, 103.53]
