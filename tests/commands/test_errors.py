"""Users' mistakes end with status 2 and one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands.conftest import REPOSITORY, Run, one_line
from miniature import make_coco

CONFIG = REPOSITORY / "configs" / "maskrcnn_care_s1_coco.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with data/coco."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "data").mkdir()
    make_coco(folder / "data" / "coco")
    return folder


def test_missing_weights_are_named_with_the_alternative(tmp_path: Path, run: Run) -> None:
    line = one_line(run("tools/train.py", CONFIG, cwd=tmp_path))
    assert "checkpoints/care_s1_in1k.pth" in line and "--from-scratch" in line


def test_missing_data_is_named(tmp_path: Path, run: Run) -> None:
    line = one_line(run("tools/train.py", CONFIG, "--from-scratch", cwd=tmp_path))
    assert "data/coco" in line and "docs/data.md" in line


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("trian_cfg.max_epochs=1", "train_cfg"),
        ("model.backbone.archh=s1", "archh"),
        ("model.backbone.arch=s7", "s0, s1, s2"),
    ],
)
def test_a_typo_in_an_option_is_named(
    folder: Path, tmp_path: Path, run: Run, option: str, named: str
) -> None:
    args = ("--work-dir", tmp_path / "run", "--from-scratch", "--cfg-options", option)
    assert named in one_line(run("tools/train.py", CONFIG, *args, cwd=folder))


def test_a_missing_config_suggests_a_similar_one(tmp_path: Path, run: Run) -> None:
    wrong = str(CONFIG).replace("_s1_", "_s9_")
    assert "did you mean" in one_line(run("tools/train.py", wrong, cwd=tmp_path))


def test_amp_without_a_gpu_is_refused(tmp_path: Path, run: Run, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    args = ("--amp", "--from-scratch", "--work-dir", tmp_path / "run")
    assert "GPU" in one_line(run("tools/train.py", CONFIG, *args, cwd=tmp_path))
