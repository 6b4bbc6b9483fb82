"""Every fault in COCO annotations is named with its annotation, image or category."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checking import NUM_TRAIN, WITH_MASKS, assert_named, check, coco, details, edit
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from care_mm.datasets.check import check_config
from care_mm.datasets.check.findings import Findings
from care_mm.datasets.check.instances import check_boxes
from care_mm.datasets.shapes import OBJECTS


def first(content: dict) -> dict:
    return content["annotations"][0]


def every(**values: object):
    return lambda content: [row.update(values) for row in content["annotations"]]


def each(change):
    return lambda content: [change(row) for row in content["annotations"]]


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
    "all crowds": (every(iscrowd=1), ("objects are all left out", "x iscrowd")),
    "all ignored": (every(ignore=1), ("objects are all left out", "x ignore")),
    "all without area": (every(area=0), ("objects are all left out", "x area of 0")),
    "text as a flag": (
        lambda c: first(c).update(iscrowd="0"),
        ("iscrowd that is not 0 or 1", "'0'"),
    ),
    "fractions": (
        each(lambda a: a.update(bbox=[v / 96 for v in a["bbox"]])),
        ("boxes as fractions",),
    ),
    "text on one side": (
        each(lambda a: a.update(image_id=str(a["image_id"]))),
        ("unknown image", "of image '1'", "is text"),
    ),
    "huge area": (lambda c: first(c).update(area=2e10), ("area beyond", "2e+10")),
    "mask elsewhere": (
        lambda c: first(c).update(bbox=[60, 40, 9, 9], segmentation=[[1, 1, 5, 1, 5, 5, 1, 5]]),
        ("does not overlap its bbox", "annotation 1", "[60, 40, 9, 9]"),
    ),
    "masks in another unit": (
        every(segmentation=[[0.1, 0.1, 0.5, 0.1, 0.5, 0.5, 0.1, 0.5]]),
        ("segmentations and boxes differ",),
    ),
    "polygon far away": (
        lambda c: first(c).update(segmentation=[[1, 1, 1e9, 1, 5, 5]]),
        ("far outside its image", "annotation 1"),
    ),
    "no object": (lambda c: c.update(annotations=[]), ("without an object of the classes",)),
    "no image": (lambda c: c.update(images=[], annotations=[]), ("with no image",)),
    "case of a class": (lambda c: rename(c, "cube", "Cube "), ("'cube'", "did you mean 'Cube '?")),
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


SPELLINGS = {
    "backslash": lambda name: "train2017\\" + name,
    "address": lambda name: "file:///data/train2017/" + name,
    "root": lambda name: "/" + name,
    "suffix": lambda name: name.replace(".jpg", ".JPG"),
    "other suffix": lambda name: name.replace(".jpg", ".jpeg"),
    "prefix": lambda name: "train2017/" + name,
    "percent": lambda name: name.replace("0", "%30"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_image_under_another_spelling_is_suggested(data: Path, spelling: str) -> None:
    change = SPELLINGS[spelling]
    edit(data, lambda c: c["images"][0].update(file_name=change(c["images"][0]["file_name"])))
    findings = check(train=coco(data))["train"]
    path = data / "coco" / "train2017" / "000000000001.jpg"
    assert_named(findings, "name exists elsewhere", f"did you mean {path}?")


def test_composed_and_decomposed_accents_are_the_same_name(data: Path) -> None:
    folder = data / "coco" / "train2017"
    (folder / "000000000001.jpg").rename(folder / "\u00e9.jpg")
    edit(data, lambda c: c["images"][0].update(file_name="e\u0301.jpg"))
    assert_named(check(train=coco(data))["train"], "name exists elsewhere", "\u00e9.jpg?")


def test_a_class_whose_objects_are_all_crowds_is_noted(data: Path) -> None:
    edit(data, each(lambda a: a.update(iscrowd=int(a["category_id"] == 3))))
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, "objects are all left out", "'flower'", "x iscrowd", is_note=True)
    assert findings.objects["flower"] == 0 and findings.left_out["iscrowd"] > 0


def evaluated(data: Path, metric: dict | None = None, **changes: object):
    """Return the findings on validation data with an evaluator that reads their file."""
    file = data / "coco" / "annotations" / "instances_val2017.json"
    content = dict(
        default_scope="mmdet",
        val_dataloader=dict(dataset={**coco(data, "val"), **changes}),
        val_evaluator={**dict(type="CocoMetric", ann_file=str(file)), **(metric or {})},
    )
    return next(check_config(Config(content), ("val",)))


def test_an_evaluation_of_a_part_of_the_images_is_refused(data: Path) -> None:
    assert_named(evaluated(data, indices=1), "1 of the 2 images of", "are evaluated")
    filters = dict(test_mode=False, filter_cfg=dict(min_size=1000))
    assert "without an image to train on" in details(evaluated(data, **filters))
    edit(data, lambda c: c.update(annotations=c["annotations"][:1]), "val")
    assert not evaluated(data, indices=1).problems, "the other image has nothing to miss"


def test_a_test_set_without_annotations_can_be_formatted_only(data: Path) -> None:
    edit(data, lambda c: c.pop("annotations"), "val")
    assert_named(evaluated(data), "without annotations that is evaluated", "format_only=True")
    assert not evaluated(data, dict(format_only=True, outfile_prefix="x")).problems


def test_more_than_100_objects_of_a_class_are_noted(data: Path) -> None:
    def repeat(content: dict) -> None:
        row = content["annotations"][0]
        content["annotations"] += [dict(row, id=1000 + i) for i in range(110)]

    edit(data, repeat, "val")
    findings = evaluated(data)
    assert findings.is_dense and findings.most_objects > 110
    assert_named(findings, "over 100 objects of a class", is_note=True)
    other = evaluated(data, dict(metric_items=["mAP_50", "mAP_75"]))
    assert not other.is_dense and "over 100" not in details(other)


def test_a_truth_from_the_samples_has_to_be_packed(data: Path) -> None:
    assert_named(evaluated(data, dict(ann_file=None)), "CocoMetric without ann_file", "meta_keys")
    packs = [*WITH_MASKS, dict(type="PackDetInputs", meta_keys=("img_id", "instances"))]
    assert not evaluated(data, dict(ann_file=None), pipeline=packs).problems


def test_unsorted_category_ids_exchange_names_in_the_table_of_classes(data: Path) -> None:
    def turn(content: dict) -> None:
        for row in content["categories"]:
            row["id"] = 7 - row["id"]
        for row in content["annotations"]:
            row["category_id"] = 7 - row["category_id"]

    edit(data, turn, "val")
    assert not evaluated(data).problems
    assert_named(evaluated(data, dict(classwise=True)), "category ids that do not ascend")


def test_boxes_in_percent_are_recognised() -> None:
    rng = np.random.default_rng(0)
    images = {1: dict(width=640, height=480)}
    starts = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([starts, rng.uniform(10, 39, (40, 2))], axis=1)
    rows = [dict(id=i, image_id=1, bbox=box.tolist(), area=9) for i, box in enumerate(boxes)]
    findings = Findings()
    check_boxes(rows, images, findings)
    assert_named(findings, "boxes as percent", "640 x 480")
    for row in rows:
        row["bbox"] = [4 * v for v in row["bbox"]]
    findings = Findings()
    check_boxes(rows, images, findings)
    assert not findings.offenders
