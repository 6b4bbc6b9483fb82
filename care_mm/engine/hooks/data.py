"""Bad files in training data are named and left out, up to a limit; in evaluation they end it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from care_mm.engine.hooks.samples import GuardedPipeline, leaves, noted
from care_mm.errors import InputError

RECORD = "bad_images.txt"


@HOOKS.register_module()
class DataGuardHook(Hook):
    """Name every bad file: unreadable, cut short, of another size than annotated, badly labelled.

    In training each is left out and another sample taken in its place; the log and
    ``bad_images.txt`` in the work dir list them, and too many end the run. In validation and tests
    the first one does, since a metric over part of the data is another metric.

    Args:
        skip: Leave bad files out in training; ``False`` ends the run at the first.
        max_bad: Share of the data set that may be bad, ten files at least.
        max_in_a_row: Bad ones without a good one between them that end the run.
    """

    priority = "VERY_HIGH"

    def __init__(self, skip: bool = True, max_bad: float = 0.01, max_in_a_row: int = 20) -> None:
        self.skip = skip
        self.max_bad = max_bad
        self.max_in_a_row = max_in_a_row

    def before_train(self, runner: Runner) -> None:
        """Guard the training data.

        Raises:
            InputError: There are none.
        """
        loader = runner.train_dataloader
        if not len(loader.dataset):
            raise InputError(
                "the training data have no image left: look at filter_cfg and ann_file"
            )
        if not len(loader):
            raise InputError(
                f"{len(loader.dataset)} training images give no full batch: take a smaller "
                "batch_size, or drop_last=False"
            )
        self.record = Path(runner.work_dir) / RECORD
        self.reported = len(noted(self.record))
        allowed = max(10, int(self.max_bad * len(loader.dataset)))
        self._guard(loader.dataset, skip=self.skip, max_bad=allowed)

    def before_val(self, runner: Runner) -> None:
        self._guard(runner.val_dataloader.dataset)

    def before_test(self, runner: Runner) -> None:
        self._guard(runner.test_dataloader.dataset)

    def after_train_epoch(self, runner: Runner) -> None:
        """Say how many were left out so far, when there are new ones."""
        bad = len(noted(self.record))
        if bad > self.reported and is_main_process():
            runner.logger.warning(f"{bad} images are left out, see {self.record}")
        self.reported = bad

    def _guard(self, dataset: Any, skip: bool = False, max_bad: int = 0) -> None:
        for leaf in leaves(dataset):
            if isinstance(leaf.pipeline, GuardedPipeline):
                continue
            classes = (getattr(leaf, "metainfo", None) or {}).get("classes")
            leaf.pipeline = GuardedPipeline(
                leaf.pipeline,
                num_classes=len(classes) if classes else None,
                skip=skip,
                max_bad=max_bad,
                max_in_a_row=self.max_in_a_row,
                record=self.record if skip else None,
            )
