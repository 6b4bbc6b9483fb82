"""Miniature data sets in the layouts of the real ones, drawn by care_mm."""

from __future__ import annotations

import json
import os
from itertools import cycle
from pathlib import Path

import numpy as np
from mmdet.datasets import CocoDataset
from PIL import Image

from care_mm.datasets.shapes import SEG_CLASSES, ensure_shapes


def _drawn(root: Path, num_train: int, num_val: int, size: int) -> Path:
    return ensure_shapes(root.parent / f".{root.name}_drawn", num_train, num_val, size, seed=3)


def make_coco(root: Path, num_train: int = 8, num_val: int = 3, size: int = 96) -> Path:
    """Draw images in the layout of COCO 2017, with its 80 categories and the gaps in their ids."""
    (_drawn(root, num_train, num_val, size) / "coco").rename(root)
    names = CocoDataset.METAINFO["classes"]
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
    for file in (root / "annotations").glob("*.json"):
        content = json.loads(file.read_text())
        content["categories"] = [
            {"id": i, "name": name} for i, name in zip(ids, names, strict=True)
        ]
        for annotation in content["annotations"]:
            annotation["category_id"] = ids[13 * annotation["category_id"]]
        file.write_text(json.dumps(content))
    return root


def make_ade(root: Path, num_train: int = 8, num_val: int = 3, size: int = 96) -> Path:
    """Draw images in the layout of ADEChallengeData2016: 0 is unlabelled, 1 and 150 are used."""
    (_drawn(root, num_train, num_val, size) / "ade" / "ADEChallengeData2016").rename(root)
    values = np.zeros(256, np.uint8)
    values[1 : len(SEG_CLASSES) + 1] = np.linspace(1, 150, len(SEG_CLASSES)).round()
    for file in (root / "annotations").rglob("*.png"):
        Image.fromarray(values[np.asarray(Image.open(file))]).save(file)
    return root


def make_imagenet(
    root: Path, num_classes: int = 1000, num_train: int = 8, num_val: int = 3, size: int = 96
) -> Path:
    """Draw a few images and link one into every class folder of ImageNet's layout."""
    drawn = _drawn(root, num_train, num_val, size) / "imagenet"
    for split in ("train", "val"):
        crops = cycle(sorted((drawn / split).rglob("*.JPEG")))
        for number, crop in zip(range(num_classes), crops, strict=False):
            wnid = f"n{10_000_000 + 7919 * number:08d}"
            (root / split / wnid).mkdir(parents=True)
            os.link(crop, root / split / wnid / f"{wnid}_{number}.JPEG")
    return root
