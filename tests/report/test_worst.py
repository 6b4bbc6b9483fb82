"""The worst predictions of a run, and runs that have none to judge."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import tool
import torch
from mmengine.registry import init_default_scope
from mmpretrain.structures import DataSample
from PIL import Image
from untrained import CONFIGS

from care_mm.config import load_config
from care_mm.report import judge
from care_mm.tasks import Task

PROBABILITIES = (0.9, 0.2, 0.6, 0.4, 0.7)  # of the true class of each image


class Images(list):
    """A data set of images whose class is ``ball``."""

    metainfo: ClassVar = dict(classes=("ball", "cube"))


@pytest.fixture
def images(tmp_path: Path) -> Images:
    images = Images()
    for i, probability in enumerate(PROBABILITIES):
        Image.new("RGB", (30, 20), (50 * i, 0, 0)).save(tmp_path / f"{i}.png")
        sample = DataSample(metainfo=dict(img_path=str(tmp_path / f"{i}.png"))).set_gt_label(0)
        sample.set_pred_score(torch.tensor([probability, 1 - probability]))
        images.append(dict(data_samples=sample))
    return images


def judged(images: Images, **settings: int):
    config = load_config(CONFIGS["classification"])
    init_default_scope("mmpretrain")
    model = SimpleNamespace(eval=lambda: None, test_step=lambda batch: batch["data_samples"])
    return judge(model, images, config, **settings)


def test_worst_images_come_first(images: Images) -> None:
    judgement = judged(images, num_worst=3)
    assert [image.name for image in judgement.worst] == ["1.png", "3.png", "2.png"]
    assert judgement.worst[0].remark == "ball (0.20), predicted cube (0.80)"
    assert np.asarray(judgement.worst[0].drawn[""])[0, 0].tolist() == [50, 0, 0]
    assert (judgement.rated, judgement.total, judgement.task) == (5, 5, Task.CLASSIFICATION)
    assert judgement.measure == "recall" and judgement.classes == [("ball", 3, 0, 2, 0.6)]


def test_rated_images_are_evenly_spaced(images: Images) -> None:
    judgement = judged(images, num_rated=3)
    assert sorted(image.name for image in judgement.worst) == ["0.png", "2.png", "4.png"]
    assert (judgement.rated, judgement.total) == (3, 5)


def test_images_without_truth_are_not_judged(images: Images) -> None:
    for entry in images:
        del entry["data_samples"].gt_label
    judgement = judged(images)
    assert (judgement.rated, judgement.total, judgement.task, judgement.worst) == (0, 5, None, [])


def test_an_image_that_fails_costs_only_itself(images: Images, tmp_path: Path) -> None:
    """One sample cannot be predicted, and the file of one is gone when it is drawn."""
    images[0] = dict(data_samples=None)
    (tmp_path / "1.png").unlink()
    judgement = judged(images, num_worst=2)
    assert [image.name for image in judgement.worst] == ["3.png"]
    assert judgement.rated == 4 and len(judgement.problems) == 2
    assert "1.png: cannot be drawn" in judgement.problems[1]


def test_run_without_checkpoints_is_refused(work_dir: Path, capsys) -> None:
    (work_dir / "epoch_2.pth").unlink()
    assert "holds no checkpoint" in tool.refusal(capsys, "report", work_dir)
