"""`tools/check_data.py`: its report on the paper's three data sets, and its status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tool
from commands.conftest import REPOSITORY, Run, one_line
from miniature import make_ade, make_coco, make_imagenet

CONFIGS = REPOSITORY / "configs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with the data of all three tasks."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "data" / "ade").mkdir(parents=True)
    make_coco(folder / "data" / "coco", num_train=2, num_val=2)
    make_ade(folder / "data" / "ade" / "ADEChallengeData2016", num_train=2, num_val=2)
    make_imagenet(folder / "data" / "imagenet", num_train=2, num_val=2)
    return folder


@pytest.mark.parametrize(
    ("config", "texts"),
    [
        (
            "maskrcnn_care_s1_coco",
            ["train: ok (2 images, ", ", 80 classes)", "ok (2 x num_classes)"],
        ),
        ("semfpn_care_s1_ade20k", ["train: ok (2 images with masks, 150 classes)"]),
        (
            "care_s1_imagenet",
            ["ok (1,000 images, 1,000 classes)", "test: ok (the same data"],
        ),
        ("shapes/maskrcnn_care_s0_shapes", ["train: ok (will be drawn into data/shapes/coco"]),
    ],
)
def test_data_in_the_real_layouts_are_ok(
    folder: Path, config: str, texts: list[str], monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    tool.call("check_data", CONFIGS / f"{config}.py", "--limit", 20)
    out = capsys.readouterr().out
    assert all(text in out for text in texts), out
    assert "problem" not in out


def test_a_user_sees_every_problem_and_status_2(folder: Path, tmp_path: Path, run: Run) -> None:
    root = make_coco(tmp_path / "data" / "coco", num_train=3, num_val=2)
    file = root / "annotations" / "instances_train2017.json"
    content = json.loads(file.read_text())
    for image in content["images"][1:]:
        image["file_name"] = "gone_" + image["file_name"]
    content["annotations"][0]["bbox"] = [1, 2, -3, 4]
    file.write_text(json.dumps(content))
    options = ("--show", 2, "--cfg-options", "model.roi_head.mask_head.num_classes=3")
    config = CONFIGS / "maskrcnn_care_s1_coco.py"
    result = run("tools/check_data.py", config, *options, cwd=tmp_path)
    line = one_line(result)
    assert line == f"check_data.py: error: 3 problems in data/coco, {config}"
    lines = result.stdout.splitlines()
    missing = next(i for i, line in enumerate(lines) if "missing image" in line)
    assert lines[missing].startswith("  2 x missing image, e.g. data/coco/train2017/gone_")
    assert lines[missing + 1].strip().startswith("data/coco/train2017/gone_")
    assert any("annotation 1 of image 1: [1, 2, -3, 4]" in line for line in lines)
    assert any("model.roi_head.mask_head.num_classes=3: 80 classes" in line for line in lines)


def test_problems_of_other_splits_do_not_matter(
    folder: Path, monkeypatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(folder)
    config = CONFIGS / "semfpn_care_s1_ade20k.py"
    gone = ("--cfg-options", "train_dataloader.dataset.data_root=data/gone")
    tool.call("check_data", config, "--split", "val", *gone)
    assert "train" not in capsys.readouterr().out
    line = tool.refusal(capsys, "check_data", config, *gone)
    assert line.endswith("error: 1 problem in data/gone")
