"""Find the validation images that a model predicts worst, and draw truth and prediction."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS

from care_mm.config import find
from care_mm.engine.hooks.guarded_pipeline import leaves
from care_mm.engine.preflight import check_data
from care_mm.engine.resume import find_checkpoint, saved
from care_mm.errors import InputError
from care_mm.predict.draw import as_rgb, draw_pair, offline_visualizer
from care_mm.predict.predictor import Predictor, naming, predict_one
from care_mm.report.history import Run
from care_mm.report.rating import IGNORED, MEASURES, by_class, rate, task_of
from care_mm.tasks import Task


@dataclass(frozen=True)
class RatedImage:
    """One of the worst images.

    Attributes:
        name: Name of its file.
        remark: Its rating in words.
        drawn: (H, W, 3) uint8 RGB by caption: with the truth and with the prediction; for
            classification, where there is nothing to draw, the plain image.
    """

    name: str
    remark: str
    drawn: dict[str, np.ndarray]


@dataclass
class Judgement:
    """Ratings on part of a validation set.

    Attributes:
        rated, total: Number of images that were rated, and of all images.
        weights: Name of the weights that made the predictions.
        worst: The worst images, the worst first.
        task: ``None`` if the images have no truth.
        classes: Name, hits, false alarms, misses and the task's measure; the worst first.
        problems: One line for each image that could not be rated or drawn.
    """

    rated: int = 0
    total: int = 0
    weights: str = "the weights at the end"
    worst: list[RatedImage] = field(default_factory=list)
    task: Task | None = None
    classes: list[tuple[str, int, int, int, float]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def measure(self) -> str:
        """Name of the last number of a class."""
        return MEASURES[self.task] if self.task else ""


def judge(
    model: Any,
    dataset: Any,
    config: Config,
    num_rated: int = 200,
    num_worst: int = 8,
    score_thr: float = 0.5,
) -> Judgement:
    """Predict on images that are evenly spaced over a data set, and draw the worst.

    Args:
        model: The model; left in evaluation mode.
        dataset: A data set with a test pipeline that loads annotations.
        config: The config, for its visualizer.
        num_rated: Number of images to rate.
        num_worst: Number of images to draw.
        score_thr: Detections below this score are ignored and not drawn.
    """
    model.eval()
    classes = [str(name) for name in dataset.metainfo.get("classes") or ()]
    judgement, ignored = Judgement(total=len(dataset)), ignored_label(dataset, config)
    problems = judgement.problems
    counts, ratings = np.zeros((len(classes), 3), dtype=np.int64), []
    for index, sample in predict(model, dataset, evenly_spaced(dataset, num_rated), problems):
        with _listing(sample.get("img_path", index), "cannot be rated", problems):
            rating = rate(sample, classes, score_thr, ignored)
            if rating is None:
                return Judgement(total=len(dataset), problems=problems)
            judgement.task = task_of(sample)
            counts += rating.counts
            ratings.append((rating.order, index, rating.remark))
    judgement.rated = len(ratings)
    remarks = {index: remark for _, index, remark in heapq.nsmallest(num_worst, ratings)}
    visualizer = offline_visualizer(config, dataset.metainfo)
    # Predicted again: keeping the samples of all images could take all memory.
    for index, sample in predict(model, dataset, remarks, problems):
        with _listing(sample.img_path, "cannot be drawn", problems):
            if judgement.task is Task.CLASSIFICATION:
                drawn = {"": as_rgb(load(dataset, sample))}
            else:
                pair = draw_pair(visualizer, sample, score_thr, load(dataset, sample))
                drawn = dict(zip(("truth", "prediction"), pair, strict=True))
            name = Path(sample.img_path).name
            judgement.worst.append(RatedImage(name, remarks[index], drawn))
    if judgement.task:
        values = by_class(judgement.task, counts)
        rows = zip(classes, *counts.T.tolist(), values.tolist(), strict=True)
        judgement.classes = sorted((r for r in rows if r[-1] == r[-1]), key=lambda row: row[-1])
    return judgement


@contextmanager
def _listing(image: Any, failure: str, problems: list[str]) -> Iterator[None]:
    """Append the reason for a failure to ``problems``: an image costs only itself."""
    try:
        with naming(image, failure):
            yield
    except InputError as error:
        problems.append(str(error))


def ignored_label(dataset: Any, config: Config) -> int:
    """Return the label of pixels that do not count: the data set's, or else the metric's."""
    leaf = next(leaves(dataset), None)
    label = getattr(leaf, "ignore_index", None)
    if label is None:
        metrics = find(config.get("val_evaluator"), lambda node: "ignore_index" in node)
        label = next((metric["ignore_index"] for metric in metrics), IGNORED)
    return label


def load(dataset: Any, sample: Any) -> np.ndarray:
    """Return the image of a data sample as its data set loads it, (H, W) or (H, W, C) BGR."""
    for leaf in leaves(dataset):
        steps = getattr(getattr(leaf, "pipeline", None), "transforms", ())
        if steps and hasattr(steps[0], "color_type"):
            return steps[0]({"img_path": sample.img_path})["img"]
    return mmcv.imread(sample.img_path)


def evenly_spaced(dataset: Sized, number: int) -> list[int]:
    """Return at most ``number`` indices that are evenly spaced over a data set."""
    number = min(number, len(dataset))
    return np.linspace(0, len(dataset) - 1, number).round().astype(int).tolist()


def predict(
    model: Any, dataset: Any, indices: Iterable[int], problems: list[str]
) -> Iterator[tuple[int, Any]]:
    """Yield each index with the data sample of its prediction; append failures to ``problems``."""
    for index in indices:
        sample = None
        with _listing(f"{index} of the data set", "cannot be predicted", problems):
            sample = predict_one(model, pseudo_collate([dataset[index]]))
        if sample is not None:
            yield index, sample


def judge_checkpoint(
    run: Run, checkpoint: str | None = None, device: str | None = None, **settings: Any
) -> Judgement:
    """:func:`judge` the weights of a run on its validation set.

    Args:
        run: The run.
        checkpoint: The weights; by default those of the best validation, or else the newest.
        device: The device to run on; by default the GPU if there is one.
        settings: Arguments of :func:`judge`.

    Raises:
        InputError: There is no checkpoint, it does not fit, or the data are missing.
    """
    if checkpoint is None:
        best = run.checkpoint(run.best(run.main_metric)[0]) if run.main_metric else None
        kept = [best] if best else saved(run.work_dir)
        if not kept:
            raise InputError(
                f"work dir {run.work_dir}: holds no checkpoint; name one with --checkpoint, or "
                "give --no-images"
            )
        checkpoint = str(kept[0])
    checkpoint = find_checkpoint(checkpoint)
    if not run.config.get("val_dataloader"):
        raise InputError("the config has no val_dataloader: give --no-images")
    check_data(run.config, ("val",))
    predictor = Predictor(run.config, checkpoint, device)
    dataset = DATASETS.build(run.config.val_dataloader.dataset)
    judgement = judge(predictor.model, dataset, run.config, **settings)
    judgement.weights = Path(checkpoint).name
    return judgement
