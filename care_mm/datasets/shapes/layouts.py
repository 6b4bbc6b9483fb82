"""The embedded data set: drawn, not downloaded, so that every task runs from a fresh clone.

One drawing serves three tasks, in the layouts that users of OpenMMLab have::

    DIR/shapes.json                                       the settings; there once all is written
    DIR/coco/annotations/instances_{train,val}2017.json   instances, COCO
    DIR/coco/{train,val}2017/000000000001.jpg
    DIR/ade/ADEChallengeData2016/{images,annotations}/{training,validation}/ADE_train_00000001.*
    DIR/imagenet/{train,val}/<class>/*.JPEG               one object each, with some of its context

In a config, ``type='Shapes', of='CocoDataset'`` in place of ``type='CocoDataset'`` draws the data
on first use. Equal settings give equal bytes (with the same versions of the libraries that draw),
and image ``i`` does not depend on how many there are.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.registry import DATASETS
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

FORMAT = 1  # raise it when equal settings come to give other files
CROP_SIDE = 96  # pixels of a classification image
MIN_CROP_VISIBLE, MIN_CROP_OBJECT = 0.7, 20  # share seen, and pixels of the longer side
_JPEG_QUALITY = 92
_MANY = 64  # scenes, for which it pays to start processes
_SPLITS = ("train", "val")
_ADE_SPLITS = {"train": "training", "val": "validation"}
_TAILS = (("coco",), ("ade", "ADEChallengeData2016"), ("imagenet",))


@dataclass(frozen=True)
class Settings:
    """What a drawing depends on. Raises InputError for a number that makes no sense."""

    num_train: int = 600
    num_val: int = 120
    size: int = 192  # longer side in pixels
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {"num_train": (1, 10**8 - 1), "num_val": (1, 10**8 - 1), "size": (64, 2048)}
        for name, value in asdict(self).items():
            low, high = limits.get(name, (0, 2**63 - 1))
            if type(value) is not int or not low <= value <= high:
                raise InputError(
                    f"{name} must be a whole number from {low} to {high}, not {value!r}"
                )

    def marker(self) -> dict[str, int]:
        """The content of ``shapes.json``."""
        return {"format": FORMAT, **asdict(self)}


def scene_at(split: str, index: int, size: int, seed: int) -> Scene:
    """Scene ``index`` (from 0) of ``split``: the same whatever else is drawn.

    Every 50th is empty and every 16th has a pile, at fixed places: so also a small set has them.
    """
    rng = np.random.default_rng([seed, _SPLITS.index(split), index])
    return draw_scene(rng, size, empty=index % 50 == 12, crowd=index % 16 == 5)


class _Scenes(Dataset):
    """The scenes of a split, each drawn when it is asked for."""

    def __init__(self, split: str, count: int, settings: Settings) -> None:
        self.split, self.count, self.settings = split, count, settings

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Scene:
        return scene_at(self.split, index, self.settings.size, self.settings.seed)


def _as_it_is(scene: Scene) -> Scene:
    return scene


def _end_with_parent(_worker: int) -> None:
    """Let a worker end when its parent is killed.

    It would wait for ever to hand over a scene that nobody takes.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _in_order(scenes: _Scenes) -> DataLoader:
    """The scenes one after the other, drawn by all processors where there are many."""
    if hasattr(os, "sched_getaffinity"):
        processors = len(os.sched_getaffinity(0))
    else:
        processors = os.cpu_count() or 1
    return DataLoader(
        scenes,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=min(8, processors) if len(scenes) >= _MANY else 0,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # the training's random numbers stay what they are
    )


# Layouts


def _jpeg(image: np.ndarray) -> bytes:
    """An RGB image (H, W, 3) uint8 as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _rle(mask: np.ndarray) -> dict:
    """A mask (H, W) as COCO's compressed run lengths, which also say holes and parts exactly."""
    try:
        from pycocotools import mask as coco_mask
    except ModuleNotFoundError as error:
        raise InputError(
            "drawing the embedded data set needs pycocotools: pip install pycocotools"
        ) from error
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in rle["size"]], "counts": rle["counts"].decode("ascii")}


