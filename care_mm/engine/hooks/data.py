"""Report and skip bad files while training, up to a limit; end an evaluation at the first one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.engine.hooks.guarded_pipeline import GuardedPipeline, leaves, recorded
from care_mm.errors import InputError

RECORD = "bad_images.txt"


@HOOKS.register_module()
class DataGuardHook(Hook):
    """Name every bad file: unreadable, truncated, unlike its annotated size, or badly labelled.

    In training, a bad file is skipped and another sample takes its place. The log and
    ``bad_images.txt`` in the work dir list the skipped files, and too many of them end the run. In
    validation and testing, the first bad file ends the run, because a metric over part of the data
    is a different metric.

    Args:
        skip: Skip bad files in training; ``False`` ends the run at the first one.
        max_bad: Share of the data set that may be bad; ten files are always allowed.
        max_in_a_row: Number of consecutive bad files that end the run.
    """

    priority = "VERY_HIGH"

    def __init__(self, skip: bool = True, max_bad: float = 0.01, max_in_a_row: int = 20) -> None:
        self.skip = skip
        self.max_bad = max_bad
        self.max_in_a_row = max_in_a_row
        self.seen = self.told = False
        self.ignored = {255}  # labels of pixels that are not counted; 255 is mmseg's padding

    def before_train(self, runner: Runner) -> None:
        """Guard the training data.

        Raises:
            InputError: There are none.
        """
        loader = runner.train_dataloader
        if not len(loader.dataset):
            raise InputError("the training data have no image left: check filter_cfg and ann_file")
        if not len(loader):
            raise InputError(
                f"{len(loader.dataset)} training images do not fill a batch: use a smaller "
                "batch_size, or drop_last=False"
            )
        self.start = runner.iter
        self.record = Path(runner.work_dir) / RECORD
        self.reported = len(recorded(self.record))
        self.guard_training(runner)
        # After the hooks that switch to another pipeline, and before the workers start.
        runner.register_hook(_GuardSwitchedPipelineHook(self), priority="LOWEST")

    def guard_training(self, runner: Runner) -> None:
        """Guard the pipelines of the training data that are not guarded yet."""
        dataset = runner.train_dataloader.dataset
        allowed = max(10, int(self.max_bad * len(dataset)))
        self._guard(dataset, skip=self.skip, max_bad=allowed)

    def before_val(self, runner: Runner) -> None:
        """Guard the validation data."""
        self._guard(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        """Guard the test data."""
        self._guard(runner.test_dataloader.dataset)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """Log once if the first epoch has not a single object, labelled pixel or label."""
        if self.seen:
            return
        samples = data_batch.get("data_samples") if isinstance(data_batch, dict) else None
        self.seen = samples is None or any(_has_truth(sample, self.ignored) for sample in samples)
        if not self.seen and runner.iter + 1 - self.start >= len(runner.train_dataloader):
            self.seen = True
            runner.logger.warning(
                "no annotated object, pixel or label reached the model in a whole epoch, so "
                "nothing can be learned: do the annotations name the config's classes, and does a "
                "crop or a filter remove them? tools/check_data.py shows the counts"
            )

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Log once if a metric has no value."""
        # COCO's metrics by object size are -1 where the data have no object of the size.
        by_size = ("_s", "_m", "_l", "_s_precision", "_m_precision", "_l_precision")
        empty = [
            name
            for name, value in (metrics or {}).items()
            if isinstance(value, float | int)
            and (value != value or value == -1)
            and not name.endswith(by_size)
        ]
        if empty and not self.told:
            self.told = True
            runner.logger.warning(
                f"{empty[0]} is {metrics[empty[0]]}: the validation data have no annotation to "
                "compare with; tools/check_data.py shows the counts"
            )

    def after_train_epoch(self, runner: Runner) -> None:
        """Log how many files have been skipped, if there are new ones."""
        bad = len(recorded(self.record))
        if bad > self.reported and is_main_process():
            runner.logger.warning(f"{bad} images are skipped, see {self.record}")
        self.reported = bad

    def _guard(self, dataset: Any, skip: bool = False, max_bad: int = 0) -> None:
        for leaf in leaves(dataset):
            self.ignored.add(getattr(leaf, "ignore_index", 255))
            if isinstance(leaf.pipeline, GuardedPipeline):
                continue
            classes = (getattr(leaf, "metainfo", None) or {}).get("classes")
            leaf.pipeline = GuardedPipeline(
                leaf.pipeline,
                num_classes=len(classes) if classes else None,
                ignore_index=getattr(leaf, "ignore_index", 255),
                skip=skip,
                max_bad=max_bad,
                max_in_a_row=self.max_in_a_row,
                record=self.record if skip else None,
            )


class _GuardSwitchedPipelineHook(Hook):
    """Guard the pipeline that a hook such as ``PipelineSwitchHook`` gives to the training data.

    Args:
        guard: The hook that guarded the first pipeline.
    """

    def __init__(self, guard: DataGuardHook) -> None:
        self.guard = guard

    def before_train_epoch(self, runner: Runner) -> None:
        """Guard the new pipeline, if the pipeline was switched."""
        self.guard.guard_training(runner)


def _has_truth(sample: Any, ignored: set[int]) -> bool:
    """Whether a data sample has anything to learn from; samples of other kinds count as such."""
    if "gt_instances" in sample:
        return len(sample.gt_instances) > 0
    if "gt_sem_seg" in sample:
        labels = sample.gt_sem_seg.data
        return not torch.isin(labels, torch.tensor(sorted(ignored))).all()
    if "gt_label" in sample:
        return sample.gt_label.numel() > 0
    return True
