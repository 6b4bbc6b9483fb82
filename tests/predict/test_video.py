"""Videos: every N-th frame, headers that say nothing, and files that end early."""

from __future__ import annotations

from pathlib import Path

import mmcv
import numpy as np
import pytest
from predict.conftest import FPS, FRAMES, write_video

from care_mm.errors import InputError
from care_mm.predict.video import Video, writing


def greys(video: Video) -> dict[int, float]:
    return {number: float(np.median(frame)) for number, frame in video}


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    ("suffix", "code", "fps"),
    [("mp4", "mp4v", FPS), ("avi", "MJPG", FPS), ("mpg", "PIM1", 25.0), ("webm", "VP80", 25.0)],
)
def test_frames_come_once_and_in_order(
    tmp_path: Path, suffix: str, code: str, fps: float, every: int
) -> None:
    video = Video(write_video(tmp_path / f"video.{suffix}", code, fps=fps), every)
    numbers = list(range(0, FRAMES, every))
    for _ in range(2):  # a video can be read again
        read = greys(video)
        assert list(read) == numbers
        assert list(read.values()) == pytest.approx([20 * n + 30 for n in numbers], abs=8)
    assert video.fps == fps / every


def test_length_is_the_number_of_frames_that_are_read(tmp_path: Path) -> None:
    file = write_video(tmp_path / "video.mp4")
    assert [Video(file, every).length for every in (1, 2, 4, 9, 10)] == [9, 5, 3, 1, 1]


def test_header_without_rate_or_length_is_read_at_25_frames_per_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_video(tmp_path / "video.avi", "MJPG")
    monkeypatch.setattr(mmcv.VideoReader, "fps", 0.0)
    monkeypatch.setattr(mmcv.VideoReader, "frame_cnt", -1)
    video = Video(file, 5)
    assert video.fps == 5 and video.length == 0 and list(greys(video)) == [0, 5]


def test_video_that_ends_early_is_named_after_its_last_frame(tmp_path: Path) -> None:
    complete = write_video(tmp_path / "video.avi", "MJPG", noise=60).read_bytes()
    (tmp_path / "half.avi").write_bytes(complete[: len(complete) // 2])
    numbers = []
    with pytest.raises(InputError, match=rf"half\.avi: ends after \d of {FRAMES} frames"):
        for number, _ in Video(tmp_path / "half.avi"):
            numbers.append(number)
    assert 0 < len(numbers) < FRAMES


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_file_that_is_no_video_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "page.mp4").write_bytes(content)
    with pytest.raises(InputError, match=r"page\.mp4: cannot be read as a video"):
        Video(tmp_path / "page.mp4")


def test_written_video_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    frame = np.full((64, 96, 3), 120, np.uint8)
    with pytest.raises(RuntimeError), writing(tmp_path / "video.mp4", FPS) as writer:
        writer.add(frame)
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    with writing(tmp_path / "video.mp4", FPS) as writer:
        writer.add(frame)
        assert not (tmp_path / "video.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]
    with pytest.raises(InputError, match="exists already"), writing(tmp_path / "video.mp4", FPS):
        pass
