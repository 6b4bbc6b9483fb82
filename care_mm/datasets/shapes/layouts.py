"""Write drawn scenes in the layouts of COCO, ADE20K and ImageNet.

One drawing serves three tasks, in the layouts that users of OpenMMLab have::

    DIR/shapes.json                                       the settings; written last
    DIR/coco/annotations/instances_{train,val}2017.json   instances, COCO
    DIR/coco/{train,val}2017/000000000001.jpg
    DIR/ade/ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_train_00000001.*
    DIR/imagenet/{train,val}/<class>/*.JPEG               one object each, with some context

Equal settings give equal bytes with the same versions of NumPy, OpenCV and Pillow, and image ``i``
does not depend on the number of images.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from care_mm.datasets.shapes.backgrounds import MATERIALS
from care_mm.datasets.shapes.objects import OBJECTS
from care_mm.datasets.shapes.scenes import Instance, Scene, draw_scene
from care_mm.errors import InputError

SEG_CLASSES = OBJECTS + MATERIALS  # pixel value i + 1 in the ADE masks; 0 is unlabelled
PALETTE = (
    (230, 60, 60),
    (240, 150, 40),
    (120, 200, 60),
    (250, 220, 60),
    (60, 120, 230),
    (170, 80, 210),
    (230, 180, 200),
    (40, 110, 50),
    (220, 200, 150),
    (130, 170, 190),
    (140, 90, 50),
)  # RGB, one per SEG_CLASSES

MARKER = "shapes.json"  # the settings of a complete drawing
FORMAT = 1  # increase it when equal settings give other files
CROP_SIDE = 96  # pixels of a classification image
MIN_CROP_VISIBLE, MIN_CROP_OBJECT = 0.7, 20  # visible share, and pixels of the longer side
_JPEG_QUALITY = 92
_MANY = 64  # number of scenes from which worker processes pay off
_SPLITS = ("train", "val")
_ADE_SPLITS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Settings:
    """The settings of a drawing.

    Attributes:
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Longer side of the images in pixels.
        seed: Seed of the random numbers.

    Raises:
        InputError: A number is out of range.
    """

    num_train: int = 600
    num_val: int = 120
    size: int = 192
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the range of each number."""
        limits = {"num_train": (1, 10**8 - 1), "num_val": (1, 10**8 - 1), "size": (64, 2048)}
        for name, value in asdict(self).items():
            low, high = limits.get(name, (0, 2**63 - 1))
            if type(value) is not int or not low <= value <= high:
                raise InputError(
                    f"{name} must be a whole number from {low} to {high}, not {value!r}"
                )

    def marker(self) -> dict[str, int]:
        """Return the content of :data:`MARKER`."""
        return {"format": FORMAT, **asdict(self)}


def scene_at(split: str, index: int, size: int, seed: int) -> Scene:
    """Draw scene ``index`` (from 0) of ``split``, which depends on nothing but the arguments.

    Every 50th scene is empty and every 16th has a pile, so that a small set has them too.
    """
    rng = np.random.default_rng([seed, _SPLITS.index(split), index])
    return draw_scene(rng, size, empty=index % 50 == 12, crowd=index % 16 == 5)


class _Scenes(Dataset):
    """The scenes of a split, drawn on access."""

    def __init__(self, split: str, count: int, settings: Settings) -> None:
        self.split, self.count, self.settings = split, count, settings

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        return scene_at(self.split, index, self.settings.size, self.settings.seed)


def _identity(scene: Scene) -> Scene:
    return scene


def _end_with_parent(_worker: int) -> None:
    """End a worker when its parent is killed; else it would wait forever to deliver a scene."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_order(scenes: _Scenes) -> DataLoader:
    """Load the scenes in order; many scenes are drawn by several processes."""
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return DataLoader(
        scenes,
        batch_size=None,
        collate_fn=_identity,
        num_workers=min(8, processors) if len(scenes) >= _MANY else 0,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # leaves the random numbers of the training alone
    )


# Layouts


def _jpeg(image: np.ndarray) -> bytes:
    """Encode an RGB image (H, W, 3) uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _rle(mask: np.ndarray) -> dict:
    """Encode a mask (H, W) as COCO's compressed run lengths, exact for holes and parts."""
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise InputError(
            "drawing the embedded data set needs pycocotools: pip install pycocotools"
        ) from error
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _annotation(instance: Instance, number: int, image_id: int) -> dict:
    """Return an entry of ``annotations`` in a COCO file."""
    return {
        "id": number,
        "image_id": image_id,
        "category_id": instance.kind + 1,
        "bbox": [float(n) for n in instance.box],
        "area": float(instance.mask.sum()),
        "iscrowd": int(instance.crowd),
        "segmentation": _rle(instance.mask),
    }


