"""Train, resume, test and infer with the config for ImageNet, on a miniature of ImageNet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tool
import torch
from commands.conftest import REPOSITORY, Run
from miniature import make_imagenet
from pages import Page

from care_mm.models.classifier import MODELS

CONFIG = REPOSITORY / "configs" / "care_s0_imagenet.py"
SMALL = (
    "train_dataloader.batch_size=8",
    "train_dataloader.dataset.indices=16",  # the first 16 of 1000
    "train_dataloader.dataset.pipeline.1.transforms.0.0.scale=64",
    "train_dataloader.dataset.pipeline.1.transforms.1.0.scale=64",
    "val_dataloader.dataset.indices=8",
    "val_dataloader.dataset.pipeline.1.scale=72",
    "val_dataloader.dataset.pipeline.2.crop_size=64",
    "test_dataloader.dataset.indices=8",
    "test_dataloader.dataset.pipeline.1.scale=72",
    "test_dataloader.dataset.pipeline.2.crop_size=64",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "default_hooks.logger.interval=1",
)
TEACHER = (
    "model.teacher.model_name=resnet10t",
    "model.teacher.pretrained=False",
    "model.teacher_checkpoint=checkpoints/teacher.pth",
)
IMAGE = "data/imagenet/val/n10000000"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder with data/imagenet and a small teacher."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "data").mkdir()
    make_imagenet(folder / "data" / "imagenet")
    (folder / "checkpoints").mkdir()
    teacher = MODELS.build(dict(type="TimmClassifier", model_name="resnet10t", num_classes=1000))
    torch.save({"state_dict": teacher.state_dict()}, folder / "checkpoints" / "teacher.pth")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, run: Run):
    """Train an epoch with a teacher, then resume for a second one."""
    options = ("--work-dir", "run", "--cfg-options", *SMALL, *TEACHER)
    first = run("tools/train.py", CONFIG, *options, "train_cfg.max_epochs=1", cwd=folder)
    assert first.returncode == 0, first.stderr
    second = run(
        "tools/train.py", CONFIG, "--resume", *options, "train_cfg.max_epochs=2", cwd=folder
    )
    assert second.returncode == 0, second.stderr
    return first, second


def test_training_writes_checkpoints_without_the_teacher(folder: Path, trained) -> None:
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"epoch_1.pth", "epoch_2.pth", "last_checkpoint", "curves.png"} <= names
    assert any(name.startswith("best_accuracy_top1_epoch_") for name in names)
    state = torch.load(folder / "run" / "epoch_2.pth", weights_only=False)["state_dict"]
    assert {key.split(".")[0] for key in state} == {"backbone", "head"}
    page = Page(folder / "run" / "report.html")
    assert "best top1" in page.text and ", predicted " in page.text
    assert len(page.images) == 8, "each image appears once, since there is nothing to draw"
    assert state["head.distill.fc.weight"].shape == (1000, 1024)


def test_resume_continues_where_the_run_stopped(folder: Path, trained) -> None:
    _, second = trained
    assert "Epoch(train) [2]" in second.stdout and "Epoch(train) [1]" not in second.stdout
    contents = [torch.load(folder / "run" / f"epoch_{i}.pth", weights_only=False) for i in (1, 2)]
    assert [content["meta"]["iter"] for content in contents] == [2, 4]
    assert {int(s["step"]) for s in contents[1]["optimizer"]["state"].values()} == {4}


def test_testing_and_inference_need_no_teacher(
    folder: Path, trained, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    """The unchanged config would download its teacher."""
    monkeypatch.chdir(folder)
    args = ("--work-dir", "tested", "--cfg-options", *SMALL)
    tool.call("test", CONFIG, "run/epoch_2.pth", *args)
    table = capsys.readouterr()
    assert "accuracy/top1" in table.out + table.err
    args = ("--out-dir", "results", "--cfg-options", *SMALL)
    tool.call("infer", CONFIG, "run/epoch_2.pth", IMAGE, *args)
    (record,) = json.loads((folder / "results" / "predictions.json").read_text()).values()
    assert 0 <= record["label"] < 1000 and 0 < record["score"] <= 1


def test_training_without_a_teacher(folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    options = (*SMALL, "model.teacher=None", "train_cfg.max_epochs=1")
    tool.call("train", CONFIG, "--work-dir", "alone", "--cfg-options", *options)
    assert (folder / "alone" / "epoch_1.pth").is_file()


def test_a_missing_teacher_is_named(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    options = (*SMALL, *TEACHER, "model.teacher_checkpoint=checkpoints/gone.pth")
    args = ("--work-dir", "refused", "--cfg-options", *options)
    line = tool.refusal(capsys, "train", CONFIG, *args)
    assert "teacher_checkpoint checkpoints/gone.pth: no such file" in line
    assert not (folder / "refused").exists()
