"""tools/infer.py on a user's files: videos, folders, damage, and nothing overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tool
from PIL import Image
from predict.conftest import FPS, FRAMES, write_video
from untrained import CONFIGS, write_checkpoint

from care_mm.errors import InputError
from care_mm.predict.files import Output, find_files
from care_mm.predict.video import Video


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write checkpoints, and a folder with an image, a video in a subfolder, and a note."""
    folder = tmp_path_factory.mktemp("user")
    for task in ("classification", "segmentation"):
        write_checkpoint(task, folder)
    (folder / "in" / "below").mkdir(parents=True)
    write_video(folder / "in" / "below" / "walk.mp4")
    Image.new("RGB", (50, 40), (200, 30, 30)).save(folder / "in" / "red.png")
    (folder / "in" / "note.txt").write_text("not for the network")
    return folder


def infer(task: str, folder: Path, *args: object) -> None:
    tool.call("infer", CONFIGS[task], folder / f"{task}.pth", *args, "--device", "cpu")


def test_videos_and_images_of_a_folder_are_predicted(folder: Path, tmp_path: Path) -> None:
    infer("segmentation", folder, folder / "in", "--out-dir", tmp_path)
    records = json.loads((tmp_path / "predictions.json").read_text())
    assert set(records) == {"red.png", "below/walk.mp4"}
    video = records["below/walk.mp4"]
    assert video["fps"] == FPS
    assert [frame["frame"] for frame in video["frames"]] == list(range(FRAMES))
    assert all(sum(f["classes"].values()) == pytest.approx(1, abs=0.01) for f in video["frames"])
    drawn = Video(tmp_path / "videos" / "below" / "walk.mp4")
    assert drawn.fps == FPS and len(list(drawn)) == FRAMES
    assert Image.open(tmp_path / "images" / "red.png.png").size == (650, 520)
    assert {file.name for file in tmp_path.iterdir()} == {"predictions.json", "images", "videos"}


def test_every_fourth_frame_is_written_as_an_image(folder: Path, tmp_path: Path) -> None:
    """The grey of each image tells that it is the right frame."""
    video = folder / "in" / "below" / "walk.mp4"
    args = ("--every", 4, "--frames", "--out-dir", tmp_path)
    infer("classification", folder, video, *args)
    files = sorted((tmp_path / "videos" / "walk.mp4").iterdir())
    assert [file.name for file in files] == ["000000.png", "000004.png", "000008.png"]
    greys = [np.median(np.asarray(Image.open(file))) for file in files]
    assert greys == pytest.approx([30, 110, 190], abs=8)
    record = json.loads((tmp_path / "predictions.json").read_text())["walk.mp4"]
    assert record["fps"] == FPS / 4 and [f["frame"] for f in record["frames"]] == [0, 4, 8]


def test_damaged_videos_are_named_and_the_rest_is_predicted(
    folder: Path, tmp_path: Path, capfd
) -> None:
    complete = write_video(tmp_path / "whole.avi", "MJPG", noise=60).read_bytes()
    (tmp_path / "half.avi").write_bytes(complete[: len(complete) // 2])
    (tmp_path / "page.mp4").write_text("<html>not found</html>")
    (tmp_path / "empty.mov").touch()
    mp4 = (folder / "in" / "below" / "walk.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(mp4[: len(mp4) // 2])  # its index was at the end
    files = [
        tmp_path / name for name in ("whole.avi", "half.avi", "page.mp4", "empty.mov", "cut.mp4")
    ]
    with pytest.raises(SystemExit) as caught:
        infer("classification", folder, *files, "--out-dir", tmp_path / "out")
    assert caught.value.code == 2
    printed = capfd.readouterr().err  # by FFmpeg too
    lines = [line for line in printed.splitlines() if "error" in line.lower() or "moov" in line]
    assert len(lines) == 1, printed
    for name in ("page.mp4", "empty.mov", "cut.mp4"):
        assert f"{tmp_path / name}: cannot be read as a video" in lines[0]
    assert "half.avi: ends after" in lines[0] and f"of {FRAMES} frames" in lines[0]
    records = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(records["whole.avi"]["frames"]) == FRAMES
    assert 0 < len(records["half.avi"]["frames"]) < FRAMES
    assert set(records) == {"whole.avi", "half.avi"}
    assert len(list((tmp_path / "out" / "videos").iterdir())) == 2


@pytest.mark.parametrize("taken", ["predictions.json", "videos/walk.mp4", "images/red.png.png"])
def test_nothing_is_overwritten(folder: Path, tmp_path: Path, capsys, taken: str) -> None:
    (tmp_path / taken).parent.mkdir(exist_ok=True)
    (tmp_path / taken).write_text("mine")
    inputs = (folder / "in" / "below" / "walk.mp4", folder / "in" / "red.png")
    files = (CONFIGS["classification"], folder / "classification.pth")
    line = tool.refusal(capsys, "infer", *files, *inputs, "--out-dir", tmp_path)
    assert f"--out-dir {tmp_path / taken}: exists already" in line
    assert [f.read_text() for f in tmp_path.rglob("*") if f.is_file()] == ["mine"]


def test_files_of_the_same_name_are_told_apart_by_their_folders(folder: Path) -> None:
    (folder / "other").mkdir(exist_ok=True)
    Image.new("RGB", (9, 9)).save(folder / "other" / "red.png")
    files = find_files([folder / "in", folder / "other", folder / "in" / "red.png"])
    assert set(files) == {"in/red.png", "other/red.png", "below/walk.mp4"}


def test_two_results_of_the_same_name_are_refused(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("walk.avi", "walk.avi.mp4")}
    with pytest.raises(InputError, match=r"walk\.avi\.mp4 and walk\.avi would both be written"):
        Output(tmp_path).refuse_existing(files)


def test_folder_without_images_names_the_accepted_suffixes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image .*\.png.* or video .*\.mp4"):
        find_files([tmp_path])


@pytest.mark.parametrize("every", [0, -3])
def test_every_is_checked(folder: Path, tmp_path: Path, capsys, every: int) -> None:
    files = (CONFIGS["classification"], folder / "classification.pth", folder / "in")
    line = tool.refusal(capsys, "infer", *files, "--out-dir", tmp_path, "--every", every)
    assert f"--every {every}" in line


def test_a_folder_that_cannot_be_written_is_named_first(folder: Path, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    files = (CONFIGS["classification"], folder / "classification.pth", folder / "in")
    line = tool.refusal(capsys, "infer", *files, "--out-dir", tmp_path / "file" / "out")
    assert "--out-dir" in line


def test_a_work_dir_stands_for_its_newest_checkpoint(folder: Path, tmp_path, capsys) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "epoch_1.pth").write_bytes((folder / "classification.pth").read_bytes())
    args = (tmp_path / "run", folder / "in" / "red.png", "--out-dir", tmp_path / "out")
    tool.call("infer", CONFIGS["classification"], *args, "--device", "cpu")
    assert "1 image predicted" in capsys.readouterr().out
    assert (tmp_path / "out" / "predictions.json").is_file()
