"""Every fault in COCO annotations is named with its annotation, image or category."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checking import NUM_TRAIN, assert_named, check, coco, edit
from mmengine.registry import DATASETS, DefaultScope

from care_mm.datasets.shapes import OBJECTS


def first(content: dict) -> dict:
    return content["annotations"][0]


def rename(content: dict, old: str, new: str) -> None:
    next(row for row in content["categories"] if row["name"] == old)["name"] = new


RLE = dict(size=[1, 1], counts=[1])
COCO_FAULTS = {
    "image twice": (
        lambda c: c["images"].append(c["images"][0]),
        ("1 x duplicate id", "image id 1"),
    ),
    "annotation twice": (
        lambda c: c["annotations"].append(first(c)),
        ("1 x duplicate id", "annotation id 1"),
    ),
    "category twice": (
        lambda c: c["categories"].append(c["categories"][2]),
        ("duplicate id", "category id 3"),
    ),
    "no file name": (
        lambda c: c["images"][0].pop("file_name"),
        ("incomplete image entry", '"id": 1'),
    ),
    "no size": (lambda c: c["images"][1].update(width=0), ("incomplete image entry", '"width": 0')),
    "no bbox": (lambda c: first(c).pop("bbox"), ("1 x incomplete annotation", "annotation 1")),
    "no area": (lambda c: first(c).pop("area"), ("1 x incomplete annotation", "annotation 1")),
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
        ("outside its image", "annotation 1", "[30, 30, 60, 60]"),
    ),
    "disjoint": (lambda c: first(c).update(bbox=[900, 1, 5, 5]), ("outside its image", "[900")),
    "no segmentation": (
        lambda c: first(c).pop("segmentation"),
        ("without segmentation", "annotation 1"),
    ),
    "no polygon": (
        lambda c: first(c).update(segmentation=[]),
        ("without segmentation", "annotation 1"),
    ),
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
    "RLE of another size": (lambda c: first(c).update(segmentation=RLE), ("invalid RLE", "[1, 1]")),
    "RLE of too much": (
        lambda c: first(c)["segmentation"].update(counts=[10**6]),
        ("invalid RLE", "1000000 pixels"),
    ),
    "RLE of nonsense": (
        lambda c: first(c)["segmentation"].update(counts="ÿ~"),
        ("invalid RLE", "cannot be decoded"),
    ),
    "class lacks": (lambda c: rename(c, "cube", "box"), ("not in the JSON", "'cube'")),
    "other order": (
        lambda c: c["categories"].reverse(),
        ("another position in the JSON", "'ball'"),
    ),
    "no file": (
        lambda c: c["images"][2].update(file_name="gone.jpg"),
        ("1 x missing image", "train2017/gone.jpg"),
    ),
    "other size": (
        lambda c: c["images"][2].update(width=63),
        ("another size than annotated", "000000000003.jpg", "annotated as 63 x"),
    ),
    "no list": (lambda c: c.pop("annotations"), ("not COCO JSON", "'annotations'")),
    "list of numbers": (lambda c: c.update(images=[1]), ("not COCO JSON", "'images'")),
}


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_faults_of_annotations_are_named(data: Path, fault: str) -> None:
    change, texts = COCO_FAULTS[fault]
    edit(data, change)
    assert_named(check(train=coco(data))["train"], *texts)


@pytest.mark.parametrize("box", [[1, 1, 0, 9], [1, 1, 9, 0.5]])
def test_boxes_that_mmdet_ignores_are_counted(data: Path, box: list) -> None:
    edit(data, lambda content: first(content).update(bbox=box))
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, "1 x object without width, height or area", "annotation 1", is_note=True)


@pytest.mark.parametrize("cut", [0, 1, 1000, -1])
def test_a_truncated_json_is_called_truncated(data: Path, cut: int) -> None:
    file = data / "coco" / "annotations" / "instances_train2017.json"
    content = file.read_text()[: cut or None] if cut else ""
    file.write_text(content)
    assert_named(
        check(train=coco(data))["train"],
        "not COCO JSON",
        f"{file}: {len(content):,} bytes; it ends too early",
    )


def test_the_crowd_flag_is_required_for_evaluation_only(data: Path) -> None:
    for split in ("train", "val"):
        edit(data, lambda content: first(content).pop("iscrowd"), split)
    reports = check(train=coco(data), val=coco(data, "val"))
    assert not reports["train"].problems
    assert_named(reports["val"], "without iscrowd", "annotation 1 of image 1")


def test_categories_in_another_order_get_wrong_names_in_mmdet(data: Path) -> None:
    edit(data, lambda content: content["categories"].reverse())
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({**coco(data), "pipeline": []})
    assert [dataset.cat2label[i + 1] for i in range(6)] == [5, 4, 3, 2, 1, 0]
    assert dataset.metainfo["classes"] == OBJECTS


def test_images_excluded_from_training_are_counted_as_in_mmdet(data: Path) -> None:
    edit(data, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] > 2]))
    filters = dict(filter_cfg=dict(filter_empty_gt=True, min_size=8))
    findings = check(train=coco(data, **filters))["train"]
    assert_named(findings, "2 x image excluded from training", is_note=True)
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({**coco(data, **filters), "pipeline": []})
    assert findings.num_samples == len(dataset) == NUM_TRAIN - 2
    filters = dict(filter_cfg=dict(min_size=1000))
    assert_named(
        check(train=coco(data, **filters))["train"],
        "without an image to train on",
        "6 images are excluded",
    )


@pytest.mark.parametrize("row", ["images", "annotations", "categories"])
@pytest.mark.parametrize(
    "value", [None, True, -1, 10**400, 1e999, "x", "\ud800\n", [1], {"a": 1}, []]
)
def test_no_value_stops_the_check(data: Path, row: str, value: object) -> None:
    """Any value in any field is a problem, a note or ok, and the report is printable."""
    file = data / "coco" / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for key, intact in content[row][0].items():
        for damaged in (value, [value] * 4, [[value] * 6], dict(size=[value] * 2, counts=value)):
            content[row][0][key] = damaged
            file.write_text(json.dumps(content))
            lines = list(check(limit=0, train=coco(data))["train"].lines())
            assert all(line.isprintable() for line in lines)
        content[row][0][key] = intact


def test_damaged_bytes_do_not_stop_the_check(data: Path) -> None:
    file = data / "coco" / "annotations" / "instances_train2017.json"
    intact = file.read_bytes()
    rng, verdicts = np.random.default_rng(0), set()
    for _ in range(200):
        content, place = bytearray(intact), int(rng.integers(len(intact)))
        content[place : place + int(rng.integers(4))] = rng.bytes(int(rng.integers(4)))
        file.write_bytes(content)
        findings = check(limit=0, train=coco(data))["train"]
        assert all(line.isprintable() for line in findings.lines())
        verdicts.add(bool(findings.problems))
    assert verdicts == {True, False}
