"""Predict on images and frames with the model of a config of any task."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope

from care_mm.config import find, type_name, without_pretrained
from care_mm.datasets.check.images import why_unreadable
from care_mm.datasets.truncation import refuse_truncated
from care_mm.errors import InputError, one_line
from care_mm.export.stand_in import load_weights
from care_mm.predict.classes import metainfo_of
from care_mm.predict.draw import as_rgb, draw, offline_visualizer
from care_mm.tasks import Task, task_of_sample

INSTANCE_OFFSET = 1000  # mmdet: a panoptic segment is its class plus this times its number


def test_pipeline(config: Config) -> list[Mapping[str, Any]]:
    """Return the steps of the config's test pipeline that need no annotations.

    The pipeline is that of the first data set that begins by loading an image: data sets can be
    wrapped in others. Without test data, or with test-time augmentation, the validation data count.

    Raises:
        InputError: There is no such pipeline.
    """
    for split in ("test", "val"):
        dataset = (config.get(f"{split}_dataloader") or {}).get("dataset")
        for node in find(dataset, lambda node: bool(node.get("pipeline"))):
            steps = [step for step in node["pipeline"] if "Annotations" not in type_name(step)]
            if any(find(steps, lambda step: type_name(step) == "TestTimeAug")):
                continue
            if steps and re.match(r"Load\w*Image", type_name(steps[0])):
                return steps
    raise InputError(
        f"config {config.filename}: has no test_dataloader (nor val_dataloader) with a pipeline "
        "that begins by loading an image and has no TestTimeAug"
    )


@contextmanager
def naming(image: str | Path, failure: str) -> Iterator[None]:
    """Turn any error into one that names the image, since it costs only this image.

    Raises:
        InputError: In place of an error, with its reason.
    """
    try:
        yield
    except Exception as error:
        if os.environ.get("CARE_MM_TRACEBACK") == "1":
            traceback.print_exc()
        reason = one_line(error, 300).replace(f": {image}", "")
        if not isinstance(error, InputError) and type(error).__name__ not in reason:
            reason = f"{type(error).__name__}: {reason}"
        raise InputError(f"image {image}: {failure} ({reason})") from error


@torch.no_grad()
def predict_one(model: Any, batch: Mapping[str, Any]) -> Any:
    """Return the data sample of a batch of one, with predictions.

    Labels of pixels are integers; mmseg's binary models return floating point.
    """
    sample = model.test_step(batch)[0]
    if "pred_sem_seg" in sample:
        sample.pred_sem_seg.data = sample.pred_sem_seg.data.long()
    return sample


class Predictor:
    """A model in evaluation mode together with its test pipeline and visualizer.

    Args:
        config: A config of any task; its test pipeline is used without the steps that read
            annotations.
        checkpoint: A checkpoint or an exported file.
        device: The device to run on; by default the GPU if there is one.
        allow_partial: Load the tensors that fit the model and list those that stay random.

    Raises:
        InputError: The checkpoint cannot be read or does not fit the model, its class names do not
            fit the model, or the test pipeline does not start by loading an image.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: str | Path,
        device: str | None = None,
        allow_partial: bool = False,
    ) -> None:
        init_default_scope(config.get("default_scope", "mmengine"))
        steps = test_pipeline(config)
        self.load, self.pipeline = Compose(steps[:1]), Compose(steps[1:])
        self.model = MODELS.build(without_pretrained(config.model))
        meta = load_weights(self.model, checkpoint, allow_partial)
        self.model.to(device or get_device()).eval()
        self.dataset_meta = metainfo_of(config, meta, self.model, checkpoint)
        self.visualizer = offline_visualizer(config, self.dataset_meta)

    def read(self, path: Path) -> dict[str, Any]:
        """Load an image file with the first step of the test pipeline.

        Raises:
            InputError: The file cannot be read as an image.
        """
        with naming(path, "cannot be read"):
            refuse_truncated(path)
            try:
                loaded = self.load({"img_path": str(path), "img_id": 0})
            except (AssertionError, cv2.error) as error:  # OpenCV decodes nothing
                raise InputError(why_unreadable(path, error)) from error
            if loaded is None:
                raise InputError("the pipeline skips it")
            return loaded

    def read_frame(self, frame: np.ndarray, name: str) -> dict[str, Any]:
        """Return what :meth:`read` returns for an (H, W, 3) uint8 BGR frame."""
        loader, size = self.load.transforms[0], frame.shape[:2]
        if str(getattr(loader, "color_type", "color")).startswith("grayscale"):
            frame = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_BGR2GRAY)
        if getattr(loader, "to_float32", False):
            frame = frame.astype(np.float32)
        return {"img": frame, "img_path": name, "img_id": 0, "img_shape": size, "ori_shape": size}

    def prepare(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of one for the model, from the result of :meth:`read`.

        Raises:
            InputError: A step of the pipeline rejects the image.
        """
        with naming(loaded["img_path"], "cannot be prepared"):
            return pseudo_collate([self.pipeline(dict(loaded))])

    def __call__(self, loaded: Mapping[str, Any]) -> Any:
        """Return the data sample of one image, with predictions at the image's original size.

        Raises:
            InputError: As :meth:`prepare`, or the model fails on the image.
        """
        batch = self.prepare(loaded)
        with naming(loaded["img_path"], "cannot be predicted"):
            return predict_one(self.model, batch)

    def draw(self, loaded: Mapping[str, Any], sample: Any, score_thr: float = 0.3) -> np.ndarray:
        """Return the image with its predictions, (H, W, 3) uint8 RGB; a large one is reduced.

        Raises:
            InputError: The visualizer fails on the image.
        """
        with naming(loaded["img_path"], "cannot be drawn"):
            return draw(self.visualizer, as_rgb(loaded["img"]), sample, score_thr=score_thr)

    def record(self, sample: Any) -> dict[str, Any]:
        """Return the predictions as plain numbers, for JSON.

        Detection: ``instances`` with ``label``, ``class``, ``score``, ``bbox`` (x1, y1, x2, y2 in
        pixels) and ``mask`` (COCO RLE). Segmentation: ``classes``, the share of pixels per class.
        Classification: ``label``, ``class``, ``score``; with several labels ``labels``, a list of
        them, which can be empty. Panoptic segmentation: ``segments`` with ``label``, ``class`` and
        ``share``.

        Raises:
            InputError: The model predicts something else.
        """
        task = task_of_sample(sample)
        if "pred_panoptic_seg" in sample:
            segments = _shares(sample.pred_panoptic_seg.sem_seg)
            classes = self.dataset_meta.get("classes") or ()
            labels = [(segment % INSTANCE_OFFSET, share) for segment, share in segments]
            return {
                "segments": [
                    {"label": label, "class": self._class_name(label), "share": share}
                    for label, share in labels
                    if label < len(classes)  # the number after the last class is no segment
                ]
            }
        if task is Task.DETECTION:
            instances = sample.pred_instances.cpu().numpy()
            return {"instances": list(_instances(instances, self._class_name))}
        if task is Task.SEGMENTATION:
            shares = _shares(sample.pred_sem_seg.data)
            return {"classes": {self._class_name(label): share for label, share in shares}}
        if task is Task.CLASSIFICATION and "pred_label" in sample and "pred_score" in sample:
            labels = [
                {
                    "label": label,
                    "class": self._class_name(label),
                    "score": round(float(sample.pred_score[label]), 4),
                }
                for label in sample.pred_label.flatten().tolist()
            ]
            several = type(getattr(self.model, "head", None)).__name__.startswith("MultiLabel")
            return {"labels": labels} if several or len(labels) != 1 else labels[0]
        raise InputError(
            f"the predictions of {type(self.model).__name__} cannot be written: this command "
            "writes instances, labels of pixels, panoptic segments and labels of images"
        )

    def _class_name(self, label: int) -> str:
        classes = self.dataset_meta.get("classes") or ()
        return str(classes[label]) if label < len(classes) else str(label)


def _shares(labels: Any) -> list[tuple[int, float]]:
    """Return each value of a map and its share of the pixels."""
    labels = torch.as_tensor(labels).cpu().numpy()
    values, counts = np.unique(labels, return_counts=True)
    shares = (counts / labels.size).round(4)
    return list(zip(values.tolist(), shares.tolist(), strict=True))


def _instances(instances: Any, class_name: Callable[[int], str]) -> Iterator[dict[str, Any]]:
    for i, (label, score, box) in enumerate(
        zip(instances.labels, instances.scores, instances.bboxes, strict=True)
    ):
        record = {
            "label": int(label),
            "class": class_name(int(label)),
            "score": round(float(score), 4),
            "bbox": [round(float(v), 2) for v in box],
        }
        if "masks" in instances:
            from pycocotools import mask

            # Column by column, as RLE is; OpenCV transposes large masks 20 times faster than NumPy.
            rle = mask.encode(cv2.transpose(instances.masks[i].astype(np.uint8)).T)
            record["mask"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        yield record
