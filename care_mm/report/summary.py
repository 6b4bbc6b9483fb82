"""At the end of training: predictions beside the truth, curves, a short table, and a page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
import torch
from matplotlib.figure import Figure
from mmengine.dataset import pseudo_collate
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.predict.draw import draw, offline_visualizer
from care_mm.report import REPORT, Judgement, judge, read_run, write_report


@HOOKS.register_module()
class SummaryHook(Hook):
    """Save ``predictions.png``, ``curves.png`` and ``report.html`` in the work dir, and print the
    last metrics.

    The page needs ``LocalVisBackend`` among the ``vis_backends``. What goes wrong with it is
    logged: it does not spoil a run that is over.

    Args:
        num_images: Validation images in the picture, evenly spaced over the set.
        score_thr: Detections below it are not drawn.
        report: Write the page.
        num_rated: Validation images among which the page looks for the worst, evenly spaced.
        num_worst: How many of them it shows.
    """

    priority = "VERY_LOW"  # after the checkpoint of the last epoch

    def __init__(
        self,
        num_images: int = 6,
        score_thr: float = 0.5,
        report: bool = True,
        num_rated: int = 200,
        num_worst: int = 8,
    ) -> None:
        self.num_images = num_images
        self.score_thr = score_thr
        self.report = report
        self.num_rated = num_rated
        self.num_worst = num_worst

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Draw and print; a job without validation gets its loss curve only."""
        folder = Path(runner.work_dir)
        files = [folder / "curves.png"]
        _curves(runner).savefig(files[0], dpi=120)
        if runner.val_loop is not None and self.num_images > 0:
            files.append(folder / "predictions.png")
            _predictions(runner, self.num_images, self.score_thr).savefig(files[1], dpi=120)
        if self.report:
            try:
                self._write_report(runner, folder / REPORT)
                files.append(folder / REPORT)
            except Exception as error:
                runner.logger.warning(f"no {REPORT}: {type(error).__name__}: {error}")
        rows = [(name, f"{values[-1]:.3f}") for name, values in _metrics(runner)]
        rows += [(file.stem, str(file)) for file in files]
        rows.append(("checkpoints", str(folder)))
        width = max(len(name) for name, _ in rows)
        table = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
        runner.logger.info(f"Training is done.\n{table}")

    def _write_report(self, runner: Runner, file: Path) -> None:
        judgement = Judgement()
        if runner.val_loop is not None and self.num_worst > 0:
            judgement = judge(
                runner.model,
                runner.val_dataloader.dataset,
                runner.cfg,
                self.num_rated,
                self.num_worst,
                self.score_thr,
            )
        write_report(read_run(runner.work_dir), judgement, file)


def _scalars(runner: Runner, prefix: str) -> Iterator[tuple[str, np.ndarray]]:
    """Everything logged under ``prefix/``, whole history, from before a resume too."""
    for name, buffer in runner.message_hub.log_scalars.items():
        if name.startswith(prefix + "/"):
            yield name.removeprefix(prefix + "/"), np.asarray(buffer.data[0], dtype=float)


def _metrics(runner: Runner) -> list[tuple[str, np.ndarray]]:
    skipped = ("time", "data_time")
    return [
        (name, values)
        for name, values in _scalars(runner, "val")
        if name not in skipped and len(values) and values[-1] != -1  # -1: no such objects (COCO)
    ]


def _smooth(values: np.ndarray, window: int) -> np.ndarray:
    """Running mean over at most ``window`` values, of the same length."""
    total = np.cumsum(np.insert(values, 0, 0.0))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - window, 0)
    return (total[stop] - total[start]) / (stop - start)


def _curves(runner: Runner) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, values in _scalars(runner, "train"):
        if "loss" in name and len(values):
            width = 2.0 if name == "loss" else 1.0
            left.plot(_smooth(values, max(len(values) // 50, 1)), label=name, linewidth=width)
    left.set(xlabel="iteration", ylabel="loss (running mean)")
    left.set_ylim(bottom=0)
    for name, values in _metrics(runner):
        if not name.endswith(("_s", "_m", "_l")):  # AP by size of object: in the log
            right.plot(np.arange(1, len(values) + 1), values, marker="o", label=name)
    right.set(xlabel="validation", ylabel="metric")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    figure.suptitle(runner.experiment_name)
    return figure


def _predictions(runner: Runner, num_images: int, score_thr: float) -> Figure:
    dataset: Any = runner.val_dataloader.dataset
    indices = np.unique(np.linspace(0, len(dataset) - 1, num_images).round().astype(int))
    visualizer = offline_visualizer(runner.cfg, dataset.metainfo)
    runner.model.eval()
    columns = max(1, (len(indices) + 1) // 2)
    figure = Figure(figsize=(4.4 * columns, 2.6 * 2), layout="constrained")
    grid = figure.subplots(2, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for axes, index in zip(grid.flat, indices, strict=False):
        with torch.no_grad():
            sample = runner.model.test_step(pseudo_collate([dataset[int(index)]]))[0]
        image = mmcv.imread(sample.img_path, channel_order="rgb")
        pair = [
            draw(visualizer, image, sample, truth=truth, score_thr=score_thr)
            for truth in (True, False)
        ]
        gap = np.full((image.shape[0], max(2, image.shape[1] // 40), 3), 255, np.uint8)
        axes.imshow(np.concatenate((pair[0], gap, pair[1]), axis=1))
        axes.set_title("truth | prediction", fontsize="small")
    return figure
