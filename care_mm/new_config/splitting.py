"""Split data without a validation split: at random with a seed, related images together."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

from care_mm.errors import InputError

SHARE = 0.2  # of the images, for validation
SEED = 0
# A group of more than this share of the images says nothing about how images are related.
_LARGEST = 0.3


def split(names: Sequence[str]) -> tuple[list[str], list[str], str]:
    """Split images into training and validation.

    Frames of a video and augmented copies must not be in both. They are recognised by their names:
    the same folder, or the same name up to a number or to Roboflow's ``.rf.``.

    Args:
        names: Paths of the images with ``/``.

    Returns:
        Names for training and for validation, in their old order, and how they were grouped.

    Raises:
        InputError: There is a single image.
    """
    if len(names) < 2:
        raise InputError(
            f"{names[0] if names else 'the data'}: there is no second image to validate on; add "
            "images, or a validation split (val)"
        )
    how, groups = _groups(names)
    order = sorted(groups)
    random.Random(SEED).shuffle(order)
    held: set[str] = set()
    for key in order:
        if len(held) >= max(1, round(SHARE * len(names))):
            break
        held.update(groups[key])
    return [n for n in names if n not in held], [n for n in names if n in held], how


def split_coco(content: dict[str, Any]) -> tuple[dict[str, dict[str, Any]], str]:
    """Split the content of a COCO file; see :func:`split`."""
    train, val, how = split([image["file_name"] for image in content["images"]])
    parts = {}
    for title, names in (("train", set(train)), ("val", set(val))):
        images = [image for image in content["images"] if image["file_name"] in names]
        ids = {image["id"] for image in images}
        objects = [item for item in content["annotations"] if item["image_id"] in ids]
        parts[title] = {**content, "images": images, "annotations": objects}
    return parts, how


def _groups(names: Sequence[str]) -> tuple[str, dict[str, list[str]]]:
    """Return the first way of grouping that gives enough groups of related images."""
    ways = {
        "copies by Roboflow stay together": lambda p: p.name.partition(".rf.")[0],
        "images of a folder stay together": lambda p: p.parent.as_posix(),
        "images whose names differ by a number stay together": lambda p: re.sub(
            r"[\W_]*\d+$", "", p.stem
        ),
    }
    for how, key in ways.items():
        groups = defaultdict(list)
        for name in names:
            groups[key(PurePosixPath(name))].append(name)
        largest = max(map(len, groups.values()), default=0)
        if 5 <= len(groups) < len(names) and largest <= _LARGEST * len(names):
            return how, groups
    return "every image by itself", {name: [name] for name in names}
