"""A work dir as a run leaves it, and a judgement of its predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from care_mm.report.worst import Judgement, RatedImage
from care_mm.tasks import Task

CONFIG = """\
model = dict(type='MaskRCNN', backbone=dict(type='CARETransformer', arch='s0'))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=3)
train_dataloader = dict(batch_size=4, dataset=dict(type='CocoDataset', data_root='<data> & more/'))
optim_wrapper = dict(optimizer=dict(type='AdamW', lr=0.0002))
"""
LOG = """\
{start} - mmengine - INFO -
System environment:
    Python: 3.11.7 (main)
    PyTorch: 2.11.0+cu130
Runtime environment:
    seed: 7
    GPU number: 2
{end} - mmengine - INFO - Saving checkpoint at 1 epochs
"""


def write_session(
    work_dir: Path, day: int, iterations: range, epochs: range, drop: float = 0
) -> None:
    """Write the files of one start or resumption, with ten iterations per epoch."""
    session = work_dir / f"202601{day:02d}_100000"
    (session / "vis_data").mkdir(parents=True)
    (session / "vis_data" / "config.py").write_text(CONFIG)
    lines: list[dict] = [
        dict(lr=2e-4, loss=3 / (i + 1) - drop, loss_cls=1 / (i + 1), time=0.1, iter=i, step=i)
        for i in iterations
    ]
    for e in epochs:
        metrics = {"coco/bbox_mAP": 0.1 * (3 - abs(e - 2)), "coco/bbox_mAP_l": -1.0, "time": 0.1}
        lines.append({**metrics, "step": e})
    (session / "vis_data" / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + '\n{"lo')
    times = dict(start=f"2026/01/{day:02d} 10:00:00", end=f"2026/01/{day:02d} 10:20:30")
    (session / f"{session.name}.log").write_text(LOG.format(**times))


@pytest.fixture
def work_dir(tmp_path: Path) -> Path:
    """Write a run killed after 25 iterations and resumed the next day from the second epoch."""
    folder = tmp_path / "a <run>"
    write_session(folder, 1, range(1, 26), range(1, 3))
    write_session(folder, 2, range(21, 31), range(3, 4), drop=0.01)
    (folder / "epoch_2.pth").write_bytes(b"weights")
    return folder


@pytest.fixture
def judgement() -> Judgement:
    image = np.zeros((40, 60, 3), np.uint8)
    return Judgement(
        rated=5,
        total=50,
        worst=[
            RatedImage(f"{i} & <more>.jpg", "1 missed", dict(truth=image, prediction=image))
            for i in range(3)
        ],
        task=Task.DETECTION,
        classes=[("<ball>", 1, 2, 3, 2 / 7), ("cube", 1, 0, 0, 1.0)],
    )
