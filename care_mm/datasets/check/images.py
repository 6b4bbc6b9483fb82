"""Decode images as training would, and report those that cannot be used."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from PIL import Image

from care_mm.datasets.check.findings import Findings, Kind, note

Item = TypeVar("Item")

MISSING = Kind("missing image", "get it, or remove its entry from the annotations")
UNREADABLE = Kind("unreadable image", "get it again, or remove it")
OTHER_SIZE = Kind(
    "image of another size than annotated",
    "width and height must be those of the image as loaded, rotated by its EXIF data",
)
ROTATED = note(
    "image rotated by its EXIF data", "it is loaded rotated, so labels must fit the rotated image"
)
GRAYSCALE = note("grayscale image", "loaded as RGB")
_MODES = {
    "L": GRAYSCALE,
    "P": note("image with a palette", "loaded as RGB"),
    "A": note("image with alpha", "loaded without it"),
    "CMYK": note("CMYK image", "loaded as RGB"),
    "DEEP": note("image with more than 8 bits", "loaded with 8 bits"),
    "1": note("black-and-white image", "loaded as RGB"),
}
_MODE_OF = {"LA": "A", "RGBA": "A", "PA": "A", "I": "DEEP", "F": "DEEP"} | {
    f"I;16{order}": "DEEP" for order in ("", "B", "L", "N")
}
# Every build of Pillow and OpenCV reads these; for other formats OpenCV is asked.
_COMMON_FORMATS = {"JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "PPM"}
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 5 to 8 swap the sides


@dataclass(frozen=True)
class DecodedImage:
    """The result of decoding an image file.

    Attributes:
        size: Width and height as loaded.
        mode: Pillow's mode.
        rotated: Whether the EXIF data rotated or mirrored the image.
        pixels: (H, W) or (H, W, C), if requested.
        error: The file and why it cannot be read; the other attributes are meaningless then.
    """

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    rotated: bool = False
    pixels: np.ndarray | None = None
    error: str = ""


def decode(path: str | Path, orient: bool = True, keep: bool = False) -> DecodedImage:
    """Decode a file completely, and never raise.

    Args:
        path: The file.
        orient: Whether the EXIF data rotate the image, as in OpenCV's colour mode.
        keep: Whether to return the pixels, which are never rotated.
    """
    try:
        with Image.open(path) as image:
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1) if orient else 1
            if image.format not in _COMMON_FORMATS and not cv2.haveImageReader(str(path)):
                return DecodedImage(error=f"{path}: {image.format}, which OpenCV does not read")
            size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
            pixels = np.asarray(image) if keep else None
            return DecodedImage(size, image.mode, orientation in range(2, 9), pixels)
    except Exception as error:  # Pillow's plugins raise many types for broken files
        return DecodedImage(error=f"{path}: {_reason(path, error)}")


def _reason(path: str | Path, error: Exception) -> str:
    """Explain why a file cannot be read, by its content where that says more than the error."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as cause:
        return cause.strerror or str(cause)
    if not start:
        return "an empty file"
    if start.lstrip()[:1] in (b"<", b"{"):
        return "a text file, perhaps an error page"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file"
    return str(error).split(" at 0x")[0].replace(f" {str(path)!r}", "") or type(error).__name__


def decode_all(paths: Iterable[str | Path], orient: bool = True) -> Iterator[DecodedImage]:
    """Decode files in parallel, and yield the results in order."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda path: decode(path, orient), paths)


def sample(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """Return at most ``limit`` items, evenly spaced, including the first and the last."""
    if limit is None or len(items) <= limit:
        return items
    indices = np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))
    return [items[i] for i in indices]


def applies_exif(settings: Mapping) -> bool:
    """Whether the pipeline of a data set's config rotates images by their EXIF data."""
    for step in settings.get("pipeline") or ():
        if isinstance(step, Mapping) and step.get("type") == "LoadImageFromFile":
            color = step.get("color_type", "color")
            return color != "unchanged" and not color.endswith("ignore_orientation")
    return True


def check_images(
    paths: Sequence[str],
    findings: Findings,
    orient: bool = True,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[DecodedImage]:
    """Decode images, and report those that are unreadable, of another size, or not plain RGB.

    Args:
        paths: The files.
        findings: Receives the problems and notes.
        orient: As in :func:`decode`.
        sizes: Annotated width and height of each image.

    Returns:
        The decoded images, in order.
    """
    images = list(decode_all(paths, orient))
    for index, image in enumerate(images):
        path = str(paths[index])
        if image.error:
            findings.add(UNREADABLE, image.error)
            continue
        if sizes is not None and image.size != tuple(sizes[index]):
            actual, annotated = (f"{w} x {h}" for w, h in (image.size, sizes[index]))
            findings.add(OTHER_SIZE, f"{path}: {actual}, annotated as {annotated}")
        if image.rotated:
            findings.add(ROTATED, path)
        kind = _MODES.get(_MODE_OF.get(image.mode, image.mode))
        if kind is not None:
            findings.add(kind, path)
    return images


def missing_files(paths: Iterable[str]) -> set[str]:
    """Return the paths that do not exist; each folder is listed once, which is fast on networks."""
    folders: dict[str, set[str]] = {}
    missing = set()
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            is_folder = os.path.isdir(folder or ".")
            folders[folder] = set(os.listdir(folder or ".")) if is_folder else set()
        if name not in folders[folder]:
            missing.add(path)
    return missing


def files_below(folder: str | Path) -> list[str]:
    """List files below a folder like MM's data sets: relative, sorted, without hidden files."""
    files = []
    for root, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(root, folder)
        prefix = "" if below == "." else below + os.sep
        files += [prefix + name for name in names if not name.startswith(".")]
    return sorted(files)
