"""Compare the time of FastCocoMetric and mmdet's CocoMetric on the same predictions.

The ground truth is drawn. The predictions are the ground truth with noise: shifted boxes and masks,
random scores, and some wrong classes. Times are CPU seconds, medians over the rounds.

Example:
    python tests/engine/coco_speed.py --images 5000 --detections 50
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation.metrics import CocoMetric
from pycocotools import mask as coco_mask

from care_mm.datasets.shapes import ensure_shapes
from care_mm.engine.coco_metric import FastCocoMetric


def read(file: Path) -> COCO:
    """Read annotations with pycocotools, without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(file))


def noisy_predictions(truth: COCO, number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return ``number`` detections for every image, in the format of a metric."""
    rng = np.random.default_rng(seed)
    labels = {category: label for label, category in enumerate(truth.get_cat_ids())}
    return [_of_one_image(truth, image, number, labels, rng) for image in truth.get_img_ids()]


def _of_one_image(
    truth: COCO, image: int, number: int, labels: dict[int, int], rng: np.random.Generator
) -> dict[str, Any]:
    info = truth.load_imgs([image])[0]
    height, width = info["height"], info["width"]
    objects = truth.load_anns(truth.get_ann_ids([image]))
    masks = [truth.annToMask(entry) for entry in objects]
    boxes, chosen, moved = np.zeros((number, 4), np.float32), np.zeros(number, np.int64), []
    for i in range(number):
        if objects and rng.random() < 0.8:
            which = rng.integers(len(objects))
            x, y, w, h = objects[which]["bbox"]
            shift = rng.normal(0, rng.choice((0.02, 0.1, 0.3)), 2) * (w, h)
            grow = np.exp(rng.normal(0, 0.1, 2))
            chosen[i] = labels[objects[which]["category_id"]]
            moved.append(np.roll(masks[which], shift.round().astype(int)[::-1], (0, 1)))
            x, y, w, h = x + shift[0], y + shift[1], w * grow[0], h * grow[1]
        else:
            x, y, w, h = rng.uniform(0, 0.5, 4) * (width, height, width, height)
            moved.append(np.zeros((height, width), np.uint8))
            moved[-1][int(y) : int(y + h), int(x) : int(x + w)] = 1
        boxes[i] = x, y, x + w, y + h
    wrong = rng.random(number) < 0.15
    chosen[wrong] = rng.integers(len(labels), size=wrong.sum())
    rles = coco_mask.encode(np.asfortranarray(np.stack(moved, axis=-1)))
    return dict(
        img_id=image,
        ori_shape=(height, width),
        pred_instances=dict(
            bboxes=torch.from_numpy(boxes),
            scores=torch.from_numpy(rng.random(number).round(2)),  # some are equal
            labels=torch.from_numpy(chosen),
            masks=rles,
        ),
    )


def evaluate(
    kind: type[CocoMetric], predictions: list[dict], classes: tuple[str, ...], **settings: Any
) -> tuple[dict[str, float], float]:
    """Return the metrics, and the CPU seconds that they took."""
    with contextlib.redirect_stdout(io.StringIO()):
        metric = kind(**settings)
        metric.dataset_meta = dict(classes=classes)
        metric.process({}, copy.deepcopy(predictions))  # a metric may write into them
        begin = time.process_time()
        result = metric.evaluate(len(predictions))
        return result, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=50, help="detections in each image")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = ensure_shapes(Path(folder) / "shapes", num_train=1, num_val=args.images)
        file = root / "coco" / "annotations" / "instances_val2017.json"
        truth = read(file)
        classes = tuple(category["name"] for category in truth.dataset["categories"])
        predictions = noisy_predictions(truth, args.detections)
        print(f"{args.images} images, {len(truth.anns)} objects, {args.detections} detections each")
        for what in ("bbox", "segm"):
            seconds: dict[type, list[float]] = {CocoMetric: [], FastCocoMetric: []}
            results = {}
            for _ in range(args.rounds):
                for kind, times in seconds.items():
                    results[kind], time_taken = evaluate(
                        kind, predictions, classes, ann_file=str(file), metric=what
                    )
                    times.append(time_taken)
            slow, fast = (median(times) for times in seconds.values())
            same = results[CocoMetric] == results[FastCocoMetric]
            print(
                f"{what}: CocoMetric {slow:.1f} s, FastCocoMetric {fast:.1f} s, ratio "
                f"{slow / fast:.1f}, metrics {'equal' if same else 'DIFFER'}"
            )


if __name__ == "__main__":
    main()
