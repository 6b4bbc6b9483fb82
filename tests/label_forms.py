"""Folders as users have them, made from the drawn data."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from care_mm.datasets.shapes import OBJECTS


def _content(drawn: Path, split: str = "train") -> dict:
    file = drawn / "coco" / "annotations" / f"instances_{split}2017.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if not a["iscrowd"]]
    return content


def _copy_images(drawn: Path, folder: Path, split: str = "train") -> None:
    shutil.copytree(drawn / "coco" / f"{split}2017", folder)


def coco(drawn: Path, root: Path) -> None:
    """Images below, two files by name."""
    for split in ("train", "val"):
        _copy_images(drawn, root / "pictures" / split, split)
        (root / f"{split}.json").write_text(json.dumps(_content(drawn, split)))


def boxes(drawn: Path, root: Path) -> None:
    """One file without masks, images next to it; two boxes have no width."""
    _copy_images(drawn, root)
    content = _content(drawn)
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    for number in (0, 3):
        content["annotations"][number]["bbox"][2] = 0
    (root / "labels.json").write_text(json.dumps(content))


def voc(drawn: Path, root: Path) -> None:
    """Images and labels of the development kit, with its lists of splits."""
    _copy_images(drawn, root / "JPEGImages")
    (root / "Annotations").mkdir()
    (root / "ImageSets" / "Main").mkdir(parents=True)
    content = _content(drawn)
    for image in content["images"]:
        objects = "".join(
            f"<object><name>{OBJECTS[a['category_id'] - 1]}</name><bndbox>"
            f"<xmin>{int(x) + 1}</xmin><ymin>{int(y) + 1}</ymin>"
            f"<xmax>{int(x + w) + 1}</xmax><ymax>{int(y + h) + 1}</ymax></bndbox></object>"
            for a in content["annotations"]
            if a["image_id"] == image["id"]
            for x, y, w, h in [a["bbox"]]
        )
        stem = Path(image["file_name"]).stem
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{image['file_name']}</filename><size>"
            f"<width>{image['width']}</width><height>{image['height']}</height><depth>3</depth></size>{objects}</annotation>"
        )
    stems = [Path(image["file_name"]).stem for image in content["images"]]
    for split, part in (("train", stems[:7]), ("val", stems[7:])):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(part))


def yolo(drawn: Path, root: Path) -> None:
    """``images/train``, ``labels/train`` and ``data.yaml``, with polygons."""
    for split in ("train", "val"):
        _copy_images(drawn, root / "images" / split, split)
        (root / "labels" / split).mkdir(parents=True)
        content = _content(drawn, split)
        for image in content["images"]:
            lines = []
            for a in content["annotations"]:
                if a["image_id"] == image["id"]:
                    x, y, w, h = (
                        v / side
                        for v, side in zip(
                            a["bbox"], (image["width"], image["height"]) * 2, strict=True
                        )
                    )
                    corners = (x, y, x + w, y, x + w, y + h, x, y + h)
                    lines.append(f"{a['category_id'] - 1} " + " ".join(f"{c:.5f}" for c in corners))
            stem = Path(image["file_name"]).stem
            (root / "labels" / split / f"{stem}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {[*OBJECTS]}\n")


def labelme(drawn: Path, root: Path) -> None:
    """A JSON file with polygons next to each image."""
    _copy_images(drawn, root)
    content = _content(drawn)
    for image in content["images"]:
        shapes = [
            {
                "label": OBJECTS[a["category_id"] - 1],
                "shape_type": "polygon",
                "points": [[x, y], [x + w, y], [x + w, y + h], [x, y + h]],
            }
            for a in content["annotations"]
            if a["image_id"] == image["id"]
            for x, y, w, h in [a["bbox"]]
        ]
        entry = {
            "imagePath": image["file_name"],
            "imageWidth": image["width"],
            "imageHeight": image["height"],
        }
        stem = Path(image["file_name"]).stem
        (root / f"{stem}.json").write_text(json.dumps({**entry, "shapes": shapes}))


def masks(drawn: Path, root: Path) -> None:
    """Folders of images and of masks with 0 and 255, as editors save them; no split."""
    content = _content(drawn)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for image in content["images"]:
        name = Path(image["file_name"])
        shutil.copy(drawn / "coco" / "train2017" / name, root / "images" / name.name)
        union = np.zeros((image["height"], image["width"]), np.uint8)
        for a in content["annotations"]:
            if a["image_id"] == image["id"]:
                union |= rle.decode(a["segmentation"])
        Image.fromarray(union * 255).save(root / "masks" / f"{name.stem}_mask.png")


def folders(drawn: Path, root: Path) -> None:
    """Class folders without a split."""
    shutil.copytree(drawn / "imagenet" / "train", root)


FORMS = dict(
    coco=coco,
    boxes=boxes,
    voc=voc,
    yolo=yolo,
    labelme=labelme,
    masks=masks,
    folders=folders,
)
TASKS = {form: "detection" for form in FORMS} | dict(masks="segmentation", folders="classification")
CONVERTED = ("voc", "yolo", "labelme")