def _annotation(instance: Instance, number: int, image_id: int) -> dict:
    """One entry of ``annotations`` in a COCO file."""
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
    """A square (CROP_SIDE, CROP_SIDE, 3) around an object, its longer side times ``context``."""
    x, y, w, h = instance.box
    side = min(round(max(w, h) * context), *image.shape[:2])
    # Moved into the picture, not padded: a border would tell where the object was.
    top = int(np.clip(round(y + (h - side) / 2), 0, image.shape[0] - side))
    left = int(np.clip(round(x + (w - side) / 2), 0, image.shape[1] - side))
    part = image[top : top + side, left : left + side]
    how = cv2.INTER_AREA if side > CROP_SIDE else cv2.INTER_CUBIC
    return cv2.resize(part, (CROP_SIDE, CROP_SIDE), interpolation=how)


def _write_crops(folder: Path, scene: Scene, image_id: int, rng: np.random.Generator) -> None:
    """The objects of a scene that are seen well enough to be named, one file each."""
    for number, instance in enumerate(scene.instances):
        context = rng.uniform(1.1, 1.5)
        clear = instance.visible >= MIN_CROP_VISIBLE and max(instance.box[2:]) >= MIN_CROP_OBJECT
        if clear and not instance.crowd:
            name = OBJECTS[instance.kind]
            path = folder / name / f"{name}_{image_id:08d}_{number}.JPEG"
            path.write_bytes(_jpeg(_crop(scene.image, instance, context)))


def _link(source: Path, target: Path) -> None:
    """The same bytes under a second name; a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_split(root: Path, split: str, count: int, settings: Settings) -> Iterator[int]:
    """Draw one split into all layouts below ``root``; yields after every image."""
    photos, ade = root / "coco" / f"{split}2017", root / "ade" / "ADEChallengeData2016"
    names = [root / "imagenet" / split / name for name in OBJECTS]  # all, or labels would shift
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
        images.append(
            {
                "id": image_id,
                "file_name": photo.name,
                "height": height,
                "width": width,
                "license": 1,
            }
        )
        for instance in scene.instances:
            annotations.append(_annotation(instance, len(annotations) + 1, image_id))
        # A fourth number keeps the framing apart from the chance that drew the scene.
        framing = np.random.default_rng([settings.seed, _SPLITS.index(split), index, 1])
        _write_crops(root / "imagenet" / split, scene, image_id, framing)
        yield index
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


def _write_all(root: Path, settings: Settings) -> None:
    """Draw everything into the new folder ``root``, the marker last."""
    total, done = settings.num_train + settings.num_val, 0
    for split, count in zip(_SPLITS, (settings.num_train, settings.num_val), strict=True):
        for _ in _write_split(root, split, count, settings):
            done += 1
            if sys.stderr.isatty():
                _say(f"\rdrawn {done} of {total} scenes", end="\n" if done == total else "")
    ade = root / "ade" / "ADEChallengeData2016"
    (ade / "classes.txt").write_text("".join(f"{name}\n" for name in SEG_CLASSES))
    (root / "imagenet" / "classes.txt").write_text("".join(f"{name}\n" for name in OBJECTS))
    (root / "shapes.json").write_text(json.dumps(settings.marker(), indent=2) + "\n")


# One drawing for everybody who asks


def _say(message: str, end: str = "\n") -> None:
    """To stderr: the output of the command that needs the data stays its own."""
    print(message, end=end, file=sys.stderr, flush=True)


def _is_there(root: Path, settings: Settings) -> bool:
    """Whether ``root`` holds this drawing; False if nothing does, InputError if something else."""
    if not root.exists():
        return False
    names = os.listdir(root) if root.is_dir() else [root.name]
    if not names:
        return False
    if "shapes.json" not in names:
        raise InputError(f"{root} exists and was not drawn by care_mm: choose another folder")
    try:
        found = dict(json.loads((root / "shapes.json").read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{root / 'shapes.json'} is damaged: delete {root}, then try again"
        ) from error
    wanted = settings.marker()
    differ = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    if differ:
        what = ", ".join(f"{key} {found.get(key)} (asked for: {wanted.get(key)})" for key in differ)
        raise InputError(f"{root} was drawn with {what}: delete it or choose another folder")
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold ``path`` against other processes; the file stays, since removing it would be a race."""
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def ensure_shapes(
    root: str | os.PathLike,
    num_train: int = Settings.num_train,
    num_val: int = Settings.num_val,
    size: int = Settings.size,
    seed: int = Settings.seed,
) -> Path:
    """Draw the data set into ``root`` unless it is there already; safe from several processes.

    Everything is drawn into a sibling folder that takes its name at the end: what is called
    ``root`` is always whole, however a drawing ended.

    Args:
        root: Folder to fill. Its parents are made.
        num_train, num_val: Images per split.
        size: Longer side of the images in pixels.
        seed: Other seeds give other images.

    Returns:
        The absolute path of ``root``.

    Raises:
        InputError: For settings out of range, a folder that was drawn with others or that is not
            ours, or a disk that cannot be written.
    """
    settings, root = Settings(num_train, num_val, size, seed), Path(root).expanduser().resolve()
    try:
        if _is_there(root, settings):
            return root
        root.parent.mkdir(parents=True, exist_ok=True)
        with _locked(root.parent / f".{root.name}.lock"):
            if _is_there(root, settings):  # drawn by another while this one waited
                return root
            _draw(root, settings)
    except OSError as error:
        raise InputError(f"cannot draw the embedded data set into {root}: {error}") from error
    return root


