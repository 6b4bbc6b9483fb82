"""Every object arrives: an epoch without any, or a metric without a value, is said once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from care_mm.engine.hooks.data import DataGuardHook
from care_mm.engine.hooks.guarded_pipeline import GuardedPipeline, recorded


def objects(count: int) -> DetDataSample:
    labels = torch.zeros(count, dtype=torch.long)
    return DetDataSample(gt_instances=InstanceData(bboxes=torch.rand(count, 4), labels=labels))


def pixels(*labels: int) -> SegDataSample:
    return SegDataSample(gt_sem_seg=PixelData(data=torch.tensor([[labels]])))


def label(*labels: int) -> DataSample:
    return DataSample(gt_label=torch.tensor(labels, dtype=torch.long))


class Logger(list):
    warning = info = list.append


def train(samples: list, tmp_path: Path, ignore_index: int = 255) -> Logger:
    """Run the hook over two epochs of one sample a batch; return what it says."""
    dataset = SimpleNamespace(
        pipeline=lambda data: data, metainfo={"classes": ("a", "b")}, ignore_index=ignore_index
    )
    dataset = type("Data", (), {**vars(dataset), "__len__": lambda self: len(samples)})()
    loader = type("Loader", (list,), {"dataset": dataset})(samples)
    runner = SimpleNamespace(
        train_dataloader=loader,
        work_dir=str(tmp_path),
        iter=0,
        logger=Logger(),
        register_hook=lambda hook, priority: None,
    )
    hook = DataGuardHook()
    hook.before_train(runner)
    for _ in range(2):
        for i, sample in enumerate(samples):
            hook.after_train_iter(runner, i, {"data_samples": [sample]})
            runner.iter += 1
    return runner.logger


@pytest.mark.parametrize(
    "samples",
    [[objects(0)] * 3, [pixels(255, 255)] * 3, [label()] * 2],
    ids=["detection", "segmentation", "classification"],
)
def test_an_epoch_without_an_annotation_is_said_once(samples: list, tmp_path: Path) -> None:
    (line,) = train(samples, tmp_path)
    assert "no annotated object, pixel or label" in line and "check_data" in line


@pytest.mark.parametrize(
    "samples",
    [[objects(0), objects(1)], [pixels(255), pixels(1, 255)], [label(), label(1)]],
    ids=["detection", "segmentation", "classification"],
)
def test_one_annotation_is_enough(samples: list, tmp_path: Path) -> None:
    assert not train(samples, tmp_path)


def test_pixels_with_the_ignored_label_of_the_data_set_do_not_count(tmp_path: Path) -> None:
    assert train([pixels(100, 255)], tmp_path, ignore_index=100)
    assert not train([pixels(100, 255)], tmp_path, ignore_index=99)


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_metric_without_a_value_is_said_once(value: float) -> None:
    hook, runner = DataGuardHook(), SimpleNamespace(logger=Logger())
    hook.after_val_epoch(runner, {"coco/bbox_mAP": 0.5, "coco/bbox_mAP_s": value})
    assert not runner.logger
    for _ in range(2):
        hook.after_val_epoch(runner, {"coco/bbox_mAP": value})
    (line,) = runner.logger
    assert f"coco/bbox_mAP is {value}" in line


def test_a_label_beyond_the_classes_is_a_bad_sample() -> None:
    sample = objects(2)
    sample.gt_instances.labels[1] = 7
    guarded = GuardedPipeline(lambda data: {"data_samples": sample}, num_classes=3, skip=True)
    assert guarded({"img_path": "a.jpg"}) is None


@pytest.mark.parametrize("names", [["shot: 1.jpg", "shot: 2.jpg", "shot"], ['a "b": c', "a: "]])
def test_names_with_a_colon_are_files_of_their_own(names: list[str], tmp_path: Path) -> None:
    def fail(data: dict) -> None:
        raise OSError("cut short: at byte 60")

    record = tmp_path / "bad.txt"
    guarded = GuardedPipeline(fail, skip=True, record=record)
    for name in names * 3:  # epochs
        assert guarded({"img_path": name}) is None
    assert len(recorded(record)) == len(record.read_text().splitlines()) == len(names)
