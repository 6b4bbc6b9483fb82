"""The heads and metrics of a config fit its data, also those that the config leaves to defaults."""

from __future__ import annotations

from pathlib import Path

import pytest
from checking import ade, assert_named, check, coco, details, folders
from mmengine.config import Config

from care_mm.datasets.check import check_config

ROI = dict(type="StandardRoIHead", bbox_head=dict(type="Shared2FCBBoxHead", num_classes=6))
HEADS = {
    # name: (model, what the check says about it; empty if it fits six classes)
    "boxes by default": (
        dict(roi_head=dict(ROI, bbox_head=dict(type="Shared2FCBBoxHead"))),
        "model.roi_head.bbox_head.num_classes=80: 6 classes",
    ),
    "a cascade": (
        dict(roi_head=dict(ROI, bbox_head=[dict(type="mmdet.Shared2FCBBoxHead")] * 2)),
        "2 x num_classes that is not the number of classes, e.g. model.roi_head.bbox_head.0.",
    ),
    "masks by default": (
        dict(roi_head=dict(ROI, mask_head=dict(type="FCNMaskHead"))),
        "model.roi_head.mask_head.num_classes=80",
    ),
    "things and stuff": (
        dict(panoptic_head=dict(type="Mask2FormerHead", num_stuff_classes=0)),
        "num_things_classes + num_stuff_classes=80",
    ),
    "things that fit": (
        dict(panoptic_head=dict(type="Mask2FormerHead", num_things_classes=6, num_stuff_classes=0)),
        "",
    ),
    "a wrapped detector": (
        dict(detector=dict(roi_head=dict(ROI, bbox_head=dict(type="BBoxHead")))),
        "model.detector.roi_head.bbox_head.num_classes=80",
    ),
    "all given": (dict(roi_head=ROI, rpn_head=dict(type="RPNHead")), ""),
    "stuff beside the objects": (
        dict(roi_head=dict(ROI, semantic_head=dict(type="FusedSemanticHead", num_classes=183))),
        "",
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_every_head_of_a_detector_has_the_classes_of_the_data(drawn: Path, name: str) -> None:
    model, said = HEADS[name]
    found = list(details(check(limit=0, train=coco(drawn), model=model)["model"]).splitlines())
    assert (said in "".join(found)) if said else not found, found


def test_heads_of_segmentors_and_classifiers_have_the_classes_of_the_data(drawn: Path) -> None:
    boundaries = dict(type="STDCHead", num_classes=2)
    for head, said in (
        (dict(type="FPNHead", num_classes=11), ""),
        (dict(type="MaskFormerHead"), "decode_head.num_classes=150"),
    ):
        model = dict(decode_head=head, auxiliary_head=[boundaries])
        findings = check(limit=0, train=ade(drawn), model=model)["model"]
        assert (said in details(findings)) if said else not findings.problems
    for head, said in (
        (dict(type="LinearClsHead", num_classes=6), ""),
        (dict(type="LeViTClsHead"), "model.head.num_classes=1000"),
    ):
        findings = check(limit=0, train=folders(drawn), model=dict(head=head))["model"]
        assert (said in details(findings)) if said else not findings.problems


@pytest.mark.parametrize(
    ("numbers", "is_refused"),
    [
        ((100, 300, 1000), False),
        ((1, 10, 100), False),
        ((300, 500, 1000), True),
        ((100,), True),
        ((1000, 300, 100), True),
    ],
)
def test_numbers_of_detections_that_cocos_summary_does_not_find(
    drawn: Path, numbers: tuple, is_refused: bool
) -> None:
    file = str(drawn / "coco" / "annotations" / "instances_val2017.json")
    metric = dict(type="CocoMetric", ann_file=file, proposal_nums=numbers)
    content = dict(val_dataloader=dict(dataset=coco(drawn, "val")), val_evaluator=metric)
    *_, model = check_config(Config(dict(default_scope="mmdet", **content)), limit=0)
    assert bool(model.problems) is is_refused
    if is_refused:
        assert_named(model, "val_evaluator.proposal_nums", "100")


def test_a_detector_of_few_detections_is_noted(drawn: Path) -> None:
    file = str(drawn / "coco" / "annotations" / "instances_val2017.json")
    for number, is_noted in ((1, True), (100, False)):
        content = dict(
            default_scope="mmdet",
            model=dict(test_cfg=dict(rcnn=dict(max_per_img=number))),
            val_dataloader=dict(dataset=coco(drawn, "val")),
            val_evaluator=dict(type="CocoMetric", ann_file=file),
        )
        *_, model = check_config(Config(content), limit=0)
        assert not model.problems and ("max_per_img" in details(model)) is is_noted


ARGUMENTS = {
    # arguments of CocoMetric: what the check says; empty if it accepts them
    "items": (dict(metric_items=["mAP", "map_50"]), "'map_50'; did you mean 'mAP_50'?"),
    "known items": (dict(metric_items=["mAP_75", "AR@100"]), ""),
    "a number": (dict(iou_thrs=0.5), "iou_thrs=0.5"),
    "without 0.75": (dict(iou_thrs=[0.5]), "iou_thrs=[0.5]"),
    "without 0.75, which is not asked for": (dict(iou_thrs=[0.5], metric_items=["mAP_50"]), ""),
    "both": (dict(iou_thrs=[0.5, 0.75]), ""),
    "by class": (dict(iou_thrs=[0.5, 0.75], classwise=True), "iou_thrs=[0.5, 0.75]"),
    "written only": (dict(iou_thrs=0.5, format_only=True, outfile_prefix="x"), ""),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_fail_after_the_first_epoch_are_refused(drawn: Path, name: str) -> None:
    arguments, said = ARGUMENTS[name]
    file = str(drawn / "coco" / "annotations" / "instances_val2017.json")
    metric = dict(type="CocoMetric", ann_file=file, **arguments)
    content = dict(val_dataloader=dict(dataset=coco(drawn, "val")), val_evaluator=metric)
    *_, model = check_config(Config(dict(default_scope="mmdet", **content)), limit=0)
    assert bool(model.problems) is bool(said) and said in details(model)


def test_a_misspelt_metric_of_a_segmentor_is_refused(drawn: Path) -> None:
    for names, is_refused in ((["mIoU", "mDice"], False), (["mIou"], True), ("mDice", False)):
        content = dict(
            default_scope="mmseg",
            val_dataloader=dict(dataset=ade(drawn)),
            val_evaluator=dict(type="IoUMetric", iou_metrics=names),
        )
        *_, model = check_config(Config(content), limit=0)
        assert bool(model.problems) is is_refused
        assert ("did you mean 'mIoU'?" in details(model)) is is_refused
