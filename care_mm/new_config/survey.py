"""Measure data: numbers and sizes of images and objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from care_mm.errors import InputError

_SAMPLE = 200  # images or masks to open


@dataclass(frozen=True)
class Sizes:
    """The sizes of images in pixels.

    Attributes:
        width: Median width.
        height: Median height.
        spread: The long side of a large image (95 %) over that of a small one (5 %).
    """

    width: int
    height: int
    spread: float

    @classmethod
    def of(cls, sizes: Iterable[tuple[int, int]]) -> Sizes:
        """Measure (width, height) pairs."""
        array = np.asarray(list(sizes), float).reshape(-1, 2)
        small, large = np.percentile(array.max(1), (5, 95))
        width, height = np.median(array, 0).round().astype(int).tolist()
        return cls(width, height, float(large / max(small, 1)))


@dataclass(frozen=True)
class Objects:
    """The objects of a detection data set.

    Attributes:
        classes: Names in the order of the file.
        images: Number of images.
        sizes: Sizes of the images.
        count: Number of objects with an area.
        sides: Square roots of the areas of the boxes over the long side of the image: the 10th,
            25th, 50th and 95th percentile.
        densest: Number of objects in the fullest image.
        masks: Whether all objects have masks.
    """

    classes: tuple[str, ...]
    images: int
    sizes: Sizes
    count: int
    sides: tuple[float, float, float, float]
    densest: int
    masks: bool

    @classmethod
    def of(cls, content: Mapping[str, Any], source: Path) -> Objects:
        """Measure the content of a COCO file.

        Raises:
            InputError: It has no image with a size, or no object with an area.
        """
        known = (i for i in content["images"] if isinstance(i, dict))
        sizes = {i.get("id"): (i["width"], i["height"]) for i in known if _has_size(i)}
        sides, per_image, masks = [], Counter(), 0
        for item in content["annotations"]:
            box, image = item.get("bbox") or (), item.get("image_id")
            if image not in sizes or len(box) != 4 or not _is_positive(*box[2:]):
                continue
            if item.get("iscrowd"):
                continue
            sides.append((box[2] * box[3]) ** 0.5 / max(sizes[image]))
            per_image[image] += 1
            masks += bool(item.get("segmentation"))
        if not sides:
            raise InputError(
                f"{source}: no object has an area and an image with width and height; "
                "see docs/data.md for the format"
            )
        return cls(
            tuple(str(category["name"]) for category in content["categories"]),
            len(content["images"]),
            Sizes.of(sizes.values()),
            len(sides),
            tuple(np.percentile(sides, (10, 25, 50, 95)).tolist()),
            max(per_image.values()),
            masks == len(sides),
        )


def measure_images(files: Sequence[Path]) -> Sizes:
    """Measure a sample of image files.

    Raises:
        InputError: None of them can be read.
    """
    sizes = []
    for file in sample(files):
        image = cv2.imread(str(file))
        if image is not None:
            sizes.append((image.shape[1], image.shape[0]))
    if not sizes:
        raise InputError(f"{files[0]}: cannot be read, like all images that were tried")
    return Sizes.of(sizes)


def mask_values(files: Sequence[Path]) -> Counter:
    """Count the pixels of each value in a sample of masks.

    Raises:
        InputError: A mask cannot be read, or has other than one channel of 8 bits.
    """
    counts: Counter = Counter()
    for file in sample(files):
        mask = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if mask is None:
            raise InputError(f"{file}: cannot be read")
        if mask.ndim != 2 or mask.dtype != np.uint8:
            # A palette image is read as colours; mmseg reads it with Pillow, as its numbers.
            mask = _palette_numbers(file)
        values, numbers = np.unique(mask, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts


def sample(files: Sequence[Path]) -> Sequence[Path]:
    """Return some of the files, evenly spaced."""
    return files[:: max(len(files) // _SAMPLE, 1)]


def _palette_numbers(file: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(file) as image:
        if image.mode not in ("P", "L"):
            raise InputError(
                f"{file}: a mask has one channel of 8 bits with the numbers of the classes, this "
                f"one is {image.mode}; docs/data.md describes the format"
            )
        return np.asarray(image)


def _has_size(image: Mapping) -> bool:
    return _is_positive(image.get("width"), image.get("height"))


def _is_positive(*numbers: Any) -> bool:
    return all(isinstance(n, int | float) and n > 0 for n in numbers)
