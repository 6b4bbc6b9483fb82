"""A drawing is made once, and is complete or absent."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from drawings import SMALL, TINY, files
from mmengine.registry import DATASETS

import care_mm.datasets
from care_mm.datasets.shapes import build_shapes, ensure_shapes
from care_mm.errors import InputError

# Drawing needs no models: an empty package in place of care_mm saves seconds of imports.
DRAWER = """
import json, sys, types
package = types.ModuleType("care_mm")
package.__path__ = [sys.argv[1]]
sys.modules["care_mm"] = package
from care_mm.datasets.shapes import ensure_shapes
ensure_shapes(sys.argv[2], **json.loads(sys.argv[3]))
"""


def drawer(root: Path, **settings) -> subprocess.Popen:
    """Start another process that draws."""
    package = Path(care_mm.datasets.__file__).parents[1]
    command = [sys.executable, "-c", DRAWER, str(package), str(root), json.dumps(settings)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_second_call_draws_nothing(shapes):
    before = {name: (shapes / name).stat().st_mtime_ns for name in files(shapes)}
    assert ensure_shapes(shapes, **SMALL) == shapes
    assert before == {name: (shapes / name).stat().st_mtime_ns for name in files(shapes)}


def test_two_processes_at_once_draw_once(tmp_path):
    root = tmp_path / "data" / "shapes"
    both = [drawer(root, **{**TINY, "num_train": 40}) for _ in range(2)]
    output = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], output
    assert sum("Drawing" in text for text in output) == 1, output
    assert len(list(root.glob("coco/train2017/*.jpg"))) == 40


def test_a_killed_drawing_leaves_nothing_that_looks_finished(tmp_path):
    root = tmp_path / "shapes"
    # Scenes that are larger than a pipe, so that the workers block while they deliver them.
    process = drawer(root, **{**TINY, "num_train": 100_000, "size": 256})
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".shapes.partial/coco/train2017/*3.jpg")):
        assert process.poll() is None and time.monotonic() < deadline, "nothing is drawn"
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)  # returns once the workers, which hold the pipe, have ended too
    assert not root.exists()
    assert ensure_shapes(root, **TINY) == root
    assert len(list(root.glob("coco/train2017/*.jpg"))) == TINY["num_train"]
    assert not (tmp_path / ".shapes.partial").exists()


def test_a_failed_drawing_leaves_nothing(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("care_mm.datasets.shapes.layouts._rle", full)
    with pytest.raises(InputError, match="No space left"):
        ensure_shapes(tmp_path / "shapes", **TINY)
    assert [path.name for path in tmp_path.iterdir()] == [".shapes.lock"]


def test_other_settings_are_refused(shapes):
    with pytest.raises(InputError, match=r"seed 3 \(requested: 4\).*delete it or choose another"):
        ensure_shapes(shapes, **{**SMALL, "seed": 4})


def test_a_folder_of_the_user_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="not drawn by care_mm"):
        ensure_shapes(tmp_path, **TINY)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(InputError, match="not drawn by care_mm"):
        ensure_shapes(tmp_path / "mine.txt", **TINY)


def test_a_damaged_marker_is_named(tmp_path):
    (tmp_path / "shapes.json").write_text('{"format": 1')
    with pytest.raises(InputError, match=r"shapes\.json is damaged"):
        ensure_shapes(tmp_path, **TINY)


@pytest.mark.parametrize(
    "wrong",
    [{"num_train": 0}, {"num_val": -1}, {"size": 63}, {"seed": -1}, {"size": 96.5}, {"seed": True}],
    ids=str,
)
def test_bad_numbers_are_refused_by_name(tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        ensure_shapes(tmp_path / "shapes", **{**TINY, **wrong})
    assert not list(tmp_path.iterdir())


# In a config


class Probe:
    """A data set that only remembers its arguments."""

    def __init__(self, **kwargs):
        self.kwargs = kwargs


@pytest.fixture
def probe():
    DATASETS.register_module(name="ShapesProbe", module=Probe)
    yield "ShapesProbe"
    DATASETS.module_dict.pop("ShapesProbe")


@pytest.mark.parametrize("tail", ["coco", "coco/", "ade/ADEChallengeData2016", "imagenet"])
def test_a_config_draws_missing_data_and_passes_other_arguments_on(tmp_path, probe, tail):
    rest = {
        "data_root": f"{tmp_path}/data/{tail}",
        "pipeline": [{"type": "Any"}],
        "test_mode": True,
    }
    built = DATASETS.build({"type": "Shapes", "of": probe, "draw": TINY, **rest})
    assert isinstance(built, Probe) and built.kwargs == rest
    assert Path(rest["data_root"]).is_dir()


@pytest.mark.parametrize("data_root", [None, "", "data/shapes", "data/coco/train2017"])
def test_a_data_root_with_another_ending_is_refused(data_root):
    with pytest.raises(InputError, match="data_root must end in one of coco"):
        build_shapes("ShapesProbe", data_root=data_root)


def test_an_unknown_key_of_draw_is_refused():
    with pytest.raises(InputError, match="no number; its keys are num_train"):
        build_shapes("ShapesProbe", {"number": 3}, data_root="data/coco")