def _crop(image: np.ndarray, instance: Instance, context: float) -> np.ndarray:
    """Crop a square around an object, and resize it to (CROP_SIDE, CROP_SIDE, 3).

    The side of the square is the longer side of the object times ``context``.
    """
    x, y, w, h = instance.box
    side = min(round(max(w, h) * context), *image.shape[:2])
    # Moved into the image, not padded: a border would reveal where the object was.
    top = int(np.clip(round(y + (h - side) / 2), 0, image.shape[0] - side))
    left = int(np.clip(round(x + (w - side) / 2), 0, image.shape[1] - side))
    part = image[top : top + side, left : left + side]
    method = cv2.INTER_AREA if side > CROP_SIDE else cv2.INTER_CUBIC
    return cv2.resize(part, (CROP_SIDE, CROP_SIDE), interpolation=method)


def _write_crops(folder: Path, scene: Scene, image_id: int, rng: np.random.Generator) -> None:
    """Write the objects of a scene that are large and visible enough, one file each."""
    for number, instance in enumerate(scene.instances):
        context = rng.uniform(1.1, 1.5)
        clear = instance.visible >= MIN_CROP_VISIBLE and max(instance.box[2:]) >= MIN_CROP_OBJECT
        if clear and not instance.crowd:
            name = OBJECTS[instance.kind]
            path = folder / name / f"{name}_{image_id:08d}_{number}.JPEG"
            path.write_bytes(_jpeg(_crop(scene.image, instance, context)))


def _link(source: Path, target: Path) -> None:
    """Link a file under a second name; copy it if the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_split(root: Path, split: str, count: int, settings: Settings) -> Iterator[None]:
    """Draw one split into all layouts below ``root``; yield after each image."""
    photos, ade = root / "coco" / f"{split}2017", root / "ade" / "ADEChallengeData2016"
    # A folder for every class, even an empty one: labels follow the sorted folders.
    names = [root / "imagenet" / split / name for name in OBJECTS]
    ade_images, ade_masks = (ade / kind / _ADE_SPLITS[split] for kind in ("images", "annotations"))
    for folder in (photos, ade_images, ade_masks, *names):
        folder.mkdir(parents=True)
    images, annotations = [], []
    for index, scene in enumerate(_in_order(_Scenes(split, count, settings))):
        image_id = index + 1
        photo = photos / f"{image_id:012d}.jpg"
        photo.write_bytes(_jpeg(scene.image))
        _link(photo, ade_images / f"ADE_{split}_{image_id:08d}.jpg")
        Image.fromarray(scene.semantic()).save(ade_masks / f"ADE_{split}_{image_id:08d}.png")
        height, width = scene.image.shape[:2]
        entry = {"id": image_id, "file_name": photo.name, "height": height, "width": width}
        images.append({**entry, "license": 1})
        for instance in scene.instances:
            annotations.append(_annotation(instance, len(annotations) + 1, image_id))
        # The fourth number makes the crops independent of the random numbers of the scene.
        framing = np.random.default_rng([settings.seed, _SPLITS.index(split), index, 1])
        _write_crops(root / "imagenet" / split, scene, image_id, framing)
        yield
    content = {
        "info": {"description": f"care_mm shapes, {split}", "version": str(FORMAT)},
        "licenses": [{"id": 1, "name": "drawn by care_mm, under its licence", "url": ""}],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i + 1, "name": name, "supercategory": "object"} for i, name in enumerate(OBJECTS)
        ],
    }
    path = root / "coco" / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, separators=(",", ":")))


def write_all(root: Path, settings: Settings) -> Iterator[None]:
    """Draw everything into the new folder ``root``; the marker is written last.

    Yields:
        ``None`` after each image.
    """
    for split, count in zip(_SPLITS, (settings.num_train, settings.num_val), strict=True):
        yield from _write_split(root, split, count, settings)
    ade = root / "ade" / "ADEChallengeData2016"
    (ade / "classes.txt").write_text("".join(f"{name}\n" for name in SEG_CLASSES))
    (root / "imagenet" / "classes.txt").write_text("".join(f"{name}\n" for name in OBJECTS))
    (root / MARKER).write_text(json.dumps(settings.marker(), indent=2) + "\n")
