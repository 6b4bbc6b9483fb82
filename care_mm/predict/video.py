"""Frames out of a video file and into one, by OpenCV's FFmpeg."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from care_mm.errors import InputError
from care_mm.files import PARTIAL

# What FFmpeg prints about a damaged file is said in one line of ours. It looks at this when the
# first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


class Video:
    """A video file that can be read.

    Args:
        path: The file.
        every: Take each ``every``-th frame, beginning with the first.

    Attributes:
        fps: Frames a second of what is taken.
        length: How many frames will be taken, by the file's header; 0 if that does not say.

    Raises:
        InputError: The file cannot be opened as a video, or holds no picture.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        self.path, self.every = Path(path), every
        capture = self._open()
        readable = capture.isOpened() and capture.grab()
        self._announced = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0) if readable else 0
        rate = capture.get(cv2.CAP_PROP_FPS) if readable else 0
        capture.release()
        if not readable:
            raise InputError(f"video {path}: cannot be read as a video")
        self.fps = (rate if rate > 0 else 25.0) / every  # some streams do not say
        self.length = -(-self._announced // every)

    def _open(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(str(self.path))

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """The number of each frame in the file, from 0, and the frame, (H, W, 3) uint8 BGR.

        Raises:
            InputError: After the last frame that can be read, when the file should have more.
        """
        capture = self._open()
        number = 0
        try:
            while capture.grab():
                if number % self.every == 0:
                    readable, frame = capture.retrieve()
                    if not readable:
                        break
                    yield number, frame
                number += 1
        finally:
            capture.release()
        # Headers round, and variable rates are estimates: a tenth is no rounding.
        if number < 0.9 * self._announced:
            raise InputError(
                f"video {self.path}: ends after {number} of {self._announced} frames: it is "
                "damaged or was not copied whole"
            )


class Writer:
    """Takes frames for a video file, see :func:`writing`."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 RGB frame; all of them have the size of the first.

        Raises:
            InputError: The file cannot be written.
        """
        if self._writer is None:
            size = (frame.shape[1], frame.shape[0])
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), code, self._fps, size)
            if not self._writer.isOpened():
                raise InputError(f"{self._path.parent}: no video can be written there")
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file, if there was a frame."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def writing(path: Path, fps: float) -> Iterator[Writer]:
    """A new ``.mp4`` file (MPEG-4), which gets its name when the context ends without an error.

    Raises:
        InputError: The name is taken.
    """
    if path.exists():
        raise InputError(f"{path} exists: choose another --out-dir")
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{PARTIAL}.mp4")
    writer = Writer(temporary, fps)
    try:
        try:
            yield writer
        finally:
            writer.close()
        if temporary.exists():
            temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
