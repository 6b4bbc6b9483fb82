"""Write the predictions of a test to a file."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.dist import collect_results, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from care_mm.files import write_bytes

# Large, and in the data set or in the other entries already.
_LEFT_OUT = ("seg_logits", "gt_instances", "ignored_instances", "gt_sem_seg", "gt_panoptic_seg")


@HOOKS.register_module()
class PredictionFileHook(Hook):
    """Write the predictions of a test to a pickle that MM's analysis tools read.

    The file is a list with a dict for each image. Masks of instances are RLE, labels of pixels are
    as small as their values allow, and logits and annotations of pixels are left out, so that the
    predictions of a whole data set fit in memory.

    Args:
        file: The pickle to write.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.records: list[dict[str, Any]] = []

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keep the predictions of a batch."""
        self.records += [_record(sample.to_dict()) for sample in outputs or ()]

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: The disk is full, or the file exists by now.
        """
        records = collect_results(self.records, len(runner.test_dataloader.dataset), "cpu")
        if is_main_process():
            write_bytes(pickle.dumps(records), self.file, overwrite=False)
            runner.logger.info(f"Predictions are written to {self.file}")


def _record(sample: dict[str, Any]) -> dict[str, Any]:
    """Return a data sample on the CPU, without its large parts."""
    kept = {key: _on_cpu(value) for key, value in sample.items() if key not in _LEFT_OUT}
    instances = kept.get("pred_instances") or {}
    if "masks" in instances:
        from mmdet.structures.mask import encode_mask_results

        instances["masks"] = encode_mask_results(np.asarray(instances["masks"]))
    pixels = kept.get("pred_sem_seg") or {}
    if "data" in pixels:
        labels = pixels["data"]
        small = torch.uint8 if labels.numel() and labels.max() < 256 else torch.int16
        pixels["data"] = labels.to(small)
    return kept


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, BaseDataElement):
        return _on_cpu(value.to_dict())
    if isinstance(value, dict):
        return {key: _on_cpu(item) for key, item in value.items()}
    return value
