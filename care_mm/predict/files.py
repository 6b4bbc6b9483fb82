"""The files of a user, predicted on one after the other, and what is written of it."""

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

from care_mm.errors import InputError
from care_mm.files import write_bytes
from care_mm.predict.predictor import Predictor
from care_mm.predict.video import VIDEO_SUFFIXES, Video, writing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
TABLE = "predictions.json"


def is_video(path: Path) -> bool:
    """By the end of its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_files(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Images and videos among ``inputs`` and below its folders, by a name unique in the result.

    Raises:
        InputError: An input that does not exist, no file at all, or two of one name.
    """
    found: dict[str, Path] = {}
    for item in map(Path, inputs):
        if not item.exists():
            raise InputError(f"{item}: no such file or folder")
        files = sorted(item.rglob("*")) if item.is_dir() else [item]
        for file in files:
            known = file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
            if item.is_dir() and not (known and file.is_file()):
                continue
            name = str(file.relative_to(item)) if item.is_dir() else file.name
            if name in found:
                raise InputError(f"{file} and {found[name]} would both be written as {name}")
            found[name] = file
    if not found:
        raise InputError(
            f"no image ({', '.join(IMAGE_SUFFIXES)}) or video ({', '.join(VIDEO_SUFFIXES)}) in "
            f"{', '.join(map(str, inputs))}"
        )
    return found


@dataclass(frozen=True)
class Output:
    """Where and how predictions are written.

    Attributes:
        folder: Made if it is not there. Nothing in it is written over.
        score_thr: Detections below it are left out of the pictures, not of the JSON.
        every: Predict on each ``every``-th frame of a video.
        as_frames: Write the frames of a video as pictures, not as a video.
    """

    folder: Path
    score_thr: float = 0.3
    every: int = 1
    as_frames: bool = False

    def target(self, name: str, path: Path) -> Path:
        """The picture, the video, or the folder of frames for an input."""
        if not is_video(path):
            return self.folder / "pictures" / f"{name}.png"
        as_it_is = self.as_frames or path.suffix.lower() == ".mp4"
        return self.folder / "videos" / (name if as_it_is else f"{name}.mp4")

    def refuse_existing(self, files: dict[str, Path]) -> None:
        """Look before anything is computed.

        Raises:
            InputError: A file that would be written is there.
        """
        targets = [self.target(name, path) for name, path in files.items()]
        for target in [self.folder / TABLE, *targets]:
            if target.exists():
                raise InputError(f"{target} exists: choose another --out-dir")


def predict_files(
    predictor: Predictor, files: dict[str, Path], output: Output
) -> tuple[int, list[str]]:
    """Write a picture or video for each file, and ``predictions.json`` with all records.

    The record of a video is ``fps`` and ``frames``, whose ``frame`` counts the frames of the file
    from 0.

    Args:
        predictor: The model.
        files: From :func:`find_files`.
        output: Where to.

    Returns:
        How many images and frames were predicted, and one line for each file that could not be
        read, or not to its end.

    Raises:
        InputError: A file is there that would be written over, or the disk is full.
    """
    output.refuse_existing(files)
    videos: dict[str, Video] = {}
    records: dict[str, Any] = {}
    problems: list[str] = []
    for name, path in files.items():
        if is_video(path):
            try:
                videos[name] = Video(path, output.every)
            except InputError as error:
                problems.append(str(error))
    images = {name: path for name, path in files.items() if not is_video(path)}
    progress = _Progress(len(images) + sum(video.length for video in videos.values()))
    for name, path in images.items():
        try:
            loaded = predictor.read(path)
            sample = predictor(loaded)
        except InputError as error:
            problems.append(str(error))
            continue
        picture = predictor.picture(loaded, sample, output.score_thr)
        write_png(picture, output.target(name, path))
        records[name] = predictor.record(sample)
        progress.step()
    for name, video in videos.items():
        frames: list[dict[str, Any]] = []
        pictures = _predicted(predictor, video, output, frames, problems)
        target = output.target(name, video.path)
        if output.as_frames:
            for picture in progress.over(pictures):
                write_png(picture, target / f"{frames[-1]['frame']:06d}.png")
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            with writing(target, video.fps) as writer:
                for picture in progress.over(pictures):
                    writer.add(picture)
        records[name] = {"fps": round(video.fps, 3), "frames": frames}
    progress.end()
    output.folder.mkdir(parents=True, exist_ok=True)
    write_bytes(json.dumps(records, indent=1).encode(), output.folder / TABLE, overwrite=False)
    return progress.done, problems


def _predicted(
    predictor: Predictor,
    video: Video,
    output: Output,
    frames: list[dict[str, Any]],
    problems: list[str],
) -> Iterator[np.ndarray]:
    """The pictures of a video's frames; their records go to ``frames``, and what ends it early to
    ``problems``.
    """
    try:
        for number, frame in video:
            loaded = predictor.read_frame(frame, f"{video.path}, frame {number}")
            sample = predictor(loaded)
            frames.append({"frame": number, **predictor.record(sample)})
            yield predictor.picture(loaded, sample, output.score_thr)
    except InputError as error:
        problems.append(str(error))


def write_png(picture: np.ndarray, path: Path) -> None:
    """Write an (H, W, 3) uint8 RGB picture whole, in a folder that is made if it is not there.

    Raises:
        InputError: The file exists, or cannot be written.
    """
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(buffer.getvalue(), path, overwrite=False)


class _Progress:
    """A bar on a terminal, nothing in a log."""

    def __init__(self, total: int) -> None:
        self.done = 0
        self._bar = ProgressBar(total, file=sys.stderr) if sys.stderr.isatty() else None

    def step(self) -> None:
        self.done += 1
        if self._bar is not None:
            self._bar.update()

    def over(self, items: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The items; each counts when the next one is asked for."""
        for item in items:
            yield item
            self.step()

    def end(self) -> None:
        if self._bar is not None:
            sys.stderr.write("\n")
