"""Intact data are ok; data that disagree with each other or with the model are named."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from checking import ade, assert_named, check, coco, details, edit, folders
from mmengine.config import Config

from care_mm.datasets.check import check_config, refuse_bad_annotations
from care_mm.datasets.check.coverage import result_files
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


def test_a_crop_without_a_filter_behind_it_is_a_note(drawn: Path) -> None:
    crop, pack = dict(type="RandomCrop", crop_size=(32, 32)), dict(type="PackDetInputs")
    for pipeline, noted in (
        ([crop, pack], True),
        ([dict(type="mmdet.RandomCrop", crop_size=(32, 32)), pack], True),
        ([dict(type="FilterAnnotations"), crop, pack], True),
        ([crop, dict(type="FilterAnnotations"), pack], False),
        ([crop, dict(type="PackSegInputs")], False),
    ):
        data = {**coco(drawn), "pipeline": pipeline}
        findings = check(train=data, scope="mmdet")["train"]
        lines = [line for line in findings.lines() if "put FilterAnnotations behind it" in line]
        assert bool(lines) == noted and not findings.problems, pipeline


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


def both_sets(drawn: Path, evaluator: dict, first: dict, second: dict) -> str:
    """Return the findings on two validation sets in one loader."""
    both = dict(type="ConcatDataset", datasets=[first, second])
    content = dict(val_dataloader=dict(dataset=both), val_evaluator=evaluator)
    config = Config(dict(default_scope="mmdet", **content))
    return "\n".join(line for f in check_config(config) if f.problems for line in f.lines())


def test_one_metric_for_several_data_sets_is_refused_if_ids_collide(data: Path) -> None:
    files = [data / "coco" / f"annotations/instances_{s}2017.json" for s in ("val", "train")]
    sets = [{**coco(data, s), "test_mode": True} for s in ("val", "train")]
    metrics = [dict(type="CocoMetric", ann_file=str(file)) for file in files]
    assert "MultiDatasetsEvaluator" in both_sets(data, metrics[0], *sets)
    many = dict(type="MultiDatasetsEvaluator", metrics=metrics, dataset_prefixes=["a", "b"])
    assert both_sets(data, many, *sets) == ""
    assert "another number of metrics" in both_sets(data, {**many, "metrics": metrics[:1]}, *sets)

    def renumber(content: dict) -> None:
        for row in content["images"]:
            row["id"] += 1000
        for number, row in enumerate(content["annotations"]):
            row.update(image_id=row["image_id"] + 1000, id=1000 + number)

    edit(data, renumber, "train")
    merged, other = (json.loads(file.read_text()) for file in files)
    for table in ("images", "annotations"):
        merged[table] += other[table]
    (data / "merged.json").write_text(json.dumps(merged))
    assert both_sets(data, {**metrics[0], "ann_file": str(data / "merged.json")}, *sets) == ""
    assert "MultiDatasetsEvaluator" in both_sets(data, metrics[0], *sets)


def test_an_evaluation_of_repeated_images_is_refused(drawn: Path) -> None:
    file = str(drawn / "coco" / "annotations" / "instances_val2017.json")
    for times, is_refused in ((1, False), (2, True)):
        repeated = dict(type="RepeatDataset", times=times, dataset=coco(drawn, "val"))
        config = Config(
            dict(
                default_scope="mmdet",
                val_dataloader=dict(dataset=repeated),
                val_evaluator=dict(type="CocoMetric", ann_file=file),
            )
        )
        assert bool(next(check_config(config)).problems) is is_refused


def test_a_batch_counts_repeated_and_joined_images(drawn: Path) -> None:
    repeated = dict(type="RepeatDataset", times=2, dataset=coco(drawn))
    for batch, is_refused in ((12, False), (13, True)):
        loader = dict(batch_size=batch, drop_last=True, dataset=repeated)
        findings = next(check_config(Config(dict(default_scope="mmdet", train_dataloader=loader))))
        assert bool(findings.problems) is is_refused


IGNORED = {
    "all alike": ({}, 0),
    "head": (dict(model=dict(decode_head=dict(num_classes=11, ignore_index=255))), 1),
    "auxiliary head": (
        dict(model=dict(decode_head=dict(ignore_index=100), auxiliary_head=[dict()])),
        1,
    ),
    "metric": (dict(val_evaluator=dict(type="IoUMetric")), 1),
    "format only": (dict(val_evaluator=dict(type="IoUMetric", format_only=True)), 0),
    "scope in the type": (dict(val_evaluator=dict(type="mmseg.IoUMetric")), 1),
}


@pytest.mark.parametrize("case", IGNORED)
def test_ignored_labels_of_data_model_and_metric_agree(data: Path, case: str) -> None:
    changes, number = IGNORED[case]
    dataset = ade(data, reduce_zero_label=False, ignore_index=100)
    content = dict(
        default_scope="mmseg",
        model=dict(decode_head=dict(num_classes=11, ignore_index=100)),
        train_dataloader=dict(dataset=dataset),
        val_dataloader=dict(dataset={**dataset, "backend_args": None}),
        val_evaluator=dict(type="IoUMetric", ignore_index=100),
    )
    *_, model = check_config(Config({**content, **changes}), limit=0)
    assert len(model.problems) == number
    if number:
        assert_named(model, "ignore_index that differs", "=100")


def test_a_padding_that_is_no_label_is_noted(drawn: Path) -> None:
    settings = ade(drawn, reduce_zero_label=False, ignore_index=100)
    for preprocessor, said in (
        (dict(seg_pad_val=100), None),
        (dict(seg_pad_val=0), "padded pixels are learned as that class"),
        (dict(seg_pad_val=255), "an error as soon as an image is padded"),
        (dict(), "an error as soon as an image is padded"),
    ):
        head = dict(num_classes=11, ignore_index=100)
        model = dict(decode_head=head, data_preprocessor=preprocessor)
        findings = check(limit=0, train=settings, model=model)["model"]
        assert not findings.problems and ("seg_pad_val" in details(findings)) is bool(said)
        if said:
            assert_named(findings, "seg_pad_val", said, is_note=True)


def test_the_start_of_training_opens_no_image(data: Path) -> None:
    for file in data.rglob("*.jp*g"):
        file.write_bytes(b"")
    config = Config(dict(default_scope="mmdet", train_dataloader=dict(dataset=coco(data))))
    assert not refuse_bad_annotations(config, ("train", "val"))[0].problems
    edit(data, lambda content: content.update(annotations=[]))
    with pytest.raises(InputError, match=r"train: 1 x data set without an object.*check_data"):
        refuse_bad_annotations(config, ("train", "val"))


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


def test_written_predictions_are_found(tmp_path: Path) -> None:
    prefix = tmp_path / "res"
    for kind in ("bbox", "segm"):
        (tmp_path / f"res.{kind}.json").touch()
    metric = dict(type="CocoMetric", format_only=True, outfile_prefix=str(prefix))
    assert result_files([metric]) == [f"{prefix}.bbox.json", f"{prefix}.segm.json"]
    assert result_files(dict(type="IoUMetric", format_only=True, output_dir="masks")) == ["masks"]
    assert result_files({**metric, "format_only": False}) == result_files(None) == []
