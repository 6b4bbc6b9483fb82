"""Run a predictor over a user's images and videos and write the results."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.utils import ProgressBar
from PIL import Image

from care_mm.errors import InputError, refuse_existing
from care_mm.files import write_bytes
from care_mm.predict.predictor import Predictor
from care_mm.predict.video import VIDEO_SUFFIXES, Video, writing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TABLE = "predictions.json"


def is_video(path: Path) -> bool:
    """Whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_files(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Return the images and videos among files and below folders, by a unique name.

    Args:
        inputs: Files of any suffix, and folders that are searched at any depth.

    Raises:
        InputError: An input does not exist, there is no file at all, or two files have the same
            name.
    """
    files: dict[str, Path] = {}
    for item in map(Path, inputs):
        if not item.exists():
            raise InputError(f"{item}: no such file or folder")
        for file in sorted(item.rglob("*")) if item.is_dir() else [item]:
            known = file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
            if item.is_dir() and not (known and file.is_file()):
                continue
            name = str(file.relative_to(item)) if item.is_dir() else file.name
            if name in files:
                raise InputError(f"{file} and {files[name]} would both be written as {name}")
            files[name] = file
    if not files:
        raise InputError(
            f"no image ({', '.join(IMAGE_SUFFIXES)}) or video ({', '.join(VIDEO_SUFFIXES)}) in "
            f"{', '.join(map(str, inputs))}"
        )
    return files


@dataclass(frozen=True)
class Output:
    """The place and form of the results.

    Attributes:
        folder: Created if missing; existing files in it are never overwritten.
        score_thr: Detections below this score are left out of the images, not of the JSON file.
        every: Predict on every ``every``-th frame of a video.
        as_frames: Write the frames of a video as images, not as a video.
    """

    folder: Path
    score_thr: float = 0.3
    every: int = 1
    as_frames: bool = False

    def target(self, name: str, path: Path) -> Path:
        """Return the image, the video, or the folder of frames that an input is written to."""
        if not is_video(path):
            return self.folder / "images" / f"{name}.png"
        keep_name = self.as_frames or path.suffix.lower() == ".mp4"
        return self.folder / "videos" / (name if keep_name else f"{name}.mp4")

    def refuse_existing(self, files: dict[str, Path]) -> None:
        """Refuse to overwrite results, before anything is computed.

        Raises:
            InputError: A file that would be written exists.
        """
        for target in (self.folder / TABLE, *(self.target(*item) for item in files.items())):
            refuse_existing(target, "--out-dir")


def predict_files(
    predictor: Predictor, files: dict[str, Path], output: Output
) -> tuple[int, list[str]]:
    """Write an image or video for each file, and ``predictions.json`` with all records.

    The record of a video has ``fps`` and ``frames``; ``frame`` is the index in the file, from 0.

    Args:
        predictor: The model.
        files: From :func:`find_files`.
        output: The place and form of the results.

    Returns:
        The number of images and frames predicted, and one line for each file that could not be
        read completely.

    Raises:
        InputError: A file would be overwritten, or the disk is full.
    """
    output.refuse_existing(files)
    images: dict[str, Path] = {}
    videos: dict[str, Video] = {}
    records: dict[str, Any] = {}
    problems: list[str] = []
    for name, path in files.items():
        if not is_video(path):
            images[name] = path
            continue
        try:
            videos[name] = Video(path, output.every)
        except InputError as error:
            problems.append(str(error))
    progress = _Progress(len(images) + sum(video.length for video in videos.values()))
    for name, path in images.items():
        try:
            loaded = predictor.read(path)
            sample = predictor(loaded)
        except InputError as error:
            problems.append(str(error))
            continue
        write_png(predictor.draw(loaded, sample, output.score_thr), output.target(name, path))
        records[name] = predictor.record(sample)
        progress.step()
    for name, video in videos.items():
        frames: list[dict[str, Any]] = []
        drawn = progress.over(_draw_frames(predictor, video, output, frames, problems))
        target = output.target(name, video.path)
        if output.as_frames:
            for image in drawn:
                write_png(image, target / f"{frames[-1]['frame']:06d}.png")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with writing(target, video.fps) as writer:
                for image in drawn:
                    writer.add(image)
        records[name] = {"fps": round(video.fps, 3), "frames": frames}
    progress.end()
    output.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(json.dumps(records, indent=1).encode(), output.folder / TABLE, overwrite=False)
    return progress.done, problems


def _draw_frames(
    predictor: Predictor,
    video: Video,
    output: Output,
    frames: list[dict[str, Any]],
    problems: list[str],
) -> Iterator[np.ndarray]:
    """Yield the frames of a video with predictions.

    Append their records to ``frames``, and the reason for an early end to ``problems``.
    """
    try:
        for number, frame in video:
            loaded = predictor.read_frame(frame, f"{video.path}, frame {number}")
            sample = predictor(loaded)
            frames.append({"frame": number, **predictor.record(sample)})
            yield predictor.draw(loaded, sample, output.score_thr)
    except InputError as error:
        problems.append(str(error))


def write_png(image: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) uint8 RGB image atomically; create its folder if missing.

    Raises:
        InputError: The file exists or cannot be written.
    """
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(buffer.getvalue(), path, overwrite=False)


class _Progress:
    """A progress bar on a terminal, nothing in a log."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self._bar = ProgressBar(total, file=sys.stderr) if sys.stderr.isatty() else None

    def step(self) -> None:
        self.done += 1
        if self._bar is not None:
            self._bar.update()

    def over(self, items: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the items; each counts as done when the next one is requested."""
        for item in items:
            yield item
            self.step()

    def end(self) -> None:
        if self._bar is not None:
            sys.stderr.write("\n")
