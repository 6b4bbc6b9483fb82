"""Run a predictor over a user's images and videos and write the results."""

from __future__ import annotations

import io
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.utils import ProgressBar
from PIL import Image

from care_mm.errors import InputError, one_line, refuse_existing
from care_mm.files import prepare_folder, write_bytes
from care_mm.predict.draw import as_rgb, is_drawn_smaller
from care_mm.predict.predictor import Predictor, naming
from care_mm.predict.video import VIDEO_SUFFIXES, Video, writing

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
TABLE = "predictions.json"
PROBLEMS = "problems.txt"
MAX_LISTED = 5  # problems in the message at the end; the file has all of them


def is_video(path: Path) -> bool:
    """Whether the suffix is that of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_files(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Return the images and videos among files and below folders, by a unique name.

    Hidden files, the folders that macOS and Jupyter add, and the results of earlier runs are left
    out of folders. Files of the same name are named with the folders that tell them apart.

    Args:
        inputs: Files of any suffix, and folders that are searched at any depth.

    Raises:
        InputError: An input does not exist, there is no file at all, or two files have the same
            name.
    """
    found: dict[Path, str] = {}
    for item in map(Path, inputs):
        if not item.exists():
            raise InputError(f"{item}: no such file or folder")
        files = _in_folder(item) if item.is_dir() else [item]
        for file in files:
            name = file.relative_to(item).as_posix() if item.is_dir() else file.name
            found.setdefault(file.absolute(), name)
    if not found:
        raise InputError(
            f"no image ({', '.join(IMAGE_SUFFIXES)}) or video ({', '.join(VIDEO_SUFFIXES)}) in "
            f"{', '.join(map(str, inputs))}"
        )
    named: dict[str, Path] = {}
    for path, name in _told_apart(found).items():
        if name in named:
            raise InputError(f"{path} and {named[name]} would both be written as {name}")
        named[name] = path
    return named


def _in_folder(folder: Path) -> list[Path]:
    """Return the images and videos below a folder that the user put there."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES
        and not any(p.startswith(".") or p == "__MACOSX" for p in file.relative_to(folder).parts)
        and file.is_file()
    ]
    results = {file for table in folder.rglob(TABLE) for file in _results(table)}
    return [file for file in files if file not in results and file.parent not in results]


def _results(table: Path) -> Iterator[Path]:
    """Yield the images, videos and folders of frames that were written with a table."""
    try:
        names = list(json.loads(table.read_bytes()))
    except (OSError, ValueError, TypeError):
        return
    for name in filter(lambda name: isinstance(name, str), names):
        yield table.parent / "images" / f"{name}.png"
        yield table.parent / "videos" / name
        yield table.parent / "videos" / f"{name}.mp4"


def _told_apart(found: dict[Path, str]) -> dict[Path, str]:
    """Give files of the same name the part of their path that they do not share."""
    names = dict(found)
    for name, number in Counter(found.values()).items():
        if number > 1:
            same = [path for path, other in found.items() if other == name]
            common = os.path.commonpath(same)
            names.update((path, path.relative_to(common).as_posix()) for path in same)
    return names


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
            InputError: A file that would be written exists, or two results have the same name.
        """
        targets: dict[Path, str] = {}
        for name, path in files.items():
            target = self.target(name, path)
            if target in targets:
                raise InputError(f"{name} and {targets[target]} would both be written as {target}")
            targets[target] = name
        for target in (self.folder / TABLE, self.folder / PROBLEMS, *targets):
            refuse_existing(target, "--out-dir")


