"""Drawing never ends a run: an image that cannot be drawn is logged, and none is overwritten."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer

from care_mm.engine.hooks.drawing import DrawingGuardHook

IMAGE = np.zeros((20, 30, 3), np.uint8)


def detection(path: str, bad: bool) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(img_path=path))
    mask = torch.zeros(1, 5, 5) if bad else torch.ones(1, 20, 30)
    boxes = torch.tensor([[1.0, 1.0, 9.0, 9.0]])
    sample.pred_instances = InstanceData(
        bboxes=boxes, labels=torch.tensor([0]), scores=torch.tensor([0.9]), masks=mask.bool()
    )
    return sample


def segmentation(path: str, bad: bool) -> SegDataSample:
    sample = SegDataSample(metainfo=dict(img_path=path))
    sample.pred_sem_seg = PixelData(data=torch.zeros(1, *((5, 5) if bad else (20, 30))).long())
    return sample


def classification(path: str, bad: bool) -> DataSample:
    sample = DataSample(metainfo=dict(img_path=path))
    return sample.set_pred_score(torch.ones(2)).set_pred_label(7 if bad else 0)


CASES = {
    "detection": (DetLocalVisualizer, "add_datasample", detection),
    "segmentation": (SegLocalVisualizer, "add_datasample", segmentation),
    "classification": (UniversalVisualizer, "visualize_cls", classification),
}


@pytest.mark.parametrize("task", CASES)
def test_an_image_that_cannot_be_drawn_costs_only_itself(tmp_path: Path, task: str) -> None:
    kind, method, sample_of = CASES[task]
    visualizer = kind(name=task, save_dir=str(tmp_path))
    visualizer.dataset_meta = dict(classes=("a", "b"), palette=[(1, 2, 3), (4, 5, 6)])
    lines: list[str] = []
    runner = SimpleNamespace(visualizer=visualizer, logger=SimpleNamespace(warning=lines.append))
    hook = DrawingGuardHook()
    hook.before_test(runner)
    out = tmp_path / "same.png"
    for index, path in enumerate(("one/same.png", "two/same.png", "three/same.png")):
        sample = sample_of(path, bad=index == 1)
        getattr(visualizer, method)(name="same", image=IMAGE, data_sample=sample, out_file=str(out))
    hook.after_test(runner)
    assert {file.name for file in tmp_path.glob("*.png")} == {"same.png", "same_3.png"}
    assert len(lines) == 2 and lines[0].startswith("image two/same.png: ")
    assert lines[1].startswith("1 image could not be drawn, the first is two/same.png")


def test_a_second_guard_does_not_wrap_the_first(tmp_path: Path) -> None:
    visualizer = SegLocalVisualizer(name="once", save_dir=str(tmp_path))
    runner = SimpleNamespace(visualizer=visualizer)
    hook = DrawingGuardHook()
    hook.before_test(runner)
    guarded = visualizer.add_datasample
    hook.before_val(runner)
    assert visualizer.add_datasample is guarded
