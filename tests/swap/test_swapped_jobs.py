"""Swap a config, then train and test it on other data with the tools of mmdet and mmseg."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import golden
import pytest
import torch
from clients.conftest import shipped_tool
from commands.conftest import REPOSITORY, one_line

from care_mm.datasets.shapes import OBJECTS, PALETTE, SEG_CLASSES, ensure_shapes

DETECTOR = f"""
_base_ = './retinanet_care.py'
root = 'data/shapes/coco/'
classes = {OBJECTS!r}
train_dataloader = dict(dataset=dict(data_root=root, metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(data_root=root, metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=root + 'annotations/instances_val2017.json')
test_evaluator = val_evaluator
model = dict(bbox_head=dict(num_classes={len(OBJECTS)}))
"""
SEGMENTOR = f"""
_base_ = './upernet_care.py'
data = dict(
    type='BaseSegDataset',
    data_root='data/shapes/ade/ADEChallengeData2016',
    reduce_zero_label=True,
    metainfo=dict(classes={SEG_CLASSES!r}, palette={list(map(list, PALETTE))!r}))
train_dataloader = dict(dataset=data)
val_dataloader = dict(dataset=data)
test_dataloader = val_dataloader
model = dict(
    decode_head=dict(num_classes={len(SEG_CLASSES)}),
    auxiliary_head=dict(num_classes={len(SEG_CLASSES)}))
"""
# Small enough for a test: fewer pixels, a narrower head, no loader processes.
LOADING = tuple(
    f"{split}_dataloader.{setting}"
    for split in ("train", "val", "test")
    for setting in ("num_workers=0", "persistent_workers=False")
)
SMALL_DETECTOR = (
    *LOADING,
    "train_dataloader.dataset.pipeline.2.scale=(96, 96)",
    "val_dataloader.dataset.pipeline.1.scale=(96, 96)",
    "test_dataloader.dataset.pipeline.1.scale=(96, 96)",
    "train_cfg.max_epochs=1",
    "default_hooks.logger.interval=1",
    "model.bbox_head.stacked_convs=1",
    "model.test_cfg.score_thr=0.0",  # after so short a training most scores are low
)
SMALL_SEGMENTOR = (
    *LOADING,
    "model.data_preprocessor.size=(64, 64)",
    "model.decode_head.channels=64",
    "model.auxiliary_head.channels=64",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.pipeline.2.scale=(96, 64)",
    "train_dataloader.dataset.pipeline.3.crop_size=(64, 64)",
    "val_dataloader.dataset.pipeline.1.scale=(96, 64)",
    "test_dataloader.dataset.pipeline.1.scale=(96, 64)",
    "train_cfg.max_iters=3",
    "train_cfg.val_interval=3",
    "default_hooks.checkpoint.interval=3",
    "default_hooks.logger.interval=1",
)
Call = Callable[..., str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with drawn data, and weights of the authors' format at the usual path."""
    folder = tmp_path_factory.mktemp("user")
    ensure_shapes(folder / "data" / "shapes", num_train=6, num_val=2, size=96, seed=3)
    (folder / "checkpoints").mkdir()
    weights = {k: v.float() for k, v in golden.state_dict("s0").items()}
    torch.save({"state_dict": weights}, folder / "checkpoints" / "care_s0_in1k.pth")
    (folder / "my_detector.py").write_text(DETECTOR)
    (folder / "my_segmentor.py").write_text(SEGMENTOR)
    return folder


@pytest.fixture(scope="module")
def call(folder: Path) -> Call:
    """Return a function that runs a script in that folder and returns its output."""

    def call(script: Path, *args: object) -> str:
        process = subprocess.run(
            [sys.executable, str(script), *map(str, args)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert process.returncode == 0, process.stdout[-3000:] + process.stderr[-3000:]
        return process.stdout + process.stderr

    return call


def test_retinanet_is_swapped_trained_tested_and_drawn(folder: Path, call: Call) -> None:
    base = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
    args = (base, "--arch", "s0", "--out", "retinanet_care.py")
    printed = call(REPOSITORY / "tools" / "swap_backbone.py", *args)
    assert "CARE-S0 in place of ResNet" in printed
    assert f"_base_ = {base!r}" in (folder / "retinanet_care.py").read_text()

    options = ("--work-dir", "runs/detector", "--cfg-options", *SMALL_DETECTOR)
    trained = call(shipped_tool("mmdet", "train.py"), "my_detector.py", *options)
    assert "559 of 559 tensors loaded from checkpoints/care_s0_in1k.pth" in trained
    assert "loss_bbox" in trained

    checkpoint = "runs/detector/epoch_1.pth"
    shown = ("--show-dir", "shown", *options)
    tested = call(shipped_tool("mmdet", "test.py"), "my_detector.py", checkpoint, *shown)
    assert "coco/bbox_mAP" in tested
    assert len(list((folder / "runs" / "detector").rglob("shown/*.jpg"))) == 2


def test_upernet_is_swapped_trained_tested_and_drawn(folder: Path, call: Call) -> None:
    base = "mmseg::upernet/upernet_r50_4xb4-80k_ade20k-512x512.py"
    args = (base, "--arch", "s0", "--out", "upernet_care.py")
    call(REPOSITORY / "tools" / "swap_backbone.py", *args)

    options = ("--work-dir", "runs/segmentor", "--cfg-options", *SMALL_SEGMENTOR)
    trained = call(shipped_tool("mmseg", "train.py"), "my_segmentor.py", *options)
    assert "tensors loaded from checkpoints/care_s0_in1k.pth" in trained
    assert "decode.loss_ce" in trained and "aux.loss_ce" in trained

    checkpoint = "runs/segmentor/iter_3.pth"
    shown = ("--show-dir", "shown", *options, "default_hooks.visualization.interval=1")
    tested = call(shipped_tool("mmseg", "test.py"), "my_segmentor.py", checkpoint, *shown)
    assert "mIoU" in tested
    assert len(list((folder / "shown").rglob("*.png"))) == 2


def test_our_own_tools_train_a_swapped_config(folder: Path, call: Call) -> None:
    """This needs the config that the first test writes."""
    options = ("--work-dir", "runs/ours", "--cfg-options", *SMALL_DETECTOR)
    trained = call(REPOSITORY / "tools" / "train.py", "my_detector.py", *options)
    assert "559 of 559 tensors loaded" in trained


def test_a_refusal_is_one_line_and_leaves_no_file(folder: Path) -> None:
    out = folder / "segmenter_care.py"
    process = subprocess.run(
        [
            sys.executable,
            str(REPOSITORY / "tools" / "swap_backbone.py"),
            "mmseg::segmenter/segmenter_vit-t_mask_8xb1-160k_ade20k-512x512.py",
            "--out",
            str(out),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert "VisionTransformer" in one_line(process)
    assert not out.exists()
