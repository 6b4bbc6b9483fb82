"""FastCocoMetric returns the names and values of mmdet's CocoMetric."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import coco_speed
import numpy as np
import pytest
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import CocoMetric
from mmdet.registry import METRICS
from pycocotools.cocoeval import COCOeval

from care_mm.datasets.shapes import ensure_shapes
from care_mm.engine.coco_metric import FastCocoMetric, fast_classes
from care_mm.errors import InputError


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, COCO]:
    """Return annotations with crowds, and with an image without objects."""
    root = ensure_shapes(tmp_path_factory.mktemp("coco") / "shapes", 1, 26, 96)
    file = root / "coco" / "annotations" / "instances_val2017.json"
    coco = coco_speed.read(file)
    assert any(entry["iscrowd"] for entry in coco.anns.values())
    assert any(not coco.get_ann_ids([image]) for image in coco.imgs)
    return file, coco


@pytest.fixture(scope="module")
def predictions(truth: tuple[Path, COCO]) -> list[dict]:
    """Return more detections of some images than AP counts, and none of others."""
    some = coco_speed.noisy_predictions(truth[1], 130)
    for instances in (sample["pred_instances"] for sample in some[1:4]):
        for key in instances:
            instances[key] = instances[key][:0]
    return some


def both(predictions: list[dict], coco: COCO, **settings) -> tuple[dict, dict]:
    classes = tuple(category["name"] for category in coco.dataset["categories"])
    slow, fast = (
        coco_speed.evaluate(kind, predictions, classes, **settings)[0]
        for kind in (CocoMetric, FastCocoMetric)
    )
    return slow, fast


@pytest.mark.parametrize(
    "settings",
    [
        dict(metric=["bbox", "segm"]),
        dict(metric=["bbox", "segm"], classwise=True, proposal_nums=(1, 10, 100)),
        dict(metric="proposal"),
        dict(metric="bbox", iou_thrs=[0.5, 0.75], metric_items=["mAP", "AR@100", "AR_s@1000"]),
    ],
    ids=["box and mask", "by class", "proposals", "chosen"],
)
def test_names_and_values_equal_those_of_mmdet(
    settings: dict, truth: tuple[Path, COCO], predictions: list[dict]
) -> None:
    file, coco = truth
    if "iou_thrs" in settings:
        settings = settings | dict(iou_thrs=np.array(settings["iou_thrs"]))
    slow, fast = both(predictions, coco, ann_file=str(file), **settings)
    assert list(slow) == list(fast)
    assert slow == fast
    assert any(0 < value < 1 for value in slow.values())


def test_ground_truth_from_the_samples(truth: tuple[Path, COCO], predictions: list[dict]) -> None:
    """Without ann_file, the data samples hold the ground truth."""
    _, coco = truth
    with_truth = []
    for sample in predictions:
        entries = coco.load_anns(coco.get_ann_ids([sample["img_id"]]))
        instances = [
            dict(
                bbox=[x, y, x + w, y + h],
                bbox_label=entry["category_id"] - 1,
                mask=entry["segmentation"],
                ignore_flag=entry["iscrowd"],
            )
            for entry in entries
            for x, y, w, h in [entry["bbox"]]
        ]
        with_truth.append(sample | dict(instances=instances))
    slow, fast = both(with_truth, coco, metric=["bbox", "segm"])
    assert slow == fast and 0 < fast["coco/segm_mAP"] < 1


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_every_number_is_equal_before_it_is_rounded(
    kind: str, truth: tuple[Path, COCO], predictions: list[dict]
) -> None:
    file, _ = truth
    results = []
    for sample in predictions:
        instances = sample["pred_instances"]
        for i in range(len(instances["scores"])):
            x1, y1, x2, y2 = instances["bboxes"][i].tolist()
            entry = dict(image_id=sample["img_id"], category_id=int(instances["labels"][i]) + 1)
            entry["score"] = float(instances["scores"][i])
            shape = dict(bbox=[x1, y1, x2 - x1, y2 - y1])
            results.append(entry | (shape if kind == "bbox" else _mask(instances["masks"][i])))
    evaluations = []
    for classes in (dict(COCO=COCO, COCOeval=COCOeval), fast_classes()):
        with contextlib.redirect_stdout(io.StringIO()):
            annotations = classes["COCO"](str(file))
            evaluation = classes["COCOeval"](
                annotations, annotations.loadRes([dict(result) for result in results]), kind
            )
            evaluation.params.maxDets = [100, 300, 1000]
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        evaluations.append(evaluation)
    slow, fast = evaluations
    assert 0.05 < slow.stats[0] < 0.95
    np.testing.assert_allclose(fast.stats, slow.stats, rtol=0, atol=1e-6)
    for name in ("precision", "recall"):
        np.testing.assert_allclose(fast.eval[name], slow.eval[name], rtol=0, atol=1e-6)


def _mask(rle: dict) -> dict:
    counts = rle["counts"]
    counts = counts.decode() if isinstance(counts, bytes) else counts
    return dict(segmentation=dict(size=rle["size"], counts=counts))


def test_a_config_builds_it_and_mmdet_is_unchanged(truth: tuple[Path, COCO]) -> None:
    from mmdet.evaluation.metrics import coco_metric

    metric = METRICS.build(dict(type="FastCocoMetric", ann_file=str(truth[0])))
    assert type(metric) is FastCocoMetric
    assert coco_metric.COCOeval is COCOeval and coco_metric.COCO is COCO


def test_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    fast_classes.cache_clear()
    with pytest.raises(InputError, match=r"pip install faster-coco-eval.*CocoMetric") as caught:
        FastCocoMetric()
    assert "\n" not in str(caught.value)
