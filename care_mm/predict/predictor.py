"""Predict on images and frames with the model of a config of any task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, init_default_scope
from PIL import Image

from care_mm.config import without_pretrained
from care_mm.errors import InputError, one_line
from care_mm.export.stand_in import load_weights
from care_mm.predict.draw import draw, offline_visualizer
from care_mm.tasks import Task, task_of_sample


class Predictor:
    """A model in evaluation mode together with its test pipeline and visualizer.

    Args:
        config: A config of any task; its test pipeline is used without the steps that read
            annotations.
        checkpoint: A checkpoint or an exported file.
        device: The device to run on; by default the GPU if there is one.
        allow_partial: Load the tensors that fit the model and list those that stay random.

    Raises:
        InputError: The checkpoint cannot be read or does not fit the model, or the test pipeline
            does not start by loading an image.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: str | Path,
        device: str | None = None,
        allow_partial: bool = False,
    ) -> None:
        init_default_scope(config.get("default_scope", "mmengine"))
        self.model = MODELS.build(without_pretrained(config.model))
        meta = load_weights(self.model, checkpoint, allow_partial)
        self.model.to(device or get_device()).eval()
        self.dataset_meta = meta.get("dataset_meta") or {}
        steps = config.test_dataloader.dataset.pipeline
        steps = [step for step in steps if "Annotations" not in step["type"]]
        if not steps or "LoadImage" not in steps[0]["type"]:
            raise InputError("the config's test pipeline does not begin by loading an image")
        self.load, self.pipeline = Compose(steps[:1]), Compose(steps[1:])
        self.visualizer = offline_visualizer(config, self.dataset_meta)

    def read(self, path: Path) -> dict[str, Any]:
        """Load an image file with the first step of the test pipeline.

        Raises:
            InputError: The file cannot be read as an image.
        """
        try:
            with Image.open(path) as image:
                image.load()
            return self.load({"img_path": str(path), "img_id": 0})
        except Exception as error:
            raise InputError(f"image {path}: cannot be read ({one_line(error)})") from error

    @staticmethod
    def read_frame(frame: np.ndarray, name: str) -> dict[str, Any]:
        """Return what :meth:`read` returns for an (H, W, 3) uint8 BGR frame."""
        size = frame.shape[:2]
        return {"img": frame, "img_path": name, "img_id": 0, "img_shape": size, "ori_shape": size}

    def prepare(self, loaded: Mapping[str, Any]) -> dict[str, Any]:
        """Return a batch of one for the model, from the result of :meth:`read`.

        Raises:
            InputError: A step of the pipeline rejects the image.
        """
        try:
            return pseudo_collate([self.pipeline(dict(loaded))])
        except Exception as error:
            raise InputError(f"image {loaded['img_path']}: {one_line(error)}") from error

    @torch.no_grad()
    def __call__(self, loaded: Mapping[str, Any]) -> Any:
        """Return the data sample of one image, with predictions at the image's original size.

        Raises:
            InputError: As :meth:`prepare`.
        """
        return self.model.test_step(self.prepare(loaded))[0]

    def draw(self, loaded: Mapping[str, Any], sample: Any, score_thr: float = 0.3) -> np.ndarray:
        """Return the image with its predictions, (H, W, 3) uint8 RGB."""
        image = np.atleast_3d(loaded["img"])[..., ::-1]  # BGR, or one channel
        image = np.broadcast_to(image, (*image.shape[:2], 3)).astype(np.uint8)
        return draw(self.visualizer, image, sample, score_thr=score_thr)

    def record(self, sample: Any) -> dict[str, Any]:
        """Return the predictions as plain numbers, for JSON.

        Detection: ``instances`` with ``label``, ``class``, ``score``, ``bbox`` (x1, y1, x2, y2 in
        pixels) and ``mask`` (COCO RLE). Segmentation: ``classes``, the share of pixels per class.
        Classification: ``label``, ``class``, ``score``.
        """
        task = task_of_sample(sample)
        if task is Task.DETECTION:
            instances = sample.pred_instances.cpu().numpy()
            return {"instances": list(_instances(instances, self._class_name))}
        if task is Task.SEGMENTATION:
            labels = sample.pred_sem_seg.data.cpu().numpy()
            values, counts = np.unique(labels, return_counts=True)
            shares = zip(values.tolist(), (counts / labels.size).tolist(), strict=True)
            return {"classes": {self._class_name(label): round(s, 4) for label, s in shares}}
        label = int(sample.pred_label.item())
        score = float(sample.pred_score[label])
        return {"label": label, "class": self._class_name(label), "score": round(score, 4)}

    def _class_name(self, label: int) -> str:
        classes = self.dataset_meta.get("classes") or ()
        return str(classes[label]) if label < len(classes) else str(label)


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

            rle = mask.encode(np.asfortranarray(instances.masks[i], dtype=np.uint8))
            record["mask"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        yield record