def _draw(root: Path, settings: Settings) -> None:
    """Draw beside ``root`` and move there; the caller holds the lock."""
    partial = root.parent / f".{root.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a drawing that was killed
    total, start = settings.num_train + settings.num_val, time.perf_counter()
    _say(f"Drawing {total} scenes of the embedded data set into {root}")
    try:
        partial.mkdir()
        _write_all(partial, settings)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _say(f"Drew {total} scenes in {time.perf_counter() - start:.0f} s")


@DATASETS.register_module(name="Shapes")
def build_shapes(of: str, draw: dict | None = None, **kwargs):
    """Build a data set of type ``of`` whose files are drawn first if they are missing.

    Registered as ``Shapes`` in the root registry, so every scope finds it. All but ``of`` and
    ``draw`` is handed on, so ``pipeline``, ``ann_file`` and so on stay where tools look for them.

    Args:
        of: Type of the data set, such as ``CocoDataset``, in the current scope.
        draw: Settings for :func:`ensure_shapes` other than its defaults.
        kwargs: Arguments of the data set. Its ``data_root`` ends in ``coco``,
            ``ade/ADEChallengeData2016`` or ``imagenet`` and says where to draw.

    Raises:
        InputError: As :func:`ensure_shapes`, or for a ``data_root`` or a key of ``draw`` that it
            does not know.
    """
    draw = draw or {}
    known = [field.name for field in fields(Settings)]
    if unknown := sorted(set(draw) - set(known)):
        raise InputError(
            f"Shapes: draw has no {', '.join(unknown)}; its keys are {', '.join(known)}"
        )
    parts = Path(str(kwargs.get("data_root") or "")).parts
    for tail in _TAILS:
        if parts[-len(tail) :] == tail:
            ensure_shapes(Path(*parts[: -len(tail)]), **draw)
            return DATASETS.build({"type": of, **kwargs})
    tails = ", ".join("/".join(tail) for tail in _TAILS)
    raise InputError(
        f"Shapes: data_root must end in one of {tails}, not {kwargs.get('data_root')!r}"
    )
