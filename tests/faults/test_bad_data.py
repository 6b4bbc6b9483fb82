"""Damaged data sets: every fault is handled, or named in one line."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import make_coco
from mmdet.datasets import CocoDataset
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from care_mm.engine.hooks.guarded_pipeline import GuardedPipeline, leaves, recorded
from care_mm.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
DETECTION = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs"),
]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco(tmp_path_factory.mktemp("coco") / "coco", 12, 3, 64)


def broken_coco(coco: Path, root: Path, change: Callable[[dict, Path], None]) -> Path:
    """Copy the data and change the JSON or the images."""
    shutil.copytree(coco, root)
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    change(content, root / "train2017")
    file.write_text(json.dumps(content))
    return root


def detection(root: Path, **guard: Any) -> CocoDataset:
    """Build the guarded training data of a detector."""
    register_mmdet(init_default_scope=False)
    init_default_scope("mmdet")
    dataset = DATASETS.build(
        dict(
            type="CocoDataset",
            data_root=str(root),
            ann_file="annotations/instances_train2017.json",
            data_prefix=dict(img="train2017/"),
            pipeline=DETECTION,
        )
    )
    dataset.pipeline = GuardedPipeline(dataset.pipeline, record=root / "bad.txt", **guard)
    return dataset


def first_file(content: dict, folder: Path) -> Path:
    return folder / content["images"][0]["file_name"]


def save(image: np.ndarray | Image.Image, path: Path, **options: Any) -> None:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)


def _entry(content: dict, folder: Path) -> tuple[Path, int, int]:
    entry = content["images"][0]
    return folder / entry["file_name"], entry["width"], entry["height"]


def truncate(content: dict, folder: Path) -> None:
    path = first_file(content, folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_size(content: dict, folder: Path) -> None:
    path, width, height = _entry(content, folder)
    save(np.zeros((height // 2, width // 2, 3), np.uint8), path)


def bad_rle(content: dict, folder: Path) -> None:
    """Give the mask another size than the image."""
    content["annotations"][0].update(segmentation=dict(size=[3, 3], counts=[4, 5]), iscrowd=0)


NAMED = {
    "truncated": truncate,
    "empty": lambda content, folder: first_file(content, folder).write_bytes(b""),
    "text": lambda content, folder: first_file(content, folder).write_text("<html>404</html>"),
    "missing": lambda content, folder: first_file(content, folder).unlink(),
    "a folder": lambda content, folder: (
        first_file(content, folder).unlink(),
        first_file(content, folder).mkdir(),
    ),
    "other size": other_size,
    "bad RLE": bad_rle,
}


@pytest.mark.parametrize("damage", NAMED)
def test_bad_file_is_named_and_skipped(damage: str, coco: Path, tmp_path: Path) -> None:
    changed = {}

    def change(content: dict, folder: Path) -> None:
        NAMED[damage](content, folder)
        bad = content["annotations"][0]["image_id"] if damage == "bad RLE" else None
        by_id = {entry["id"]: entry["file_name"] for entry in content["images"]}
        changed["name"] = by_id.get(bad, content["images"][0]["file_name"])

    root = broken_coco(coco, tmp_path / "coco", change)
    dataset = detection(root, skip=True)
    samples = [dataset[i] for i in range(len(dataset))]
    assert len(samples) == 12 and all(sample is not None for sample in samples)
    paths = {Path(sample["data_samples"].img_path).name for sample in samples}
    assert changed["name"] not in paths
    (line,) = recorded(root / "bad.txt")
    assert changed["name"] in line and line.isprintable()
    # In an evaluation, and with skip=False, the same line is an error.
    strict = detection(root)
    with pytest.raises(InputError, match=f"image .*{changed['name']}.*: .*tools/check_data.py"):
        [strict[i] for i in range(len(strict))]


@pytest.mark.parametrize(("width", "height", "fits"), [(48, 64, True), (64, 48, False)])
def test_annotations_must_fit_the_rotated_image(
    width: int, height: int, fits: bool, coco: Path, tmp_path: Path
) -> None:
    """The file is 64 x 48 and is rotated to 48 x 64 when it is loaded."""

    def rotate(content: dict, folder: Path) -> None:
        tags = Image.Exif()
        tags[0x0112] = 6
        path = first_file(content, folder)
        save(np.zeros((48, 64, 3), np.uint8), path, exif=tags, format="JPEG")
        content["images"][0].update(width=width, height=height)

    root = broken_coco(coco, tmp_path / "coco", rotate)
    dataset = detection(root, skip=True)
    for index in range(len(dataset)):
        assert dataset[index] is not None
    lines = recorded(root / "bad.txt")
    assert len(lines) == (0 if fits else 1)
    assert fits or "48x64 pixels, but the annotations say 64x48" in lines[0]


# Boxes and ids


def _box(*box: float) -> Callable[[dict, Path], None]:
    return lambda content, folder: content["annotations"][0].update(bbox=list(box))


IGNORED = {
    "empty box": _box(5, 5, 0, 0),
    "negative box": _box(5, 5, -4, 6),
    "NaN box": _box(float("nan"), 5, 8, 8),
    "box outside": _box(1000, 1000, 20, 20),
    "unknown category": lambda content, _: content["annotations"][0].update(category_id=12345),
    "no area": lambda content, _: content["annotations"][0].update(area=0),
}


@pytest.mark.parametrize("kind", IGNORED)
def test_annotation_without_an_object_is_ignored(kind: str, coco: Path, tmp_path: Path) -> None:
    intact = detection(coco)
    total = sum(len(intact[i]["data_samples"].gt_instances) for i in range(len(intact)))
    dataset = detection(broken_coco(coco, tmp_path / "coco", IGNORED[kind]))
    samples = [dataset[i]["data_samples"] for i in range(len(dataset))]
    assert sum(len(sample.gt_instances) for sample in samples) == total - 1
    for sample in samples:
        boxes = sample.gt_instances.bboxes.tensor
        assert np.isfinite(boxes.numpy()).all() and (boxes[:, 2:] > boxes[:, :2]).all()


@pytest.mark.parametrize("polygons", [[], [[]], [[1, 1, 2, 2]], [[1, 1, 2, 2, 3]]])
def test_empty_polygon_is_an_ignored_object(polygons: list, coco: Path, tmp_path: Path) -> None:
    def change(content: dict, folder: Path) -> None:
        content["annotations"][0].update(segmentation=polygons)

    dataset = detection(broken_coco(coco, tmp_path / "coco", change), skip=True)
    samples = [dataset[i]["data_samples"] for i in range(len(dataset))]
    for sample in samples:
        masks = sample.gt_instances.masks
        assert len(masks) == len(sample.gt_instances.labels)
        assert all(area > 0 for area in masks.areas)


def test_duplicate_ids_are_refused(coco: Path, tmp_path: Path) -> None:
    def change(content: dict, folder: Path) -> None:
        content["annotations"][1]["id"] = content["annotations"][0]["id"]

    with pytest.raises(AssertionError, match="are not unique"):
        detection(broken_coco(coco, tmp_path / "coco", change))


def test_data_sets_in_wrappers_are_found(coco: Path) -> None:
    first, second = detection(coco), detection(coco)
    assert list(leaves(ConcatDataset([first, second]))) == [first, second]


# Corrupted bytes


def test_jpeg_and_png_with_random_damage(tmp_path: Path) -> None:
    """Each of 400 files gives an image or an error that names the file, and nothing else."""
    from mmcv.transforms import LoadImageFromFile

    draw, path, read, named = random.Random(0), tmp_path / "damaged", 0, 0
    guarded = GuardedPipeline(LoadImageFromFile())
    for number in range(400):
        save(IMAGE, path, format="JPEG" if number % 2 else "PNG")
        data = bytearray(path.read_bytes())
        if number % 4 < 2:
            for _ in range(draw.randint(1, 20)):
                data[draw.randrange(len(data))] = draw.randrange(256)
        else:
            del data[draw.randrange(len(data) - 40) :]
        path.write_bytes(data)
        try:
            assert guarded(dict(img_path=str(path)))["img"].ndim == 3
            read += 1
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            named += 1
            continue
        assert number % 4 < 2, "a truncated file was read without an error"
    print(f"{read} read, {named} named")
    assert named >= 200


def test_json_with_random_damage(coco: Path, tmp_path: Path) -> None:
    """check_data reads or names each of 200 annotation files."""
    from mmengine.config import Config

    from care_mm.datasets.check.config import check_config

    draw = random.Random(1)
    root = broken_coco(coco, tmp_path / "coco", lambda content, folder: None)
    file = root / "annotations" / "instances_train2017.json"
    intact = file.read_bytes()
    settings = dict(
        type="CocoDataset",
        data_root=str(root),
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        pipeline=[],
    )
    register_mmdet(init_default_scope=False)
    config = Config(
        dict(default_scope="mmdet", train_dataloader=dict(batch_size=1, dataset=settings))
    )
    unharmed = 0
    for _ in range(200):
        data = bytearray(intact)
        if draw.random() < 0.5:
            for _ in range(draw.randint(1, 10)):
                data[draw.randrange(len(data))] = draw.randrange(32, 127)
        else:
            del data[draw.randrange(len(data)) :]
        file.write_bytes(data)
        (findings, *_) = list(check_config(config, limit=1))
        unharmed += not findings.offenders
    assert unharmed < 100
