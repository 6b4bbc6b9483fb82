"""Decode images as training would, and report those that cannot be used."""

from __future__ import annotations

import io
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import cv2
import mmcv
import numpy as np
from PIL import Image

from care_mm.config import type_name
from care_mm.datasets.check.findings import Findings, Kind, note
from care_mm.datasets.truncation import refuse_truncated

Item = TypeVar("Item")

MISSING = Kind("missing image", "get it, or remove its entry from the annotations")
MISNAMED = Kind(
    "missing image whose name exists elsewhere",
    "correct file_name in the annotations, or data_prefix in the config",
)
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
DARK = note(
    "16-bit image with small values",
    "loading divides by 256, which leaves it nearly black: docs/data.md shows how to scale it",
)
_MODE_OF = {"LA": "A", "RGBA": "A", "PA": "A", "I": "DEEP", "F": "DEEP"} | {
    f"I;16{order}": "DEEP" for order in ("", "B", "L", "N")
}
_ORIENTATION = 0x0112  # EXIF tag: 1 is upright
_DARK_BITS = 12  # 16-bit values up to this size become 0 to 15 of 255


@dataclass(frozen=True)
class Loader:
    """The arguments with which a pipeline calls ``mmcv.imfrombytes``.

    Attributes:
        flag: The colour type, such as ``'color'``, or OpenCV's number for it.
        backend: The decoder, such as ``'cv2'``.
    """

    flag: str | int = "color"
    backend: str = "cv2"

    @property
    def orients(self) -> bool:
        """Whether the EXIF data rotate the image."""
        if isinstance(self.flag, int):
            return self.flag >= 0 and not self.flag & cv2.IMREAD_IGNORE_ORIENTATION
        return self.flag != "unchanged" and not self.flag.endswith("ignore_orientation")


@dataclass(frozen=True)
class DecodedImage:
    """The result of decoding an image file.

    Attributes:
        size: Width and height as loaded.
        mode: Pillow's mode.
        rotated: Whether the EXIF data rotated or mirrored the image.
        pixels: (H, W) or (H, W, C), if requested.
        dark: Whether it has 16 bits and small values.
        error: The file and why it cannot be read; the other attributes are meaningless then.
    """

    size: tuple[int, int] = (0, 0)
    mode: str = ""
    rotated: bool = False
    pixels: np.ndarray | None = None
    dark: bool = False
    error: str = ""


def decode(path: str | Path, loader: Loader = Loader(), keep: bool = False) -> DecodedImage:
    """Decode a file completely, as training does, and never raise.

    Args:
        path: The file.
        loader: How the pipeline decodes it.
        keep: Whether to return the pixels.
    """
    try:
        content = Path(path).read_bytes()
        mode, orientation = _header(content)
        refuse_truncated(path)
        pixels = mmcv.imfrombytes(content, flag=loader.flag, backend=loader.backend)
        if pixels is None:
            return DecodedImage(error=f"{path}: {_reason(path, _pillow_error(content))}")
        rotated = loader.orients and orientation in range(2, 9)
        dark = _MODE_OF.get(mode) == "DEEP" and _is_dark(content)
        size = (pixels.shape[1], pixels.shape[0])
        return DecodedImage(size, mode, rotated, pixels if keep else None, dark=dark)
    except Exception as error:  # decoders raise many types for broken files
        return DecodedImage(error=f"{path}: {_reason(path, error)}")


def _header(content: bytes) -> tuple[str, int]:
    """Return Pillow's mode and the EXIF orientation; Pillow may refuse what OpenCV reads."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return image.mode, image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return "", 1


def _pillow_error(content: bytes) -> Exception:
    """Return Pillow's error for a file that OpenCV does not decode, which explains more."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            return ValueError(f"{image.format}, which OpenCV does not read")
    except Exception as error:
        return error


def _is_dark(content: bytes) -> bool:
    """Whether a file has 16 bits, and values of 12 bits or fewer."""
    pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    return (
        pixels is not None
        and pixels.dtype == np.uint16
        and 0 < int(pixels.max()).bit_length() <= _DARK_BITS
    )


def why_unreadable(path: str | Path, error: Exception) -> str:
    """Explain why the decoder failed on a file; decoders often say only that they did."""
    try:
        with open(path, "rb") as file:
            reason = _reason(path, _pillow_error(file.read()))
    except OSError as cause:
        return cause.strerror or str(cause)
    return reason or str(error)


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


def decode_all(paths: Iterable[str | Path], loader: Loader = Loader()) -> Iterator[DecodedImage]:
    """Decode files in parallel, and yield the results in order."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        yield from pool.map(lambda path: decode(path, loader), paths)


def sample(items: Sequence[Item], limit: int | None) -> Sequence[Item]:
    """Return at most ``limit`` items, evenly spaced, including the first and the last."""
    if limit is None or len(items) <= limit:
        return items
    indices = np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))
    return [items[i] for i in indices]


def loader_of(settings: Mapping) -> Loader:
    """Return how the pipeline of a data set's config decodes images."""
    for step in settings.get("pipeline") or ():
        if type_name(step) == "LoadImageFromFile":
            flag, backend = step.get("color_type", "color"), step.get("imdecode_backend")
            return Loader(flag, backend or "cv2")
    return Loader()


def check_images(
    paths: Sequence[str],
    findings: Findings,
    loader: Loader = Loader(),
    sizes: Sequence[tuple[int, int]] | None = None,
) -> list[DecodedImage]:
    """Decode images, and report those that are unreadable, of another size, or not plain RGB.

    Args:
        paths: The files.
        findings: Receives the problems and notes.
        loader: How the pipeline decodes them.
        sizes: Annotated width and height of each image.

    Returns:
        The decoded images, in order.
    """
    images = list(decode_all(paths, loader))
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
        if image.dark and loader.flag == "color":
            findings.add(DARK, path)
            continue
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


def check_missing(paths: Sequence[str], folder: str, findings: Findings) -> set[str]:
    """Report the paths that do not exist, and return them.

    Args:
        paths: The images.
        folder: The folder that their names refer to, in which to look for similar names.
        findings: Receives the problems.
    """
    missing = missing_files(paths)
    if not missing:
        return missing
    similar: dict[str, str] = {}
    for file in files_below(folder) if os.path.isdir(folder) else ():
        for key in _keys(file):
            similar.setdefault(key, file)
    for path in paths:
        if path in missing:
            file = next((similar[key] for key in _keys(path) if key in similar), None)
            if file is None:
                findings.add(MISSING, path)
            else:
                findings.add(MISNAMED, f"{path}; did you mean {os.path.join(folder, file)}?")
    return missing


def _keys(path: str) -> tuple[str, str, str]:
    """Return a file's base name, as it is, as any system would spell it, and without a suffix."""
    name = path.replace("\\", "/").rpartition("/")[2]
    folded = unicodedata.normalize("NFC", unquote(name)).casefold().strip()
    return name, folded, os.path.splitext(folded)[0]


def files_below(folder: str | Path) -> list[str]:
    """List files below a folder like MM's data sets: relative, sorted, without hidden files."""
    files = []
    for root, _, names in os.walk(folder, followlinks=True):
        below = os.path.relpath(root, folder)
        prefix = "" if below == "." else below + os.sep
        files += [prefix + name for name in names if not name.startswith(".")]
    return sorted(files)
