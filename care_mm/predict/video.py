"""Read and write video files with mmcv and OpenCV."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Silence FFmpeg: we report damaged files ourselves. Must be set before the first video is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2
import mmcv
import numpy as np

from care_mm.errors import InputError, refuse_existing
from care_mm.files import PARTIAL

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
DEFAULT_FPS = 25.0  # for streams that do not state their rate


class Video:
    """A readable video file.

    Args:
        path: The file.
        every: Read every ``every``-th frame, starting with the first.

    Attributes:
        fps: Rate of the frames that are read, in frames per second.
        length: Number of frames that will be read, according to the file's header; 0 if the header
            does not state it.

    Raises:
        InputError: The file cannot be opened as a video or has no frame.
    """

    def __init__(self, path: str | Path, every: int = 1) -> None:
        self.path, self.every = Path(path), every
        with mmcv.VideoReader(str(path)) as reader:
            if reader.read() is None:
                raise InputError(f"video {path}: cannot be read as a video")
            self._announced = max(reader.frame_cnt, 0)
            self.fps = (reader.fps if reader.fps > 0 else DEFAULT_FPS) / every
        self.length = -(-self._announced // every)

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the index of each frame in the file, from 0, and the frame, (H, W, 3) uint8 BGR.

        Raises:
            InputError: The file announces more frames than can be read; raised after the last one.
        """
        number = 0
        # Read one by one: iterating over the reader starts with a seek, which is not exact in
        # every format.
        with mmcv.VideoReader(str(self.path), cache_capacity=1) as reader:
            while (frame := reader.read()) is not None:
                if number % self.every == 0:
                    yield number, frame
                number += 1
        # Headers round, and variable rates are estimates, but never by a tenth.
        if number < 0.9 * self._announced:
            raise InputError(
                f"video {self.path}: ends after {number} of {self._announced} frames: the file is "
                "damaged or incomplete"
            )


class Writer:
    """A video file that frames are appended to; see :func:`writing`."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append an (H, W, 3) uint8 RGB frame; it is resized to the size of the first one.

        Raises:
            InputError: The file cannot be written.
        """
        if self._writer is None:
            self._size = size = (frame.shape[1], frame.shape[0])
            code = cv2.VideoWriter_fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._path), code, self._fps, size)
            if not self._writer.isOpened():
                raise InputError(f"{self._path.parent}: no video can be written in this folder")
        if frame.shape[1::-1] != self._size:  # OpenCV would drop it without a word
            frame = cv2.resize(frame, self._size)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file, if any frame was added."""
        if self._writer is not None:
            self._writer.release()


@contextmanager
def writing(path: Path, fps: float) -> Iterator[Writer]:
    """Write a new ``.mp4`` file (MPEG-4) that appears when the context ends without an error.

    Raises:
        InputError: The file exists.
    """
    refuse_existing(path, "--out-dir")
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