@dataclass
class Results:
    """The outcome of :func:`predict_files`.

    Attributes:
        images, frames: Number of images and of frames of videos that were predicted.
        reduced: Number of those that were drawn smaller than they are.
        dark: Number of images with more than 8 bits that were loaded as nearly black.
        problems: One line for each image, frame or video that failed.
    """

    images: int = 0
    frames: int = 0
    reduced: int = 0
    dark: int = 0
    problems: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the lines that tell a user what was done."""
        counts = [(self.images, "image"), (self.frames, "frame")]
        said = [f"{n:,} {noun}{'' if n == 1 else 's'}" for n, noun in counts if n]
        yield f"{' and '.join(said) or '0 images'} predicted"
        if self.reduced:
            yield (
                f"{self.reduced:,} of them were drawn smaller than they are, because that many "
                "pixels take minutes to draw; predictions.json has the full size"
            )
        if self.dark:
            yield (
                f"{self.dark:,} images have 16 bits of which few are used, and the pipeline loads "
                "them as nearly black: docs/data.md has a step that scales them"
            )

    def refuse_problems(self, folder: Path) -> None:
        """Report the problems, if there are any.

        Raises:
            InputError: With the first of them.
        """
        if self.problems:
            more = len(self.problems) - MAX_LISTED
            listed = [*self.problems[:MAX_LISTED], *([f"and {more:,} more"] if more > 0 else [])]
            raise InputError(f"{'; '.join(listed)} (all: {folder / PROBLEMS})")


def predict_files(predictor: Predictor, files: dict[str, Path], output: Output) -> Results:
    """Write an image or video for each file, and ``predictions.json`` with all records.

    The record of a video has ``fps`` and ``frames``; ``frame`` is the index in the file, from 0.
    Whatever fails is listed, also in ``problems.txt``, and costs only itself. The records are
    written in any case, also if the run is interrupted.

    Args:
        predictor: The model.
        files: From :func:`find_files`.
        output: The place and form of the results.

    Raises:
        InputError: A file would be overwritten, or the disk is full.
    """
    output.refuse_existing(files)
    prepare_folder(output.folder, "--out-dir")
    results, records = Results(), {}
    images: dict[str, Path] = {}
    videos: dict[str, Video] = {}
    for name, path in files.items():
        if not is_video(path):
            images[name] = path
            continue
        try:
            videos[name] = Video(path, output.every)
        except Exception as error:
            reason = f"video {path}: cannot be opened ({one_line(error)})"
            results.problems.append(str(error) if isinstance(error, InputError) else reason)
    progress = _Progress(len(images) + sum(video.length for video in videos.values()))
    try:
        for name, path in images.items():
            _image(predictor, name, path, output, records, results)
            progress.step()
        for name, video in videos.items():
            _video(predictor, name, video, output, records, results, progress)
    finally:
        progress.end()
        table = json.dumps(records, indent=1).encode()
        write_bytes(table, output.folder / TABLE, overwrite=False)
        if results.problems:
            text = "".join(f"{problem}\n" for problem in results.problems)
            write_bytes(text.encode(errors="replace"), output.folder / PROBLEMS, overwrite=False)
    return results


def _image(
    predictor: Predictor,
    name: str,
    path: Path,
    output: Output,
    records: dict[str, Any],
    results: Results,
) -> None:
    """Predict on an image, and write the result."""
    try:
        loaded = predictor.read(path)
        sample = predictor(loaded)
        with naming(path, "cannot be recorded"):
            records[name] = predictor.record(sample)
        results.images += 1
        results.dark += is_dark(loaded["img"], path)
        drawn = predictor.draw(loaded, sample, output.score_thr)
    except InputError as error:
        results.problems.append(str(error))
        return
    results.reduced += is_drawn_smaller(loaded["img"])
    write_png(drawn, output.target(name, path))


def _video(
    predictor: Predictor,
    name: str,
    video: Video,
    output: Output,
    records: dict[str, Any],
    results: Results,
    progress: _Progress,
) -> None:
    """Predict on the frames of a video, and write the result."""
    frames: list[dict[str, Any]] = []
    records[name] = {"fps": round(video.fps, 3), "frames": frames}
    target = output.target(name, video.path)
    drawn = _draw_frames(predictor, video, output, frames, results)
    if output.as_frames:
        for number, image in drawn:
            write_png(image, target / f"{number:06d}.png")
            progress.step()
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target, video.fps) as writer:
        for _, image in drawn:
            writer.add(image)
            progress.step()


def _draw_frames(
    predictor: Predictor,
    video: Video,
    output: Output,
    frames: list[dict[str, Any]],
    results: Results,
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the frames of a video with predictions, or without where these fail.

    Append the records to ``frames``, and the reason for a failure or an early end to the problems.
    """
    try:
        for number, frame in video:
            image = as_rgb(frame)
            try:
                place = f"{video.path}, frame {number}"
                loaded = predictor.read_frame(frame, place)
                sample = predictor(loaded)
                with naming(place, "cannot be recorded"):
                    frames.append({"frame": number, **predictor.record(sample)})
                results.frames += 1
                image = predictor.draw(loaded, sample, output.score_thr)
                results.reduced += is_drawn_smaller(frame)
            except InputError as error:
                results.problems.append(str(error))
            yield number, image
    except InputError as error:
        results.problems.append(str(error))


def is_dark(image: np.ndarray, path: Path) -> bool:
    """Whether an image was loaded as nearly black because its file uses few of its 16 bits.

    Args:
        image: As the pipeline loads it, with 8 bits for a file of 16.
        path: Its file.
    """
    if image.dtype == np.uint16 or float(image.max(initial=0)) > 31:
        return False
    deep = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return deep is not None and deep.dtype == np.uint16 and 255 < deep.max() < 1 << 13


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
        self._bar = ProgressBar(total, file=sys.stderr) if sys.stderr.isatty() else None

    def step(self) -> None:
        if self._bar is not None:
            self._bar.update()

    def end(self) -> None:
        if self._bar is not None:
            sys.stderr.write("\n")
