"""Predictions on image files, whatever the task: the config decides."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.device import get_device
from mmengine.registry import MODELS, VISUALIZERS, init_default_scope
from mmengine.visualization import Visualizer
from PIL import Image

from care_mm.checkpoint import load_model
from care_mm.engine.config import without_pretrained
from care_mm.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def find_images(inputs: Sequence[str | Path]) -> dict[str, Path]:
    """Image files among ``inputs`` and below its folders, by a name that is unique in the result.

    Raises:
        InputError: An input that does not exist, no image at all, or two of one name.
    """
    found: dict[str, Path] = {}
    for item in map(Path, inputs):
        if not item.exists():
            raise InputError(f"{item}: no such file or folder")
        files = sorted(item.rglob("*")) if item.is_dir() else [item]
        for file in files:
            if item.is_dir() and file.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            name = str(file.relative_to(item)) if item.is_dir() else file.name
            if name in found:
                raise InputError(f"{file} and {found[name]} would both be written as {name}")
            found[name] = file
    if not found:
        raise InputError(f"no image ({', '.join(IMAGE_SUFFIXES)}) in {', '.join(map(str, inputs))}")
    return found


class Predictor:
    """A model in evaluation mode together with its test pipeline and visualizer.

    Args:
        config: Of any task; its test pipeline is used without the steps that read annotations.
        checkpoint: What training wrote.
        device: Where to run; the GPU if there is one.
        allow_partial: Load what fits the model, and list what stays random.

    Raises:
        InputError: A checkpoint that cannot be read or does not fit the model.
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
        meta = load_model(self.model, checkpoint, allow_partial=allow_partial)
        self.model.to(device or get_device()).eval()
        self.dataset_meta = meta.get("dataset_meta") or {}
        steps = config.test_dataloader.dataset.pipeline
        self.pipeline = Compose([step for step in steps if "Annotations" not in step["type"]])
        self.visualizer = offline_visualizer(config, self.dataset_meta)

    @torch.no_grad()
    def __call__(self, path: Path) -> Any:
        """The task's data sample for one image file, with predictions at the file's own size.

        Raises:
            InputError: The file cannot be read as an image.
        """
        try:
            with Image.open(path) as image:
                image.load()
            data = self.pipeline({"img_path": str(path), "img_id": 0})
        except Exception as error:
            raise InputError(f"image {path}: cannot be read ({error})") from error
        return self.model.test_step(pseudo_collate([data]))[0]

    def picture(self, path: Path, sample: Any, score_thr: float = 0.3) -> np.ndarray:
        """The image with its predictions drawn in, (H, W, 3) uint8 RGB."""
        image = mmcv.imread(str(path), channel_order="rgb")
        return draw(self.visualizer, image, sample, score_thr=score_thr)

    def record(self, sample: Any) -> dict[str, Any]:
        """The predictions as plain numbers, for JSON.

        Detection: ``instances`` with ``label``, ``class``, ``score``, ``bbox`` (x1, y1, x2, y2 in
        pixels) and ``mask`` (COCO RLE). Segmentation: ``classes``, share of the pixels by class.
        Classification: ``label``, ``class``, ``score``.
        """
        classes = self.dataset_meta.get("classes") or ()

        def name(label: int) -> str:
            return str(classes[label]) if label < len(classes) else str(label)

        if "pred_instances" in sample:
            return {"instances": list(_instances(sample.pred_instances.cpu().numpy(), name))}
        if "pred_sem_seg" in sample:
            labels = sample.pred_sem_seg.data.cpu().numpy()
            values, counts = np.unique(labels, return_counts=True)
            shares = zip(values.tolist(), (counts / labels.size).tolist(), strict=True)
            return {"classes": {name(label): round(share, 4) for label, share in shares}}
        label = int(sample.pred_label.item())
        score = float(sample.pred_score[label])
        return {"label": label, "class": name(label), "score": round(score, 4)}


def _instances(instances: Any, name: Any) -> Iterator[dict[str, Any]]:
    for i, (label, score, box) in enumerate(
        zip(instances.labels, instances.scores, instances.bboxes, strict=True)
    ):
        record = {
            "label": int(label),
            "class": name(int(label)),
            "score": round(float(score), 4),
            "bbox": [round(float(v), 2) for v in box],
        }
        if "masks" in instances:
            from pycocotools import mask

            rle = mask.encode(np.asfortranarray(instances.masks[i], dtype=np.uint8))
            record["mask"] = {"size": rle["size"], "counts": rle["counts"].decode()}
        yield record


def offline_visualizer(config: Config, dataset_meta: dict) -> Visualizer:
    """The config's visualizer, without a backend to write to."""
    settings = {**config.visualizer, "vis_backends": None, "name": f"care_mm_{id(config)}"}
    visualizer = VISUALIZERS.build(settings)
    visualizer.dataset_meta = dataset_meta
    return visualizer


def draw(
    visualizer: Visualizer,
    image: np.ndarray,
    sample: Any,
    truth: bool = False,
    score_thr: float = 0.3,
) -> np.ndarray:
    """Predictions, or the truth, drawn into an (H, W, 3) uint8 RGB image of the same size."""
    show = {"draw_gt": truth, "draw_pred": not truth}
    if "pred_label" in sample:
        classes = visualizer.dataset_meta.get("classes")
        visualizer.visualize_cls(image, sample, classes=classes, **show)
    elif "pred_sem_seg" in sample and "pred_instances" not in sample:
        visualizer.add_datasample("picture", image, sample, **show)
    else:
        visualizer.add_datasample("picture", image, sample, pred_score_thr=score_thr, **show)
    return visualizer.get_image()


def predict_files(
    predictor: Predictor, images: dict[str, Path], out_dir: Path, score_thr: float = 0.3
) -> list[str]:
    """Write a picture for each image, and ``predictions.json``, below ``out_dir``.

    Args:
        predictor: The model.
        images: From :func:`find_images`.
        out_dir: Made if it is not there.
        score_thr: Detections below it are left out of the pictures, not of the JSON.

    Returns:
        One line for each file that could not be read as an image.

    Raises:
        InputError: ``out_dir`` holds the predictions of another call.
    """
    table = out_dir / "predictions.json"
    if table.exists():
        raise InputError(f"{table} exists: choose another --out-dir")
    records, unreadable = {}, []
    for name, path in images.items():
        try:
            sample = predictor(path)
        except InputError as error:
            unreadable.append(str(error))
            continue
        records[name] = predictor.record(sample)
        target = out_dir / "pictures" / f"{name}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(predictor.picture(path, sample, score_thr)).save(target)
    out_dir.mkdir(parents=True, exist_ok=True)
    table.write_text(json.dumps(records, indent=1))
    return unreadable
