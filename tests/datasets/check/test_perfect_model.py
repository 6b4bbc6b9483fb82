"""Invariants 1 to 3: on data that the check accepts, a model that returns the truth scores 1.

Small data sets are generated and mutated. Either the check refuses them, or every metric that we
recommend gives a perfect model its highest value, and every object that the check counts arrives.
"""

from __future__ import annotations

import copy
import gc
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DATASETS, METRICS, DefaultScope
from PIL import Image
from pycocotools import mask as coco_mask

from care_mm.datasets.check import annotation_findings, check_config
from care_mm.engine.preflight import check_annotations
from care_mm.errors import InputError

CLASSES = ("a", "b", "c")
LOADS_MASKS = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_mask=True)]
QUICK = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@st.composite
def contents(draw: st.DrawFn) -> dict:
    """Draw the content of a valid COCO file."""
    images, annotations = [], []
    for number in range(draw(st.integers(1, 3))):
        width, height = draw(st.integers(24, 60)), draw(st.integers(24, 60))
        images.append(dict(id=number + 1, file_name=f"{number}.jpg", width=width, height=height))
        for _ in range(draw(st.integers(1, 4))):
            x, y = draw(st.integers(0, width - 12)), draw(st.integers(0, height - 12))
            w, h = draw(st.integers(4, width - x)), draw(st.integers(4, height - y))
            polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
            rle = coco_mask.frPyObjects([polygon], height, width)[0]
            rle["counts"] = rle["counts"].decode()
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=number + 1,
                    category_id=draw(st.integers(1, 3)),
                    bbox=[x, y, w, h],
                    area=w * h,
                    iscrowd=0,
                    segmentation=draw(st.sampled_from([[polygon], rle])),
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def of_all(**values: object) -> Callable[[dict], None]:
    return lambda content: [a.update(values) for a in content["annotations"]]


def of_one(**values: object) -> Callable[[dict], None]:
    return lambda content: content["annotations"][0].update(values)


def ids(table: str, change: Callable, key: str = "") -> Callable[[dict], None]:
    """Change the ids of a table, and those that refer to it if ``key`` is given."""

    def mutate(content: dict) -> None:
        for row in content[table]:
            row["id"] = change(row["id"])
        for row in content["annotations"] if key else ():
            row[key] = change(row[key])

    return mutate


def scaled(key: str, factor: float) -> Callable[[dict], None]:
    def scale(value):
        return [scale(v) for v in value] if isinstance(value, list) else value * factor

    return lambda content: [
        a.update({key: scale(a[key])}) for a in content["annotations"] if isinstance(a[key], list)
    ]


def pop(key: str) -> Callable[[dict], None]:
    return lambda content: content["annotations"][0].pop(key)


def crowded(number: int) -> Callable[[dict], None]:
    def mutate(content: dict) -> None:
        first = content["annotations"][0]
        content["annotations"] += [dict(first, id=10_000 + i) for i in range(number)]

    return mutate


def corners(content: dict) -> None:
    for a in content["annotations"]:
        x, y, w, h = a["bbox"]
        a["bbox"] = [x, y, x + w, y + h]


CHANGES = (int, float, str, lambda i: -i, lambda i: i - 1, lambda i: i + 0.5, lambda i: i + 2**63)
VALUES = ("0", "1", True, False, None, 2, -1, 0.0, 1.0, 0.5)
MUTATIONS: dict[str, Callable[[dict], object]] = {
    "nothing": lambda content: None,
    **{f"annotation ids {i}": ids("annotations", c) for i, c in enumerate(CHANGES)},
    **{f"image ids {i}": ids("images", c, "image_id") for i, c in enumerate(CHANGES)},
    **{f"category ids {i}": ids("categories", c, "category_id") for i, c in enumerate(CHANGES)},
    **{f"image ids {i} of one side": ids("images", c) for i, c in enumerate(CHANGES)},
    **{f"iscrowd {v!r}": of_one(iscrowd=v) for v in VALUES},
    **{f"iscrowd {v!r} everywhere": of_all(iscrowd=v) for v in VALUES},
    **{f"ignore {v!r}": of_one(ignore=v) for v in VALUES},
    **{f"ignored crowd {v!r}": of_one(ignore=v, iscrowd=1) for v in VALUES},
    **{f"area {v!r}": of_one(area=v) for v in (0, -1, "5", None, 1e9, 2e10, True, 0.5)},
    **{f"no {key}": pop(key) for key in ("area", "iscrowd", "bbox", "segmentation", "id")},
    **{f"boxes times {f}": scaled("bbox", f) for f in (0.01, 0.5, 1.05, 10)},
    **{f"polygons times {f}": scaled("segmentation", f) for f in (0.01, 0.1, 10, -1)},
    "corners": corners,
    **{f"{n} objects more": crowded(n) for n in (90, 99, 120, 1200)},
    "thin": of_one(bbox=[1, 1, 0.5, 9]),
    "mask without a pixel": of_one(bbox=[3, 3, 4, 4], segmentation=[[3, 3, 3.1, 3, 3.1, 3.1]]),
    "mask elsewhere": of_one(bbox=[1, 1, 4, 4], segmentation=[[15, 15, 20, 15, 20, 20]]),
    "empty segmentation": of_one(segmentation=[]),
    "duplicate id": lambda c: c["annotations"].append(dict(c["annotations"][0])),
    "duplicate object": lambda c: c["annotations"].append(dict(c["annotations"][0], id=999)),
    "other order": lambda c: c["categories"].reverse(),
    "other names": lambda c: c["categories"][1].update(name="B"),
    "one name twice": lambda c: c["categories"].append(dict(id=9, name="a")),
    "another class": lambda c: c["categories"].insert(0, dict(id=9, name="d")),
    "no annotations": lambda c: c.update(annotations=[]),
    "no images": lambda c: c.update(images=[], annotations=[]),
    "sizes in float": lambda c: c["images"][0].update(width=float(c["images"][0]["width"])),
}


