"""A hook that records the iterations of all processes together."""

from __future__ import annotations

import json
from pathlib import Path

from mmengine.dist import all_reduce, collect_results, get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class CurveHook(Hook):
    """Append the mean loss and the images of all processes to a file."""

    priority = "LOW"

    def __init__(self, file: str) -> None:
        self.file = Path(file)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        loss = outputs["loss"].detach().double().clone()
        all_reduce(loss, "mean")
        names = [Path(sample.img_path).name for sample in data_batch["data_samples"]]
        size = len(names) * get_world_size()
        images = collect_results(names, size, device="cpu", tmpdir=f"{self.file}.parts")
        if is_main_process():
            line = dict(loss=float(loss), images=sorted(images))
            with self.file.open("a") as file:
                file.write(json.dumps(line) + "\n")
