"""Data that serve are called well; files, paths and configs that do not are named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import mmcv
import numpy as np
import pytest
from checking import NUM_TRAIN, NUM_VAL, ade, assert_named, check, coco, edit, folders, said
from mmengine.config import Config
from PIL import Image

from care_mm.datasets import check_images
from care_mm.datasets.check.config import check_config
from care_mm.datasets.shapes.objects import OBJECTS
from care_mm.errors import InputError

# Data that serve


def test_drawn_data_are_well(drawn: Path) -> None:
    found = check(train=coco(drawn), val=coco(drawn, "val"), test=coco(drawn, "val"))
    assert not any(findings.problems for findings in found.values())
    lines = [next(findings.lines()) for findings in found.values()]
    annotations = json.loads(
        (drawn / "coco" / "annotations" / "instances_train2017.json").read_text()
    )["annotations"]
    assert lines[0] == f"train: 6 images, {len(annotations)} annotations, 6 classes: well"
    assert lines[2] == "test: the same data as val: well"

    found = check(train=ade(drawn))
    assert not found["train"].problems, said(found["train"])
    assert next(found["train"].lines()) == "train: 6 images with masks, 11 classes: well"

    found = check(train=folders(drawn), val=folders(drawn, "val"))
    assert not found["train"].problems and not found["val"].problems
    assert found["train"].num_classes == len(OBJECTS)


@pytest.mark.parametrize("times", [1, 2])
def test_wrappers_are_looked_into(drawn: Path, times: int) -> None:
    repeated = dict(type="RepeatDataset", times=3, dataset=coco(drawn))
    both = dict(type="ConcatDataset", datasets=[repeated] + [coco(drawn, "val")] * (times - 1))
    found = check(train=both, scope="mmdet")
    assert (
        list(found)
        == {
            1: ["train", "model"],
            2: ["train (1 of 2)", "train (2 of 2)", "model"],
        }[times]
    )
    assert "6 images" in next(next(iter(found.values())).lines())


def test_shapes_are_checked_once_they_are_drawn(drawn: Path, tmp_path: Path) -> None:
    draw = dict(num_train=NUM_TRAIN, num_val=NUM_VAL, size=96)
    shapes = {**coco(drawn), "type": "Shapes", "of": "CocoDataset", "draw": draw}
    assert "6 images" in next(check(train=shapes, scope="mmdet")["train"].lines())
    elsewhere = {**shapes, "data_root": str(tmp_path / "new" / "coco")}
    findings = check(train=elsewhere, scope="mmdet")["train"]
    assert "will be drawn" in next(findings.lines()) and not findings.problems
    assert not (tmp_path / "new").exists(), "a check has drawn the data"
    other = {**shapes, "draw": dict(draw, size=64)}
    assert_named(check(train=other, scope="mmdet")["train"], "size 96 (asked for: 64)")


# Pictures

PICTURES = {
    "empty": (lambda file: file.write_bytes(b""), "an empty file"),
    "truncated": (
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "truncated",
    ),
    "html": (lambda file: file.write_text("<html>404</html>"), "a text file"),
    "noise": (lambda file: file.write_bytes(bytes(range(256)) * 9), "cannot identify"),
}


@pytest.mark.parametrize("fault", PICTURES)
def test_a_file_that_is_no_picture_is_named(data: Path, fault: str) -> None:
    spoil, reason = PICTURES[fault]
    coco_file = data / "coco" / "train2017" / "000000000003.jpg"
    crop = next((data / "imagenet" / "train" / "cube").iterdir())
    mask = next((data / "ade" / "ADEChallengeData2016" / "annotations" / "training").iterdir())
    for file in (coco_file, crop, mask):
        content = file.read_bytes()
        file.unlink()  # not written through hard links
        file.write_bytes(content)
        spoil(file)
    assert_named(check(train=coco(data))["train"], "picture cannot be read", str(coco_file), reason)
    assert_named(check(train=folders(data))["train"], "picture cannot be read", str(crop), reason)
    assert_named(check(train=ade(data))["train"], "mask cannot be read", str(mask), reason)


MODES = {
    "L": "is grayscale",
    "CMYK": "is CMYK",
    "P": "has a palette",
    "RGBA": "has alpha",
    "I;16": "has more than 8 bits",
}


@pytest.mark.parametrize("mode", MODES)
def test_pictures_that_are_not_rgb_are_noted_and_load(data: Path, mode: str) -> None:
    file = data / "coco" / "train2017" / "000000000002.jpg"
    picture = Image.open(file)
    size = picture.size
    picture = picture.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16) * 257)
    file.unlink()
    picture.save(file, "JPEG" if mode in ("L", "CMYK") else "PNG")
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, f"1 picture {MODES[mode]}", str(file), fatal=False)
    loaded = mmcv.imread(str(file))
    assert loaded.shape == (size[1], size[0], 3) and loaded.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_that_opencv_loads(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "turned.jpg"
    Image.new("RGB", (40, 24)).save(file, exif=exif)
    for color in ("color", "color_ignore_orientation", "unchanged"):
        loads = [dict(type="LoadImageFromFile", color_type=color)]
        orient = check_images.is_turned_by_exif(dict(pipeline=loads))
        height, width = mmcv.imread(str(file), flag=color).shape[:2]
        assert check_images.open_picture(file, orient).size == (width, height)


def test_a_turned_picture_has_to_be_annotated_as_turned(data: Path) -> None:
    file = data / "coco" / "train2017" / "000000000001.jpg"
    picture = Image.open(file)
    picture.load()
    width, height = picture.size
    assert width != height
    exif = Image.Exif()
    exif[0x0112] = 6
    file.unlink()
    picture.save(file, exif=exif)
    named = f"{file} ({height} x {width}, by its annotations {width} x {height})"
    assert_named(check(train=coco(data))["train"], "not of the size", named)
    edit(data, lambda content: content["images"][0].update(width=height, height=width))
    edit(data, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 1]))
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, "turned by its EXIF data", str(file), fatal=False)


def test_a_sample_is_even_and_bounded() -> None:
    assert list(check_images.sample(range(5), 9)) == list(range(5))
    assert list(check_images.sample(range(5), None)) == list(range(5))
    assert check_images.sample(range(101), 5) == [0, 25, 50, 75, 100]
    assert list(check_images.sample(range(5), 0)) == []


# Config


def test_paths_that_lack_are_all_named(tmp_path: Path) -> None:
    findings = check(train=coco(tmp_path))["train"]
    assert_named(findings, "2 paths do not exist", "instances_train2017.json", "docs/data.md")
    assert "train2017" in list(findings.lines(show=2))[-1]


def test_heads_of_another_width_are_named(drawn: Path) -> None:
    model = dict(
        backbone=dict(num_classes=5),
        roi_head=dict(bbox_head=dict(num_classes=80), mask_head=[dict(num_classes=6)]),
    )
    findings = check(train=coco(drawn), model=model)["model"]
    assert_named(findings, "model.roi_head.bbox_head.num_classes=80 (6 classes)")
    assert len(findings.problems) == 1 and "2 places" in findings.summary


def test_a_string_for_the_classes_is_named(drawn: Path) -> None:
    settings = {**coco(drawn), "metainfo": dict(classes="cube")}
    assert_named(check(train=settings)["train"], "string is given", "'cube'")


def test_arguments_that_a_data_set_does_not_have_are_named(drawn: Path) -> None:
    assert_named(check(train=coco(drawn, anfile="x"))["train"], "cannot be built", "anfile")


def test_splits_have_the_same_classes(drawn: Path) -> None:
    val = {**coco(drawn, "val"), "metainfo": dict(classes=OBJECTS[:-1])}
    findings = check(train=coco(drawn), val=val)["val"]
    assert_named(findings, "other classes than the training's", "5 classes against 6", "'star'")


def test_a_batch_larger_than_the_data_is_named(drawn: Path) -> None:
    loader = dict(batch_size=7, drop_last=True, dataset=coco(drawn))
    config = Config(dict(default_scope="mmdet", train_dataloader=loader))
    findings = next(check_config(config))
    assert_named(findings, "no full batch", "6 images, batch_size 7")


def test_an_evaluator_with_other_annotations_is_named(drawn: Path) -> None:
    config = Config(
        dict(
            default_scope="mmdet",
            val_dataloader=dict(dataset=coco(drawn, "val")),
            val_evaluator=dict(type="CocoMetric", ann_file="data/coco/x.json"),
            test_dataloader=dict(dataset={**coco(drawn, "val"), "backend_args": None}),
            test_evaluator=dict(
                type="CocoMetric",
                ann_file=os.path.relpath(drawn / "coco/annotations/instances_val2017.json"),
            ),
        )
    )
    val, test, _ = check_config(config)
    assert_named(val, "another ann_file than its data", "data/coco/x.json")
    assert not test.problems


def test_top_5_of_three_classes_is_named(drawn: Path) -> None:
    config = Config(
        dict(
            default_scope="mmpretrain",
            val_dataloader=dict(dataset=folders(drawn, "val")),
            val_evaluator=dict(type="Accuracy", topk=(1, 9)),
        )
    )
    *_, model = check_config(config)
    assert_named(model, "topk is beyond the classes", "val_evaluator.topk=(1, 9) (6 classes)")


def test_types_of_their_own_are_not_guessed_at(drawn: Path) -> None:
    settings = dict(type="LVISV1Dataset", ann_file=str(drawn / "shapes.json"))
    findings = check(train=settings, scope="mmdet")["train"]
    assert_named(findings, "not known here", "LVISV1Dataset", fatal=False)
    assert not findings.problems


def test_a_split_that_the_config_lacks_is_an_error() -> None:
    with pytest.raises(InputError, match="no val_dataloader"):
        list(check_config(Config(dict(default_scope="mmdet")), ("val",)))
