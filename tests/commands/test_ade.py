"""Train, resume, test and infer with the config for ADE20K, on a miniature of ADE20K."""

from __future__ import annotations

import json
from pathlib import Path

import golden
import pytest
import tool
import torch
from commands.conftest import REPOSITORY, Run
from miniature import make_ade
from pages import Page

CONFIG = REPOSITORY / "configs" / "semfpn_care_s0_ade20k.py"
SMALL = (
    "model.data_preprocessor.size=(64, 64)",
    "train_dataloader.batch_size=2",
    "train_dataloader.dataset.pipeline.2.scale=(96, 96)",
    "train_dataloader.dataset.pipeline.3.crop_size=(64, 64)",
    "val_dataloader.dataset.pipeline.1.scale=(96, 64)",
    "test_dataloader.dataset.pipeline.1.scale=(96, 64)",
    "train_dataloader.num_workers=0",
    "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0",
    "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0",
    "test_dataloader.persistent_workers=False",
    "default_hooks.logger.interval=1",
    "default_hooks.checkpoint.interval=2",
    "train_cfg.val_interval=2",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a user's folder with data/ade and the authors' weights under the expected name."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "data" / "ade").mkdir(parents=True)
    make_ade(folder / "data" / "ade" / "ADEChallengeData2016")
    (folder / "checkpoints").mkdir()
    weights = golden.single("s0")
    torch.save({"state_dict": weights}, folder / "checkpoints" / "care_s0_in1k.pth")
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path, run: Run):
    """Train two iterations, then resume for two more."""
    options = ("--work-dir", "run", "--cfg-options", *SMALL)
    first = run("tools/train.py", CONFIG, *options, "train_cfg.max_iters=2", cwd=folder)
    assert first.returncode == 0, first.stderr
    second = run(
        "tools/train.py", CONFIG, "--resume", *options, "train_cfg.max_iters=4", cwd=folder
    )
    assert second.returncode == 0, second.stderr
    return first, second


def test_training_loads_the_weights_and_writes_checkpoints_and_report(
    folder: Path, trained
) -> None:
    first, _ = trained
    assert "559 of 559 tensors loaded from checkpoints/care_s0_in1k.pth" in first.stdout
    names = {file.name for file in (folder / "run").iterdir()}
    assert {"iter_2.pth", "iter_4.pth", "last_checkpoint"} <= names
    assert {"predictions.png", "curves.png"} <= names
    assert any(name.startswith("best_mIoU_iter_") for name in names)
    page = Page(folder / "run" / "report.html")
    (best,) = (name for name in names if name.startswith("best_mIoU_iter_"))
    assert "best mIoU" in page.text and best in page.text
    assert "mean IoU" in page.text and len(page.images) == 6


def test_resume_continues_where_the_run_stopped(folder: Path, trained) -> None:
    _, second = trained
    assert "Iter(train) [3/4]" in second.stdout and "Iter(train) [1/4]" not in second.stdout
    content = torch.load(folder / "run" / "iter_4.pth", weights_only=False)
    assert content["meta"]["iter"] == 4
    assert {int(s["step"]) for s in content["optimizer"]["state"].values()} == {4}


def test_all_150_classes_are_trained_and_evaluated(
    folder: Path, trained, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    content = torch.load(folder / "run" / "iter_4.pth", weights_only=False)
    assert len(content["meta"]["dataset_meta"]["classes"]) == 150
    assert content["state_dict"]["decode_head.conv_seg.weight"].shape[0] == 150
    monkeypatch.chdir(folder)
    args = ("--work-dir", "tested", "--cfg-options", *SMALL)
    tool.call("test", CONFIG, "run/iter_4.pth", *args)
    table = capsys.readouterr()
    assert "mIoU" in table.out + table.err


def test_inference_writes_an_image_and_the_share_of_each_class(
    folder: Path, trained, monkeypatch
) -> None:
    monkeypatch.chdir(folder)
    images = Path("data/ade/ADEChallengeData2016/images/validation")
    args = ("--out-dir", "results", "--cfg-options", *SMALL)
    tool.call("infer", CONFIG, "run/iter_4.pth", images, *args)
    records = json.loads((folder / "results" / "predictions.json").read_text())
    assert len(records) == 3
    for name, record in records.items():
        assert sum(record["classes"].values()) == pytest.approx(1, abs=1e-2)
        assert (folder / "results" / "images" / f"{name}.png").is_file()