def coco_set(file: Path, **changes: object) -> dict:
    return dict(
        type="CocoDataset",
        ann_file=str(file),
        data_prefix=dict(img=str(file.parent)),
        metainfo=dict(classes=CLASSES),
        pipeline=LOADS_MASKS,
        **changes,
    )


def coco_config(file: Path, **changes: object) -> Config:
    metric = dict(type="CocoMetric", ann_file=str(file), metric=["bbox", "segm"])
    metric |= dict(iou_thrs=np.array([0.5, 0.75]))
    loader = dict(dataset=coco_set(file, test_mode=True, **changes))
    return Config(dict(default_scope="mmdet", val_dataloader=loader, val_evaluator=metric))


def rle_of(segmentation: list | dict, height: int, width: int) -> dict:
    if isinstance(segmentation, list):
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    return dict(size=segmentation["size"], counts=segmentation["counts"].encode())


def score_of_truth(config: Config) -> dict[str, float]:
    """Score the objects that mmdet loads as predictions, without any image."""
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build({**config.val_dataloader.dataset, "pipeline": []})
        metric = METRICS.build(config.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        truth = [x for x in info["instances"] if not x["ignore_flag"]]
        height, width = int(info["height"]), int(info["width"])
        boxes = torch.tensor([x["bbox"] for x in truth], dtype=torch.float32)
        predicted = dict(
            bboxes=boxes.reshape(-1, 4),
            labels=torch.tensor([x["bbox_label"] for x in truth], dtype=torch.long),
            scores=torch.full((len(truth),), 0.9),
            masks=[rle_of(x["mask"], height, width) for x in truth],
        )
        sample = dict(pred_instances=predicted, img_id=info["img_id"], ori_shape=(height, width))
        metric.process({}, [sample])
    return metric.compute_metrics(metric.results)


def problems_of(config: Config, splits: tuple[str, ...] = ("val",)) -> str:
    found = annotation_findings(config, splits)
    return "\n".join(line for f in found if f.problems for line in f.lines())


@pytest.fixture(autouse=True, scope="module")
def _quick_garbage_collection():
    """Exclude the imported modules from the collections that faster-coco-eval asks for."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _quiet(capsys: pytest.CaptureFixture):
    yield
    capsys.readouterr()


@QUICK
@given(contents(), st.sampled_from(sorted(MUTATIONS)))
def test_a_perfect_detector_scores_1_on_what_the_check_accepts(tmp_path, content, name) -> None:
    check_mutation(tmp_path, content, name)


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_refused_or_scores_1(tmp_path: Path, name: str) -> None:
    box = [[2, 2, 14, 2, 14, 22, 2, 22]]
    row = dict(image_id=1, bbox=[2, 2, 12, 20], area=240, iscrowd=0, segmentation=box)
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg", width=60, height=40) for i in (1, 2)],
        annotations=[
            dict(row, id=i, image_id=i % 2 + 1, category_id=i % 3 + 1) for i in range(1, 8)
        ],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    check_mutation(tmp_path, content, name)


def check_mutation(folder: Path, content: dict, name: str) -> None:
    content = copy.deepcopy(content)
    MUTATIONS[name](content)
    file = folder / "instances.json"
    file.write_text(json.dumps(content))
    for metric in ("CocoMetric", "FastCocoMetric"):
        config = coco_config(file)
        config.val_evaluator.type = metric
        problems = problems_of(config)
        assert not (name == "nothing" and problems), problems
        try:
            check_annotations(config, ("val",))  # as training and testing do
        except InputError as error:
            assert problems, error
            return
        assert not problems, "training and testing accept what the check refuses"
        scores = score_of_truth(config)
        assert (scores.get("bbox_mAP"), scores.get("segm_mAP")) == (1, 1), (name, metric)


@QUICK
@given(
    contents(),
    st.sampled_from(sorted(MUTATIONS)),
    st.sampled_from([None, 1, -1, 2, [0], []]),
    st.booleans(),
    st.sampled_from([0, 30, 45]),
)
def test_every_object_that_the_check_counts_arrives(
    tmp_path, content, name, indices, no_empty, size
) -> None:
    MUTATIONS[name](content)
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(content))
    dataset = coco_set(
        file, indices=indices, filter_cfg=dict(filter_empty_gt=no_empty, min_size=size)
    )
    config = Config(dict(default_scope="mmdet", train_dataloader=dict(dataset=dataset)))
    (findings, *_) = annotation_findings(config, ("train",))
    if findings.problems:
        return
    with DefaultScope.overwrite_default_scope("mmdet"):
        loaded = DATASETS.build({**dataset, "pipeline": []})
    infos = [loaded.get_data_info(i) for i in range(len(loaded))]
    arrived = Counter(
        CLASSES[x["bbox_label"]]
        for info in infos
        for x in info["instances"]
        if not x["ignore_flag"]
    )
    assert {k: n for k, n in findings.objects.items() if n} == dict(arrived)
    assert findings.num_samples == len(infos)


MASK_VALUES = (0, 1, 2, 3, 100, 254, 255)


@QUICK
@given(
    st.lists(st.sampled_from(MASK_VALUES), min_size=1, max_size=4),
    st.sampled_from([255, 100]),
    st.sampled_from([255, 100]),
    st.booleans(),
)
def test_a_perfect_segmentor_scores_100_on_what_the_check_accepts(
    tmp_path, values, in_model, in_metric, reduce
) -> None:
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir(exist_ok=True)
    mask = np.resize(np.array(values, dtype=np.uint8), (8, 8))
    Image.fromarray(mask).save(tmp_path / "masks" / "0.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "0.jpg")
    loads = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
    dataset = dict(
        type="BaseSegDataset",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="images", seg_map_path="masks"),
        metainfo=dict(classes=CLASSES),
        reduce_zero_label=reduce,
        test_mode=True,
        pipeline=[*loads, dict(type="PackSegInputs")],
    )
    evaluator = dict(type="IoUMetric", ignore_index=in_metric)
    config = Config(
        dict(
            default_scope="mmseg",
            model=dict(decode_head=dict(num_classes=3, ignore_index=in_model)),
            val_dataloader=dict(dataset=dataset),
            val_evaluator=evaluator,
        )
    )
    if any(findings.problems for findings in check_config(config)):
        return
    with DefaultScope.overwrite_default_scope("mmseg"):
        sample = DATASETS.build(dataset)[0]["data_samples"]
        metric = METRICS.build(evaluator)
    metric.dataset_meta = dict(classes=CLASSES)
    truth = sample.gt_sem_seg.data
    learned = truth != in_model
    assert (truth[learned] < 3).all(), "a label that the loss cannot take"
    predicted = torch.where(learned, truth, torch.zeros_like(truth))
    metric.process({}, [dict(pred_sem_seg=dict(data=predicted), gt_sem_seg=dict(data=truth))])
    assert metric.compute_metrics(metric.results)["mIoU"] == 100


@QUICK
@given(
    st.sets(st.sampled_from(["a", "A", "b", "c", "cc", ".cache"]), min_size=2, max_size=4),
    st.sampled_from([CLASSES, ("a", "c", "b"), ("x", "y", "z"), ("a", "b"), None]),
    st.sampled_from([-1, 0, 0, 0]),
)
def test_a_perfect_classifier_scores_100_on_what_the_check_accepts(
    tmp_path_factory, names, classes, more
) -> None:
    root, outputs = tmp_path_factory.mktemp("folders"), len(names) + more
    for name in names:
        (root / name).mkdir()
        Image.new("RGB", (4, 4)).save(root / name / "0.png")
    dataset = dict(type="CustomDataset", data_root=str(root), pipeline=[])
    dataset |= dict(metainfo=dict(classes=classes)) if classes else {}
    config = Config(
        dict(
            default_scope="mmpretrain",
            model=dict(head=dict(num_classes=outputs)),
            val_dataloader=dict(dataset=dataset),
            val_evaluator=dict(type="Accuracy", topk=(1,)),
        )
    )
    if any(findings.problems for findings in check_config(config)):
        return
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        loaded = DATASETS.build(dataset)
        metric = METRICS.build(config.val_evaluator)
    for index in range(len(loaded)):
        info = loaded.get_data_info(index)
        assert info["gt_label"] < outputs
        folder, name = Path(info["img_path"]).parent.name, loaded.CLASSES[info["gt_label"]]
        others = {other.casefold() for other in loaded.CLASSES} - {name.casefold()}
        assert folder.casefold() not in others, "an image with the label of another class"
        label = torch.tensor([info["gt_label"]])
        metric.process({}, [dict(pred_label=label, gt_label=label)])
    assert metric.compute_metrics(metric.results)["top1"] == 100
