"""Summarise a run at its end: predictions next to the truth, curves, a short table, a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import isfinite
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.errors import one_line
from care_mm.files import save_figure
from care_mm.predict.draw import draw_pair, offline_visualizer
from care_mm.report.curves import charts_of, draw_charts
from care_mm.report.history import (
    ABSENT,
    NOT_METRICS,
    Curve,
    is_by_size,
    main_metric,
    read_run,
)
from care_mm.report.page import REPORT, write_report
from care_mm.report.worst import Judgement, evenly_spaced, judge, load, predict


@HOOKS.register_module()
class SummaryHook(Hook):
    """Save ``predictions.png``, ``curves.png`` and ``report.html``, and print the last metrics.

    The files go to the work dir. The report needs ``LocalVisBackend`` among the ``vis_backends``.
    Errors are only logged, since the training itself is complete.

    Args:
        num_images: Number of validation images in ``predictions.png``, evenly spaced over the set.
        score_thr: Detections below this score are not drawn.
        report: Write the report.
        num_rated: Number of validation images among which the report looks for the worst, evenly
            spaced.
        num_worst: Number of worst images in the report.
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
        """Write the files and print the table; without validation only the curves and report.

        The training is complete, so a file that cannot be written costs only itself.
        """
        folder = Path(runner.work_dir)
        train, val = _curves(runner, "train"), _curves(runner, "val")
        files: list[Path] = []
        with _writing(folder / "curves.png", files, runner) as file:
            charts = charts_of(train, val, "validation", main_metric(runner.cfg, val))
            if charts:
                save_figure(draw_charts(charts, runner.experiment_name), file, dpi=120)
        with _writing(folder / "predictions.png", files, runner) as file:
            if runner.val_loop is not None and self.num_images > 0:
                figure = _predictions(runner, self.num_images, self.score_thr)
                save_figure(figure, file, dpi=120)
        with _writing(folder / REPORT, files, runner) as file:
            if self.report:
                self._write_report(runner, file)
        rows = [(name, _last(name, curve)) for name, curve in val.items()]
        rows += [(file.stem, str(file)) for file in files]
        rows.append(("checkpoints", str(folder)))
        width = max(len(name) for name, _ in rows)
        table = "\n".join(f"  {name:<{width}}  {value}" for name, value in rows if value)
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
            _warn(runner, judgement.problems)
        write_report(read_run(runner.work_dir), judgement, file)


@contextmanager
def _writing(file: Path, files: list[Path], runner: Runner) -> Iterator[Path]:
    """Append the file to ``files`` if the block writes it; log the reason if it fails."""
    before = file.stat().st_mtime_ns if file.exists() else None
    try:
        yield file
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        runner.logger.warning(f"{file.name} was not written: {reason}")
        return
    if file.exists() and file.stat().st_mtime_ns != before:
        files.append(file)


def _warn(runner: Runner, problems: Sequence[str]) -> None:
    """Log the first of the images that failed, and how many there are."""
    if problems:
        runner.logger.warning(f"{len(problems)} images failed, the first is: {problems[0]}")


def _last(name: str, curve: Curve) -> str:
    """Format the last value of a metric; empty if it has none and needs none."""
    value = curve[-1][1]
    if value != ABSENT and isfinite(value):
        return f"{value:.3f}"
    if is_by_size(name):  # data without objects of that size are common
        return ""
    return f"{value:g}: the validation data have no annotation to compare with"


def _curves(runner: Runner, mode: str) -> dict[str, Curve]:
    """Return what was logged below ``mode/``, including the time before a resumption.

    Unlike the files in the work dir, the message hub has every iteration.
    """
    curves = {}
    for key, buffer in runner.message_hub.log_scalars.items():
        key_mode, _, name = key.partition("/")
        values = np.asarray(buffer.data[0], dtype=float).tolist()
        if key_mode == mode and name not in NOT_METRICS and values:
            curves[name] = list(enumerate(values, 1))
    return curves


def _predictions(runner: Runner, num_images: int, score_thr: float) -> Figure:
    """Draw validation images in a grid: truth on the left, prediction on the right."""
    dataset = runner.val_dataloader.dataset
    indices = evenly_spaced(dataset, num_images)
    visualizer = offline_visualizer(runner.cfg, dataset.metainfo)
    runner.model.eval()
    problems: list[str] = []
    pairs = []
    for _, sample in predict(runner.model, dataset, indices, problems):
        try:
            truth, prediction = draw_pair(visualizer, sample, score_thr, load(dataset, sample))
        except Exception as error:
            problems.append(f"{sample.img_path}: {type(error).__name__}: {one_line(error)}")
            continue
        gap = np.full((truth.shape[0], max(2, truth.shape[1] // 40), 3), 255, np.uint8)
        pairs.append(np.concatenate((truth, gap, prediction), axis=1))
    _warn(runner, problems)
    return _grid(pairs)


def _grid(pairs: Sequence[np.ndarray]) -> Figure:
    """Return images, (H, W, 3), in two columns, each about a thousand pixels wide."""
    columns = min(2, max(1, len(pairs)))
    rows = max(1, -(-len(pairs) // columns))
    tallest = max((pair.shape[0] / pair.shape[1] for pair in pairs), default=0.5)
    height = min(8.4 * tallest, 12) + 0.3
    figure = Figure(figsize=(8.4 * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for pair, axes in zip(pairs, grid.flat, strict=False):
        axes.imshow(pair)
        axes.set_title("truth | prediction", fontsize="medium")
    return figure
