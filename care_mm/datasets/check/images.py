"""Opening pictures as training would, to see whether it could; used by the checks of data sets."""

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

MISSING = Kind(
    "image is missing", "images are missing", "get it, or take its entry out of the annotations"
)
UNREADABLE = Kind(
    "picture cannot be read", "pictures cannot be read", "get it again, or take it out"
)
OTHER_SIZE = Kind(
    "picture is not of the size in its annotations",
    "pictures are not of the size in their annotations",
    "width and height are those of the picture as it is loaded, turned by its EXIF data",
)
TURNED = note(
    "picture is turned by its EXIF data",
    "pictures are turned by their EXIF data",
    "they are loaded so, and labels have to fit the turned picture",
)
_MODES = {
    "L": note("picture is grayscale", "pictures are grayscale", "loaded as RGB"),
    "P": note("picture has a palette", "pictures have a palette", "loaded as RGB"),
    "A": note("picture has alpha", "pictures have alpha", "loaded without it"),
    "CMYK": note("picture is CMYK", "pictures are CMYK", "loaded as RGB"),
    "DEEP": note(
        "picture has more than 8 bits", "pictures have more than 8 bits", "loaded with 8 of them"
    ),
    "1": note("picture is black and white", "pictures are black and white", "loaded as RGB"),
}
_MODE_OF = {"LA": "A", "RGBA": "A", "PA": "A", "I": "DEEP", "F": "DEEP"} | {
    f"I;16{order}": "DEEP" for order in ("", "B", "L", "N")
}
# Both Pillow and OpenCV read these, whatever either was built with; of others OpenCV is asked.
_COMMON_FORMATS = {"JPEG", "MPO", "PNG", "BMP", "WEBP", "TIFF", "PPM"}
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright, 5 to 8 swap the sides


@dataclass(frozen=True)
class Picture:
    """A picture as it came out of its file.

    Attributes:
        size: Width and height as loaded.
        mode: Pillow's mode.
        turned: Whether EXIF turned or mirrored it.
        pixels: (H, W) or (H, W, C), only where it was asked for.
        error: Why it cannot be read; all else is meaningless then.
    """

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    turned: bool = False
    pixels: np.ndarray | None = None
    error: str = ""


def open_picture(path: str | Path, orient: bool = True, keep: bool = False) -> Picture:
    """Decode a file wholly; does not raise.

    Args:
        path: The file.
        orient: Whether EXIF turns the picture, as it does in OpenCV's colour mode.
        keep: Whether to hand the pixels over, which are never turned.
    """
    try:
        with Image.open(path) as image:
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1) if orient else 1
            if image.format not in _COMMON_FORMATS and not cv2.haveImageReader(str(path)):
                return Picture(error=f"{path} ({image.format}, which OpenCV does not read)")
            size = image.size[::-1] if orientation in (5, 6, 7, 8) else image.size
            pixels = np.asarray(image) if keep else None
            return Picture(size, image.mode, orientation in range(2, 9), pixels)
    except Exception as error:  # Pillow's plugins raise what they like on broken files
        return Picture(error=f"{path} ({_reason(path, error)})")


def _reason(path: str | Path, error: Exception) -> str:
    """Why a file could not be read, from what is in it where that says more."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError as cause:
        return cause.strerror or str(cause)
    if not start:
        return "an empty file"
    if start.lstrip()[:1] in (b"<", b"{"):
        return "a text file, an error page perhaps"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS, not the file"
    return str(error).split(" at 0x")[0].replace(f" {str(path)!r}", "") or type(error).__name__


def open_pictures(paths: Iterable[str | Path], orient: bool = True) -> Iterator[Picture]:
    """:func:`open_picture` of each, in order, several at a time."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda path: open_picture(path, orient), paths)


def sample(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """At most ``limit`` items, evenly spaced, the first and the last among them."""
    if limit is None or len(items) <= limit:
        return items
    indices = np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))
    return [items[i] for i in indices]


def is_turned_by_exif(settings: Mapping) -> bool:
    """Whether the pipeline of a dataset's config loads pictures as EXIF turns them."""
    for step in settings.get("pipeline") or ():
        if isinstance(step, Mapping) and step.get("type") == "LoadImageFromFile":
            color = step.get("color_type", "color")
            return color != "unchanged" and not color.endswith("ignore_orientation")
    return True


def check_pictures(
    paths: Sequence[str],
    findings: Findings,
    orient: bool = True,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[Picture]:
    """Decode pictures, and say which cannot be, which differ in size, and which are peculiar.

    Args:
        paths: The files.
        findings: Added to.
        orient: As in :func:`open_picture`.
        sizes: Width and height that each has by its annotations.

    Returns:
        What was opened, in order.
    """
    pictures = list(open_pictures(paths, orient))
    for index, picture in enumerate(pictures):
        path = paths[index]
        if picture.error:
            findings.add(UNREADABLE, picture.error)
            continue
        if sizes is not None and picture.size != tuple(sizes[index]):
            findings.add(
                OTHER_SIZE, f"{path} ({_by(picture.size)}, by its annotations {_by(sizes[index])})"
            )
        if picture.turned:
            findings.add(TURNED, str(path))
        kind = _MODES.get(_MODE_OF.get(picture.mode, picture.mode))
        if kind is not None:
            findings.add(kind, str(path))
    return pictures


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def are_there(paths: Sequence[str]) -> list[bool]:
    """Whether each file is there, by listing folders: one question for each folder, not file."""
    folders: dict[str, set[str]] = {}
    there = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = (
                set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
            )
        there.append(name in folders[folder])
    return there


def files_below(folder: str | Path) -> list[str]:
    """Files below a folder as MM's data sets find them: relative, sorted, hidden ones left out."""
    found = []
    for root, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(root, folder)
        prefix = "" if below == "." else below + os.sep
        found += [prefix + name for name in names if not name.startswith(".")]
    return sorted(found)
