"""Intact data are ok; data that disagree with each other or with the model are named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from checking import ade, assert_named, check, coco, details, folders
from mmengine.config import Config

from care_mm.datasets.check import check_config
from care_mm.datasets.shapes import OBJECTS
from care_mm.errors import InputError


def test_drawn_data_are_ok(drawn: Path) -> None:
    reports = check(train=coco(drawn), val=coco(drawn, "val"), test=coco(drawn, "val"))
    assert not any(findings.problems for findings in reports.values())
    lines = [next(findings.lines()) for findings in reports.values()]
    annotations = json.loads(
        (drawn / "coco" / "annotations" / "instances_train2017.json").read_text()
    )["annotations"]
    assert lines[0] == f"train: ok (6 images, {len(annotations)} annotations, 6 classes)"
    assert lines[2] == "test: ok (the same data as val)"

    train = check(train=ade(drawn))["train"]
    assert not train.problems, details(train)
    assert next(train.lines()) == "train: ok (6 images with masks, 11 classes)"

    reports = check(train=folders(drawn), val=folders(drawn, "val"))
    assert not reports["train"].problems and not reports["val"].problems
    assert reports["train"].num_classes == len(OBJECTS)


@pytest.mark.parametrize("times", [1, 2])
def test_data_sets_inside_wrappers_are_checked(drawn: Path, times: int) -> None:
    repeated = dict(type="RepeatDataset", times=3, dataset=coco(drawn))
    both = dict(type="ConcatDataset", datasets=[repeated] + [coco(drawn, "val")] * (times - 1))
    reports = check(train=both, scope="mmdet")
    assert (
        list(reports)
        == {
            1: ["train", "model"],
            2: ["train (1 of 2)", "train (2 of 2)", "model"],
        }[times]
    )
    assert "6 images" in next(next(iter(reports.values())).lines())


def test_heads_with_another_number_of_classes_are_named(drawn: Path) -> None:
    model = dict(
        backbone=dict(num_classes=5),
        roi_head=dict(bbox_head=dict(num_classes=80), mask_head=[dict(num_classes=6)]),
    )
    findings = check(train=coco(drawn), model=model)["model"]
    assert_named(findings, "model.roi_head.bbox_head.num_classes=80: 6 classes")
    assert len(findings.problems) == 1 and findings.summary == "2 x num_classes"


def test_other_classes_in_another_split_are_named(drawn: Path) -> None:
    val = {**coco(drawn, "val"), "metainfo": dict(classes=OBJECTS[:-1])}
    findings = check(train=coco(drawn), val=val)["val"]
    assert_named(findings, "other classes than the training data", "5 classes against 6", "'star'")


def test_a_batch_larger_than_the_data_is_named(drawn: Path) -> None:
    loader = dict(batch_size=7, drop_last=True, dataset=coco(drawn))
    config = Config(dict(default_scope="mmdet", train_dataloader=loader))
    findings = next(check_config(config))
    assert_named(findings, "without a full batch", "6 images, batch_size 7")


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
    assert_named(model, "topk beyond the classes", "val_evaluator.topk=(1, 9): 6 classes")


def test_a_split_that_is_not_in_the_config_is_an_error() -> None:
    with pytest.raises(InputError, match="no val_dataloader"):
        list(check_config(Config(dict(default_scope="mmdet")), ("val",)))
