"""Every fault that is put into COCO annotations is named with what it is in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checking import NUM_TRAIN, assert_named, check, coco, edit
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import DATASETS, DefaultScope
from pycocotools import mask as coco_mask

from care_mm.datasets import check_coco
from care_mm.datasets.shapes.objects import OBJECTS


def first(content: dict) -> dict:
    return content["annotations"][0]


def rename(content: dict, old: str, new: str) -> None:
    next(row for row in content["categories"] if row["name"] == old)["name"] = new


RLE = dict(size=[1, 1], counts=[1])
COCO_FAULTS = {
    "image twice": (
        lambda c: c["images"].append(c["images"][0]),
        ("1 id is there twice", "image id 1"),
    ),
    "annotation twice": (
        lambda c: c["annotations"].append(first(c)),
        ("1 id is there twice", "annotation id 1"),
    ),
    "category twice": (
        lambda c: c["categories"].append(c["categories"][2]),
        ("ids are there twice", "category id 3"),
    ),
    "no file name": (lambda c: c["images"][0].pop("file_name"), ("entry of images", '"id": 1')),
    "no size": (lambda c: c["images"][1].update(width=0), ("entry of images", '"width": 0')),
    "no bbox": (lambda c: first(c).pop("bbox"), ("1 annotation is incomplete", "annotation 1")),
    "no area": (lambda c: first(c).pop("area"), ("1 annotation is incomplete", "annotation 1")),
    "unknown image": (
        lambda c: first(c).update(image_id=999),
        ("unknown image", "annotation 1 of image 999"),
    ),
    "unknown category": (
        lambda c: first(c).update(category_id=77),
        ("unknown category", "annotation 1", "category_id 77"),
    ),
    "NaN": (lambda c: first(c).update(bbox=[1, float("nan"), 9, 9]), ("four finite", "NaN")),
    "infinite": (lambda c: first(c).update(bbox=[1, 2, float("inf"), 9]), ("four finite", "Inf")),
    "three numbers": (lambda c: first(c).update(bbox=[1, 2, 3]), ("four finite", "[1, 2, 3]")),
    "text": (lambda c: first(c).update(bbox=["1", "2", "3", "4"]), ("four finite", '"1"')),
    "negative": (lambda c: first(c).update(bbox=[9, 9, -4, 4]), ("negative side", "[9, 9, -4, 4]")),
    "outside": (
        lambda c: first(c).update(bbox=[30, 30, 60, 60]),
        ("outside its picture", "annotation 1", "[30, 30, 60, 60]"),
    ),
    "beside": (lambda c: first(c).update(bbox=[900, 1, 5, 5]), ("outside its picture", "[900")),
    "no segmentation": (
        lambda c: first(c).pop("segmentation"),
        ("no segmentation", "annotation 1"),
    ),
    "no polygon": (lambda c: first(c).update(segmentation=[]), ("no segmentation", "annotation 1")),
    "two points": (
        lambda c: first(c).update(segmentation=[[1, 2, 3, 4]]),
        ("not polygons", "annotation 1", "[[1, 2, 3, 4]]"),
    ),
    "flat polygon": (
        lambda c: first(c).update(segmentation=[1, 2, 3, 4, 5, 6]),
        ("not polygons", "annotation 1"),
    ),
    "NaN polygon": (
        lambda c: first(c).update(segmentation=[[1, 2, 3, 4, 5, float("nan")]]),
        ("not polygons", "annotation 1"),
    ),
    "RLE of another size": (lambda c: first(c).update(segmentation=RLE), ("bad RLE", "[1, 1]")),
    "RLE of too much": (
        lambda c: first(c)["segmentation"].update(counts=[10**6]),
        ("bad RLE", "1000000 pixels"),
    ),
    "RLE of nonsense": (
        lambda c: first(c)["segmentation"].update(counts="ÿ~"),
        ("bad RLE", "cannot be decoded"),
    ),
    "class lacks": (lambda c: rename(c, "cube", "box"), ("not in the JSON", "'cube'")),
    "other order": (lambda c: c["categories"].reverse(), ("elsewhere in the JSON", "'ball'")),
    "no file": (
        lambda c: c["images"][2].update(file_name="gone.jpg"),
        ("1 image is missing", "train2017/gone.jpg"),
    ),
    "other size": (
        lambda c: c["images"][2].update(width=63),
        ("not of the size", "000000000003.jpg", "by its annotations 63 x"),
    ),
    "no list": (lambda c: c.pop("annotations"), ("not COCO's JSON", "'annotations'")),
    "list of numbers": (lambda c: c.update(images=[1]), ("not COCO's JSON", "'images'")),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_faults_of_annotations_are_named(data: Path, fault: str) -> None:
    change, texts = COCO_FAULTS[fault]
    edit(data, change)
    assert_named(check(train=coco(data))["train"], *texts)


@pytest.mark.parametrize("box", [[1, 1, 0, 9], [1, 1, 9, 0.5]])
def test_boxes_that_mmdet_leaves_out_are_counted(data: Path, box: list) -> None:
    edit(data, lambda content: first(content).update(bbox=box))
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, "1 object has no width, height or area", "annotation 1", fatal=False)


@pytest.mark.parametrize("cut", [0, 1, 1000, -1])
def test_a_truncated_json_is_called_so(data: Path, cut: int) -> None:
    file = data / "coco" / "annotations" / "instances_train2017.json"
    content = file.read_text()[: cut or None] if cut else ""
    file.write_text(content)
    assert_named(
        check(train=coco(data))["train"],
        "not COCO's JSON",
        f"{file} ({len(content):,} bytes; it ends too early)",
    )


def test_the_crowd_flag_is_asked_for_where_the_evaluation_reads_it(data: Path) -> None:
    for split in ("train", "val"):
        edit(data, lambda content: first(content).pop("iscrowd"), split)
    found = check(train=coco(data), val=coco(data, "val"))
    assert not found["train"].problems
    assert_named(found["val"], "no iscrowd", "annotation 1 of image 1")


def test_an_order_that_is_called_a_problem_is_one(data: Path) -> None:
    """What mmdet makes of categories in another order: names that do not fit the labels."""
    edit(data, lambda content: content["categories"].reverse())
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({**coco(data), "pipeline": []})
    assert [dataset.cat2label[i + 1] for i in range(6)] == [5, 4, 3, 2, 1, 0]
    assert dataset.metainfo["classes"] == OBJECTS


def test_what_training_leaves_out_is_counted_as_mmdet_does(data: Path) -> None:
    edit(data, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] > 2]))
    filters = dict(filter_cfg=dict(filter_empty_gt=True, min_size=8))
    findings = check(train=coco(data, **filters))["train"]
    assert_named(findings, "2 images are left out of training", fatal=False)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({**coco(data, **filters), "pipeline": []})
    assert findings.num_samples == len(dataset) == NUM_TRAIN - 2
    filters = dict(filter_cfg=dict(min_size=1000))
    assert_named(check(train=coco(data, **filters))["train"], "no image to train on", "6 are left")


@pytest.mark.parametrize("row", ["images", "annotations", "categories"])
@pytest.mark.parametrize(
    "value", [None, True, -1, 10**400, 1e999, "x", "\ud800\n", [1], {"a": 1}, []]
)
def test_no_value_stops_the_check(data: Path, row: str, value: object) -> None:
    """Any value in any field is a problem, a note or well, and what is said fits in lines."""
    file = data / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for key, whole in content[row][0].items():
        for spoilt in (value, [value] * 4, [[value] * 6], dict(size=[value] * 2, counts=value)):
            content[row][0][key] = spoilt
            file.write_text(json.dumps(content))
            lines = list(check(limit=0, train=coco(data))["train"].lines())
            assert all(line.isprintable() for line in lines)
        content[row][0][key] = whole


def test_damaged_bytes_do_not_stop_the_check(data: Path) -> None:
    file = data / "coco" / "annotations" / "instances_train2017.json"
    whole = file.read_bytes()
    rng, verdicts = np.random.default_rng(0), set()
    for _ in range(200):
        content, place = bytearray(whole), int(rng.integers(len(whole)))
        content[place : place + int(rng.integers(4))] = rng.bytes(int(rng.integers(4)))
        file.write_bytes(content)
        findings = check(limit=0, train=coco(data))["train"]
        assert all(line.isprintable() for line in findings.lines())
        verdicts.add(bool(findings.problems))
    assert verdicts == {True, False}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_run_lengths_are_decoded_as_by_pycocotools(height, width, seed, share) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    rle = coco_mask.encode(np.asfortranarray(mask))
    counts = check_coco._decompressed(rle["counts"].decode())
    pixels = np.repeat(np.arange(len(counts)) % 2, counts)
    assert np.array_equal(pixels, mask.ravel(order="F"))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_any_text_for_counts_is_refused_or_adds_up(text: str) -> None:
    error = check_coco._rle_error(dict(size=[5, 7], counts=text), 5, 7)
    assert error or check_coco._decompressed(text).sum() == 35
