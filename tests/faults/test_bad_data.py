"""Pictures and labels as they come: each is handled right, or named in one line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from miniature import make_ade, make_coco
from mmdet.datasets import CocoDataset
from mmdet.utils import register_all_modules as register_mmdet
from mmengine.dataset import ConcatDataset
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from care_mm.engine.hooks.samples import BadSample, GuardedPipeline, check_whole, leaves, noted
from care_mm.errors import InputError

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
DETECTION = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs"),
]
SEGMENTATION = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
CLASSIFICATION = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_coco(tmp_path_factory.mktemp("coco") / "coco", 12, 3, 64)


def broken_coco(coco: Path, root: Path, change: Callable[[dict, Path], None]) -> Path:
    """A copy of the data with something changed in its JSON or its pictures."""
    import shutil

    shutil.copytree(coco, root)
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    change(content, root / "train2017")
    file.write_text(json.dumps(content))
    return root


def detection(root: Path, **guard: Any) -> CocoDataset:
    """The training data of a detector, guarded."""
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
    """Its size is not the picture's."""
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
def test_bad_file_is_named_and_left_out(damage: str, coco: Path, tmp_path: Path) -> None:
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
    (line,) = noted(root / "bad.txt")
    assert changed["name"] in line and line.isprintable()
    # In an evaluation, and with skip=False, it is an error with the same line.
    strict = detection(root)
    with pytest.raises(InputError, match=f"image .*{changed['name']}.*: .*tools/check_data.py"):
        [strict[i] for i in range(len(strict))]


def _png(array: np.ndarray, mode: str | None = None) -> Callable[[Path], None]:
    return lambda path: save(Image.fromarray(array, mode), path, format="PNG")


