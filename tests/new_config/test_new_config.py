"""From a folder in any form to a trained model in two commands."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tool
import torch
from crafted import Full
from label_forms import TASKS
from mmengine.config import Config
from PIL import Image

from care_mm import files
from care_mm.new_config import new_config, segmentation
from care_mm.new_config.convert import to_coco
from care_mm.new_config.layout import find_layout
from care_mm.new_config.segmentation import class_weights

Make = Callable[[str], Path]


def silent(_: str) -> None:
    """Swallow a line of progress."""


@pytest.mark.parametrize("form", list(TASKS))
def test_every_form_becomes_a_config_that_passes_its_trial(form: str, make: Make) -> None:
    root, out = make(form), Path("my.py")
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    lines: list[str] = []
    new_config(root, TASKS[form], out, say=lines.append)
    config = Config.fromfile(out)
    assert any(line.startswith("first step: ") for line in lines)
    assert any(line.startswith("val: ok") for line in lines), lines
    assert not list(Path().glob("_*trial*")), "the trial is left behind"
    changed = [path for path, content in before.items() if path.read_bytes() != content]
    assert not changed, "the user's files were changed"
    added = {p.parts[1] for p in root.rglob("*") if p.is_file() and p not in before}
    assert added <= {"care_mm"}
    if TASKS[form] == "detection":
        has_masks = form in ("coco", "yolo", "labelme")
        assert config.model.type == ("MaskRCNN" if has_masks else "FasterRCNN")
        assert len(config.classes) == len(json.loads(_train_file(config).read_text())["categories"])


def _train_file(config: Config) -> Path:
    data = config.train_dataloader.dataset
    data = data.get("dataset", data)  # repeated
    return Path(data.data_root, data.ann_file)


@pytest.mark.parametrize(
    ("form", "model", "arch"),
    [
        ("coco", "fasterrcnn", "s1"),
        ("coco", "rtmdet-ins", "s2"),
        ("boxes", "rtmdet", "s0"),
        ("masks", "segformer", "s2"),
    ],
)
def test_every_model_passes_its_trial(form: str, model: str, arch: str, make: Make) -> None:
    new_config(make(form), TASKS[form], "my.py", model, arch, say=silent)
    assert Config.fromfile("my.py").model.backbone.arch == arch


def test_a_model_with_masks_needs_masks(make: Make, capsys: pytest.CaptureFixture) -> None:
    options = ["--task", "detection", "--model", "rtmdet-ins", "--out", "my.py"]
    refusal = tool.refusal(capsys, "new_config", make("boxes"), *options)
    assert "needs a mask for every object" in refusal


@pytest.mark.parametrize("form", ["coco", "boxes", "voc", "yolo", "masks", "folders"])
def test_two_commands_train_evaluate_and_draw(form: str, make: Make) -> None:
    root = make(form)
    tool.call("new_config", root, "--task", TASKS[form], "--out", "my.py")
    short = [
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "default_hooks.logger.interval=1",
    ]
    text = Path("my.py").read_text()
    if "RepeatDataset" in text:
        short.append("train_dataloader.dataset.times=1")
    tool.call("train", "my.py", "--work-dir", "run", "--cfg-options", *short)
    assert Path("run/epoch_1.pth").is_file()
    assert list(Path("run").glob("**/predictions.png")), "no images of predictions"
    assert list(Path("run").glob("**/report.html"))


def test_an_existing_config_is_kept_and_a_dry_run_writes_nothing(
    make: Make, capsys: pytest.CaptureFixture
) -> None:
    root = make("coco")
    tool.call("new_config", root, "--task", "detection", "--dry-run")
    written, said = capsys.readouterr()
    assert "maskrcnn_care_thin.py" in written and written.startswith("# Written by")
    assert "data: coco labels, train, val" in said
    assert not Path("config.py").exists() and not (root / "care_mm").exists()
    Path("my.py").write_text("x = 1")
    refusal = tool.refusal(capsys, "new_config", root, "--task", "detection", "--out", "my.py")
    assert "exists already" in refusal and Path("my.py").read_text() == "x = 1"


def test_bad_input_is_one_line(make: Make, capsys: pytest.CaptureFixture) -> None:
    root = make("folders")
    for task, says in (
        ("detection", "--task detection needs a COCO file"),
        ("segmentation", "needs a folder of images and a folder of masks"),
    ):
        assert says in tool.refusal(capsys, "new_config", root, "--task", task, "--out", "a.py")
    refusal = tool.refusal(capsys, "new_config", "nowhere", "--task", "detection", "--out", "a.py")
    assert "nowhere: no such folder" in refusal
    options = ["--task", "classification", "--out", "a.py", "--model", "maskrcnn"]
    assert "--task classification has care" in tool.refusal(capsys, "new_config", root, *options)
    assert "ends in .py" in tool.refusal(
        capsys, "new_config", root, "--task", "classification", "--out", "a.txt"
    )


def test_broken_data_are_refused_with_the_lines_of_the_check(
    make: Make, capsys: pytest.CaptureFixture
) -> None:
    root = make("coco")
    next((root / "pictures" / "train").iterdir()).unlink()
    refusal = tool.refusal(capsys, "new_config", root, "--task", "detection", "--out", "my.py")
    assert "problems in the data" in refusal and not Path("my.py").exists()


def test_boxes_without_area_are_left_out_and_masks_are_not_demanded(make: Make) -> None:
    lines: list[str] = []
    text = new_config(make("boxes"), "detection", "my.py", say=lines.append)
    assert "type='FasterRCNN'" in text and "with_mask=False" in text
    assert any("object without width" in line for line in lines), lines


def test_thousands_of_boxes_of_which_two_have_no_width(tmp_path: Path) -> None:
    """4,000 boxes of three classes, without masks, in a single file."""
    random = np.random.default_rng(0)
    names = ("bolt", "nut", "washer")
    images = [
        {"id": i, "file_name": f"{i}.jpg", "width": 160, "height": 128} for i in range(1, 101)
    ]
    annotations = [
        {
            "id": number,
            "image_id": number % 100 + 1,
            "category_id": number % 3 + 1,
            "bbox": [int(v) for v in (*random.integers(0, 90, 2), *random.integers(8, 36, 2))],
            "iscrowd": 0,
        }
        for number in range(1, 4001)
    ]
    for annotation in annotations:
        annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    for number in (7, 2500):
        annotations[number]["bbox"][2] = annotations[number]["area"] = 0
    root = tmp_path / "parts"
    root.mkdir()
    pixels = random.integers(0, 256, (128, 160, 3), np.uint8)
    for image in images:
        Image.fromarray(pixels).save(root / image["file_name"])
    categories = [{"id": i, "name": name} for i, name in enumerate(names, 1)]
    (root / "labels.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    lines: list[str] = []
    out = tmp_path / "my.py"
    new_config(root, "detection", out, say=lines.append)
    config = Config.fromfile(out)
    assert any("2 x object without width" in line for line in lines), lines
    assert config.classes == names and config.model.type == "FasterRCNN"
    assert config.model.test_cfg.rcnn.max_per_img >= 40
    assert any(line.startswith("val: ok") for line in lines), lines


def test_converted_labels_have_all_objects(make: Make) -> None:
    yolo = to_coco(find_layout(make("yolo"), "detection"))
    shutil.rmtree("data")
    make("coco")
    for split in ("train", "val"):
        expected = json.loads(Path(f"data/{split}.json").read_text())
        actual = yolo[split]
        assert len(actual["annotations"]) == len(expected["annotations"])
        assert not any(item["iscrowd"] for item in actual["annotations"])
        names = {image["id"]: image["file_name"] for image in actual["images"]}
        boxes = {
            (Path(names[a["image_id"]]).name, a["category_id"], *map(round, a["bbox"]))
            for a in actual["annotations"]
        }
        files = {image["id"]: image["file_name"] for image in expected["images"]}
        for a in expected["annotations"]:
            near = [
                box
                for box in boxes
                if box[:2] == (files[a["image_id"]], a["category_id"])
                and max(abs(p - q) for p, q in zip(box[2:], a["bbox"], strict=True)) <= 1.5
            ]
            assert near, a


def test_splits_are_the_same_every_time_and_keep_related_images_together() -> None:
    from care_mm.new_config.splitting import split

    names = [f"clip{clip}_{frame:03d}.jpg" for clip in range(10) for frame in range(8)]
    train, val, how = split(names)
    assert (train, val, how) == split(names) and "number" in how
    assert sorted(train + val) == sorted(names) and 8 <= len(val) <= 24
    clips = {name.partition("_")[0] for name in val}
    assert not clips & {name.partition("_")[0] for name in train}
    train, val, how = split([f"{i:04d}.jpg" for i in range(50)])
    assert len(val) == 10 and how == "every image by itself"


def test_classes_that_a_flip_would_exchange_are_not_flipped(make: Make) -> None:
    root = make("folders")
    names = sorted(path.name for path in root.iterdir())
    (root / names[0]).rename(root / "arrow_left")
    (root / names[1]).rename(root / "arrow_right")
    text = new_config(root, "classification", "my.py", dry_run=True, say=silent)
    assert "RandomFlip" not in text and "opposite" in text


def test_several_files_for_a_split_are_refused(make: Make, capsys: pytest.CaptureFixture) -> None:
    root = make("coco")
    shutil.copy(root / "train.json", root / "training_2.json")
    refusal = tool.refusal(capsys, "new_config", root, "--task", "detection", "--out", "my.py")
    assert "several COCO files for train (train.json, training_2.json)" in refusal


def test_colour_masks_are_refused(make: Make, capsys: pytest.CaptureFixture) -> None:
    root = make("masks")
    for file in (root / "masks").iterdir():
        Image.open(file).convert("RGB").save(file)
    refusal = tool.refusal(capsys, "new_config", root, "--task", "segmentation", "--out", "my.py")
    assert "one channel of 8 bits" in refusal and "RGB" in refusal


def test_folders_that_cannot_be_split_or_written_are_refused(
    make: Make, capsys: pytest.CaptureFixture
) -> None:
    options = ["--task", "classification", "--out", "no/such/my.py"]
    root = make("folders")
    (root / "care_mm").write_text("in the way")
    assert "written into data/care_mm" in tool.refusal(capsys, "new_config", root, *options)
    (root / "care_mm").unlink()
    for folder in root.iterdir():
        for image in sorted(folder.iterdir())[1:]:
            image.unlink()
    refusal = tool.refusal(capsys, "new_config", root, *options)
    assert "there is no second image to validate on" in refusal
    next(folder.iterdir()).unlink()
    assert f"{folder}: has no image" in tool.refusal(capsys, "new_config", root, *options)
    assert not Path("no").exists()


@pytest.mark.parametrize("form", ["voc", "masks", "folders"])
def test_a_full_disk_leaves_the_files_of_an_earlier_config(
    form: str, make: Make, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise Full()

    options = [make(form), "--task", TASKS[form], "--out"]
    tool.call("new_config", *options, "my.py")
    before = {file: file.read_bytes() for file in Path("data", "care_mm").rglob("*.*")}
    assert before
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fail)
        assert "No space left on device" in tool.refusal(capsys, "new_config", *options, "more.py")
    after = {file: file.read_bytes() for file in Path("data", "care_mm").rglob("*.*")}
    assert after == before and not Path("more.py").exists()


def test_a_single_image_with_a_mask_is_refused(make: Make, capsys: pytest.CaptureFixture) -> None:
    root = make("masks")
    for image in sorted((root / "images").iterdir())[1:]:
        image.unlink()
    refusal = tool.refusal(capsys, "new_config", root, "--task", "segmentation", "--out", "my.py")
    assert "there is no second image to validate on" in refusal


def test_rare_classes_weigh_more() -> None:
    camvid = [0.175, 0.242, 0.010, 0.330, 0.047, 0.101, 0.012, 0.012, 0.061, 0.007, 0.003]
    weights = class_weights(camvid)
    assert sorted(weights, reverse=True) == [weights[i] for i in np.argsort(camvid, kind="stable")]
    assert max(weights) == pytest.approx(43.9, abs=0.5) and min(weights) == 3.3
    assert class_weights([0.5, 0.3, 0.2]) == []
    assert class_weights([0.99, 0.01]) == []
    assert class_weights([0.99, 0.01, 0.0])[2] == 50.5


def make_rare_masks(drawn: Path) -> None:
    """Make the folder ``data`` with masks of eleven classes and ignored pixels."""
    shutil.copytree(drawn / "ade" / "ADEChallengeData2016", "data")
    for file in Path("data", "annotations").rglob("*.png"):
        mask = np.asarray(Image.open(file))
        Image.fromarray(mask - np.uint8(1)).save(file)  # 0, unlabelled in ADE20K, becomes 255


@pytest.mark.parametrize("ignored_fail", [False, True])
def test_masks_with_rare_classes_and_ignored_pixels_become_a_config(
    ignored_fail: bool, drawn_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ignored_fail:
        monkeypatch.setattr("care_mm.new_config.segmentation._weighs_ignored", lambda: False)
    monkeypatch.chdir(tmp_path)
    make_rare_masks(drawn_once)
    weighed = segmentation._weighs_ignored()  # not by mmseg 1.2.2
    text = new_config("data", "segmentation", "my.py", say=silent)
    assert "Some classes are rare" in text
    assert ("class_weight=[" in text) == weighed


def test_a_dry_run_for_rare_classes_needs_no_mmseg(
    drawn_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "mmseg.models.losses", None)
    make_rare_masks(drawn_once)
    text = new_config("data", "segmentation", "my.py", dry_run=True, say=silent)
    assert "class_weight=[" in text


@pytest.mark.parametrize("fails", [False, True])
def test_a_loss_that_indexes_the_weights_by_ignored_pixels_gets_none(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(score: torch.Tensor, label: torch.Tensor, **options: object) -> None:
        if fails:  # as mmseg 1.2.2
            torch.ones(2)[label]

    made = SimpleNamespace(CrossEntropyLoss=lambda **_: loss)
    monkeypatch.setitem(sys.modules, "mmseg.models.losses", made)
    assert segmentation._weighs_ignored() is not fails


def test_nuclei_like_data_get_the_settings_of_the_hand_made_config() -> None:
    """Sizes and counts as in the nuclei of docs/results.md."""
    from care_mm.new_config.decisions import (
        Machine,
        choose_anchor,
        choose_proposals,
        choose_scale,
    )
    from care_mm.new_config.survey import Objects, Sizes

    sides = tuple(side / 256 for side in (5, 8.7, 11, 33))
    sizes = Sizes(256, 256, 2.5)
    objects = Objects(("nucleus",), 530, sizes, 23_166, sides, 375, True)
    cpu = Machine("cpu", 0.0, 1)
    scale = choose_scale(sizes, cpu, objects)
    assert scale.test == (320, 320) and scale.crop == (224, 224)
    assert choose_anchor(objects, scale) == 3
    assert choose_proposals(objects.densest, 200) == 600
    street = choose_scale(Sizes(480, 360, 1.0), cpu)
    assert street.train == street.test == (480, 360) and street.crop == (256, 256)
