"""The files of a drawing: exact labels, and the same bytes every time."""

from __future__ import annotations

import filecmp

import numpy as np
import pytest
import torch
from drawings import SMALL, SPLITS, TINY, files
from PIL import Image

from care_mm.datasets.shapes import (
    CROP_SIDE,
    MATERIALS,
    OBJECTS,
    PALETTE,
    SEG_CLASSES,
    ensure_shapes,
    scene_at,
)


@pytest.fixture(scope="module", params=list(SPLITS))
def coco(request, shapes):
    """The name of a split, and its annotations as pycocotools reads them."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    file = shapes / "coco" / "annotations" / f"instances_{request.param}2017.json"
    return request.param, COCO(str(file))


def test_an_image_does_not_depend_on_how_many_there_are(shapes, tmp_path):
    few = ensure_shapes(tmp_path / "few", **{**SMALL, "num_train": 3, "num_val": 1})
    for kind in ("coco/train2017/*.jpg", "ade/ADEChallengeData2016/annotations/*/*.png"):
        for path in few.glob(kind):
            assert path.read_bytes() == (shapes / path.relative_to(few)).read_bytes()
    crops = [name for name in files(few) if name.endswith("JPEG")]
    assert crops and all(filecmp.cmp(few / n, shapes / n, shallow=False) for n in crops)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_images(tmp_path):
    one, two = ensure_shapes(tmp_path / "1", **TINY), ensure_shapes(tmp_path / "2", **TINY)
    other = ensure_shapes(tmp_path / "3", **{**TINY, "seed": 1})
    assert files(one) == files(two)
    assert filecmp.cmpfiles(one, two, files(one), shallow=False) == (files(one), [], [])
    photos = [name for name in files(one) if name.endswith(".jpg")]
    assert len(photos) == 6
    assert not any(filecmp.cmp(one / name, other / name, shallow=False) for name in photos)
    train, val = (scene_at(split, 0, 64, 0).image for split in SPLITS)
    assert train.shape != val.shape or (train != val).any()


def test_many_processes_draw_the_same_bytes_and_no_random_numbers(tmp_path, monkeypatch):
    alone = ensure_shapes(tmp_path / "1", **TINY)
    monkeypatch.setattr("care_mm.datasets.shapes.layouts._MANY", 2)
    state = torch.get_rng_state()
    together = ensure_shapes(tmp_path / "2", **TINY)
    assert torch.equal(torch.get_rng_state(), state)
    assert filecmp.cmpfiles(alone, together, files(alone), shallow=False) == (files(alone), [], [])


def test_coco_annotations_are_exact(coco):
    from pycocotools import mask as coco_mask

    _, data = coco
    assert [c["name"] for c in data.loadCats(data.getCatIds())] == list(OBJECTS)
    entries = data.dataset["annotations"]
    assert len({entry["id"] for entry in entries}) == len(entries) > 20
    assert len({image["id"] for image in data.dataset["images"]}) == len(data.imgs)
    for entry in entries:
        image = data.imgs[entry["image_id"]]
        mask = data.annToMask(entry)
        assert mask.shape == (image["height"], image["width"])
        assert entry["area"] == mask.sum() > 0
        assert entry["bbox"] == coco_mask.toBbox(entry["segmentation"]).tolist()
        assert entry["category_id"] in range(1, len(OBJECTS) + 1)
        assert entry["iscrowd"] in (0, 1)


def test_coco_has_empty_images_crowds_and_overlaps_without_double_pixels(coco, shapes):
    split, data = coco
    assert [i for i in data.imgs if not data.getAnnIds(i)], "no image without objects"
    assert data.getAnnIds(iscrowd=True), "no crowd"
    touching = 0
    for image_id, image in data.imgs.items():
        path = shapes / "coco" / f"{split}2017" / image["file_name"]
        with Image.open(path) as photo:
            assert photo.size == (image["width"], image["height"])
        entries = data.loadAnns(data.getAnnIds(image_id, iscrowd=False))
        owners = sum((data.annToMask(e).astype(int) for e in entries), np.zeros((1, 1), int))
        assert owners.max() <= 1
        boxes = sum(e["bbox"][2] * e["bbox"][3] for e in entries)
        union = np.zeros((image["height"], image["width"]), bool)
        for x, y, w, h in (map(int, e["bbox"]) for e in entries):
            union[y : y + h, x : x + w] = True
        touching += boxes > union.sum()
    assert touching, "no image where boxes overlap"


def test_ade_masks_agree_with_the_instances(coco, shapes):
    split, data = coco
    ade = shapes / "ade" / "ADEChallengeData2016"
    seen = np.zeros(256, bool)
    for image_id, image in data.imgs.items():
        name = f"ADE_{split}_{image_id:08d}"
        photo = ade / "images" / SPLITS[split] / f"{name}.jpg"
        twin = shapes / "coco" / f"{split}2017" / image["file_name"]
        assert photo.read_bytes() == twin.read_bytes()
        with Image.open(ade / "annotations" / SPLITS[split] / f"{name}.png") as file:
            assert file.mode == "L"
            mask = np.asarray(file)
        assert mask.shape == (image["height"], image["width"])
        expected = np.full(mask.shape, 255, np.uint8)  # 255: background
        for entry in data.loadAnns(data.getAnnIds(image_id)):
            label = 0 if entry["iscrowd"] else entry["category_id"]
            expected[data.annToMask(entry) > 0] = label
        background = expected == 255
        assert (mask[~background] == expected[~background]).all()
        assert (mask[background] > len(OBJECTS)).all()
        seen[np.unique(mask)] = True
    assert not seen[len(SEG_CLASSES) + 1 :].any()
    assert seen[: len(SEG_CLASSES) + 1].all()
    assert (ade / "classes.txt").read_text().split() == list(SEG_CLASSES)


def test_class_names_fit_every_layout():
    assert list(OBJECTS) == sorted(OBJECTS)  # folders are labelled in this order
    assert SEG_CLASSES == OBJECTS + MATERIALS
    assert len(set(PALETTE)) == len(SEG_CLASSES)


def test_crops_show_the_class_of_their_folder(coco, shapes):
    split, data = coco
    folder = shapes / "imagenet" / split
    assert sorted(path.name for path in folder.iterdir()) == list(OBJECTS)
    crops = sorted(folder.glob("*/*.JPEG"))
    assert len(crops) > 10
    for path in crops:
        name, image_id, number = path.stem.split("_")
        entry = data.loadAnns(data.getAnnIds(int(image_id)))[int(number)]
        assert path.parent.name == name == OBJECTS[entry["category_id"] - 1]
        assert not entry["iscrowd"] and max(entry["bbox"][2:]) >= 20
        with Image.open(path) as file:
            assert np.asarray(file.convert("RGB")).shape == (CROP_SIDE, CROP_SIDE, 3)