READ = {
    "grayscale": _png(PICTURE[..., 0]),
    "16 bits": _png(PICTURE[..., 0].astype(np.uint16) * 257),
    "alpha": lambda path: save(Image.fromarray(PICTURE).convert("RGBA"), path, format="PNG"),
    "palette": lambda path: save(Image.fromarray(PICTURE).quantize(16), path, format="PNG"),
    "one bit": lambda path: save(Image.fromarray(PICTURE).convert("1"), path, format="PNG"),
    "CMYK": lambda path: save(Image.fromarray(PICTURE).convert("CMYK"), path, format="JPEG"),
    "progressive": lambda path: save(PICTURE, path, format="JPEG", progressive=True),
    "junk at its end": lambda path: (
        save(PICTURE, path, format="JPEG"),
        path.write_bytes(path.read_bytes() + b"\0" * 100),
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_unusual_pictures_are_read_as_rgb(kind: str, tmp_path: Path) -> None:
    from mmcv.transforms import LoadImageFromFile

    path = tmp_path / "picture"
    READ[kind](path)
    guarded = GuardedPipeline(LoadImageFromFile())
    image = guarded(dict(img_path=str(path)))["img"]
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    if kind in ("grayscale", "16 bits"):
        assert np.array_equal(image[..., 1], PICTURE[..., 0])
    elif kind == "alpha":
        assert np.array_equal(image[..., ::-1], PICTURE)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_picture_that_exif_turns_is_loaded_upright(turn: int, tmp_path: Path) -> None:
    from mmcv.transforms import LoadImageFromFile

    tags = Image.Exif()
    tags[0x0112] = turn
    save(PICTURE, tmp_path / "turned.jpg", exif=tags)
    image = GuardedPipeline(LoadImageFromFile())(dict(img_path=str(tmp_path / "turned.jpg")))["img"]
    assert image.shape[:2] == ((40, 60) if turn in (1, 3) else (60, 40))


@pytest.mark.parametrize(("width", "height", "fits"), [(48, 64, True), (64, 48, False)])
def test_annotations_fit_the_picture_as_it_is_turned(
    width: int, height: int, fits: bool, coco: Path, tmp_path: Path
) -> None:
    """It lies on its side, 64 x 48, and is loaded upright."""

    def turn(content: dict, folder: Path) -> None:
        tags = Image.Exif()
        tags[0x0112] = 6
        path = first_file(content, folder)
        save(np.zeros((48, 64, 3), np.uint8), path, exif=tags, format="JPEG")
        content["images"][0].update(width=width, height=height)

    root = broken_coco(coco, tmp_path / "coco", turn)
    dataset = detection(root, skip=True)
    for index in range(len(dataset)):
        assert dataset[index] is not None
    lines = noted(root / "bad.txt")
    assert len(lines) == (0 if fits else 1)
    assert fits or "48x64 pixels where the annotations say 64x48" in lines[0]


# Boxes and ids


def _box(*box: float) -> Callable[[dict, Path], None]:
    return lambda content, folder: content["annotations"][0].update(bbox=list(box))


LEFT_OUT = {
    "empty box": _box(5, 5, 0, 0),
    "negative box": _box(5, 5, -4, 6),
    "NaN box": _box(float("nan"), 5, 8, 8),
    "box outside": _box(1000, 1000, 20, 20),
    "unknown category": lambda content, _: content["annotations"][0].update(category_id=12345),
    "no area": lambda content, _: content["annotations"][0].update(area=0),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
def test_annotation_without_an_object_is_left_out(kind: str, coco: Path, tmp_path: Path) -> None:
    whole = detection(coco)
    total = sum(len(whole[i]["data_samples"].gt_instances) for i in range(len(whole)))
    dataset = detection(broken_coco(coco, tmp_path / "coco", LEFT_OUT[kind]))
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


# Labels


def test_mask_with_a_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    from mmseg.utils import register_all_modules as register_mmseg

    register_mmseg(init_default_scope=False)
    init_default_scope("mmseg")
    root = make_ade(tmp_path / "ade", 4, 2, 64)
    masks = sorted((root / "annotations" / "training").glob("*.png"))
    mask = np.array(Image.open(masks[0]))
    mask[3, 4] = 200
    Image.fromarray(mask).save(masks[0])
    Image.fromarray(np.zeros_like(mask)).save(masks[1])  # unlabelled altogether
    dataset = DATASETS.build(
        dict(
            type="ADE20KDataset",
            data_root=str(root),
            data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
            pipeline=SEGMENTATION,
        )
    )
    dataset.pipeline = GuardedPipeline(dataset.pipeline, num_classes=150)
    with pytest.raises(InputError, match=f"{masks[0].stem}.*has label 199 in its mask"):
        dataset[0]
    assert (dataset[1]["data_samples"].gt_sem_seg.data == 255).all()


@pytest.mark.parametrize("label", [-1, 6, 1000])
def test_label_beyond_the_classes_is_named(label: int) -> None:
    from mmpretrain.structures import DataSample

    guarded = GuardedPipeline(
        lambda data: dict(data_samples=DataSample().set_gt_label(label)), num_classes=6
    )
    with pytest.raises(InputError, match=r"a\.jpg: has label .*the classes end at 5"):
        guarded(dict(img_path="a.jpg"))
    guarded.pipeline = lambda data: dict(data_samples=DataSample().set_gt_label(5))
    assert guarded(dict(img_path="a.jpg")) is not None


# How many are put up with


def fail(data: dict) -> None:
    raise ValueError("no")


def test_no_valid_image_ends_it_at_once() -> None:
    calls = []
    guarded = GuardedPipeline(lambda data: calls.append(data) or fail(data), skip=True)
    with pytest.raises(InputError, match="20 images in a row are of no use"):
        for _ in range(1000):
            guarded(dict(img_path="same.jpg"))
    assert len(calls) == 20


def test_pipeline_that_gives_nothing_ends_it() -> None:
    guarded = GuardedPipeline(lambda data: None, skip=True)
    with pytest.raises(InputError, match="gave nothing for 201 samples in a row"):
        for _ in range(1000):
            guarded(dict(img_path="x.jpg"))


def test_too_many_bad_files_end_it(tmp_path: Path) -> None:
    """Counted over all processes and epochs, each file once."""
    record = tmp_path / "bad.txt"
    guards = [
        GuardedPipeline(
            lambda data: fail(data) if data["bad"] else data, skip=True, max_bad=3, record=record
        )
        for _ in range(2)
    ]
    for epoch in range(3):
        for number in range(3):
            assert guards[epoch % 2](dict(img_path=f"{number}.jpg", bad=True)) is None
            assert guards[epoch % 2](dict(img_path="good.jpg", bad=False)) is not None
    assert [line.split(":")[0] for line in noted(record)] == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(InputError, match=r"4 images are of no use, which is more than 3"):
        guards[0](dict(img_path="3.jpg", bad=True))


def test_memory_error_is_nobody_s_bad_file() -> None:
    def full(data: dict) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        GuardedPipeline(full, skip=True)(dict(img_path="x.jpg"))


def test_data_sets_in_wrappers_are_found(coco: Path) -> None:
    first, second = detection(coco), detection(coco)
    assert list(leaves(ConcatDataset([first, second]))) == [first, second]


# Corrupted bytes


def test_jpeg_and_png_with_random_damage(tmp_path: Path) -> None:
    """400 files: a picture, or an error that names the file; never anything else."""
    from mmcv.transforms import LoadImageFromFile

    draw, path, read, named = random.Random(0), tmp_path / "damaged", 0, 0
    guarded = GuardedPipeline(LoadImageFromFile())
    for number in range(400):
        save(PICTURE, path, format="JPEG" if number % 2 else "PNG")
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
        assert number % 4 < 2, "half a file was taken for a whole one"
    print(f"{read} read, {named} named")
    assert named >= 200


def test_json_with_random_damage(coco: Path, tmp_path: Path) -> None:
    """200 annotation files: check_data reads them or names them."""
    from mmengine.config import Config

    from care_mm.datasets.check.config import check_config

    draw = random.Random(1)
    root = broken_coco(coco, tmp_path / "coco", lambda content, folder: None)
    file = root / "annotations" / "instances_train2017.json"
    whole = file.read_bytes()
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
        data = bytearray(whole)
        if draw.random() < 0.5:
            for _ in range(draw.randint(1, 10)):
                data[draw.randrange(len(data))] = draw.randrange(32, 127)
        else:
            del data[draw.randrange(len(data)) :]
        file.write_bytes(data)
        (findings, *_) = list(check_config(config, limit=1))
        unharmed += not findings.found
    assert unharmed < 100


def test_whole_files_cost_no_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(PICTURE, tmp_path / "a.jpg")
    save(PICTURE, tmp_path / "b.png")
    (tmp_path / "c.bmp").write_bytes(b"BM")
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail("decoded"))
    for name in ("a.jpg", "b.png", "c.bmp"):
        check_whole(tmp_path / name)


def test_cut_at_every_place_is_noticed(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        save(PICTURE, tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        for length in range(20, len(whole) - 40, 97):
            (tmp_path / name).write_bytes(whole[:length])
            with pytest.raises(BadSample, match="cut short"):
                check_whole(tmp_path / name)
