"""Every fault in class folders and lists is named with its file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checking import assert_named, check, folders

from care_mm.datasets.shapes import OBJECTS


def test_missing_and_empty_class_folders_are_named(data: Path) -> None:
    root = data / "imagenet"
    for file in (root / "train" / "leaf").iterdir():
        file.unlink()
    shutil.rmtree(root / "val" / "star")
    classes = dict(metainfo=dict(classes=OBJECTS))
    reports = check(train=folders(data, **classes), val=folders(data, "val", **classes))
    assert_named(reports["train"], "class folder without an image", "train/leaf", is_note=True)
    assert not reports["train"].problems
    assert_named(reports["val"], "another number", ": 5 folders, 6 classes; the first folders are")
    assert_named(reports["val"], "other classes than the training data", "'star' is missing")


def test_unsorted_images_are_named(data: Path) -> None:
    root = data / "imagenet" / "val"
    for file in list(root.rglob("*.JPEG")):
        file.rename(root / file.name)
    for folder in list(root.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    findings = check(val=folders(data, "val"))["val"]
    assert_named(findings, "images next to its class folders", "docs/data.md")
    assert_named(findings, "folder without an image:", str(root))


def test_files_next_to_the_images_are_noted(data: Path) -> None:
    (data / "imagenet" / "train" / "cube" / "notes.txt").write_text("x")
    assert_named(check(train=folders(data))["train"], "cube/notes.txt", is_note=True)


def test_classes_in_another_order_than_the_folders_are_named(drawn: Path) -> None:
    classes = dict(metainfo=dict(classes=OBJECTS[::-1]))
    findings = check(train=folders(drawn, **classes))["train"]
    assert_named(findings, "another position than its folder", "'star': number 0 of the classes")


LINES = {
    "cube/gone.JPEG 1": ("1 x missing image", "train/cube/gone.JPEG"),
    "cube.JPEG": ("not a file and a label", "list.txt:2: 'cube.JPEG'"),
    "cube.JPEG cube": ("not a file and a label", "list.txt:2"),
    "{file} 6": ("beyond the classes", "6 of"),
}


@pytest.mark.parametrize("line", LINES)
def test_faults_of_a_list_are_named(data: Path, line: str) -> None:
    file = next((data / "imagenet" / "train" / "ball").iterdir())
    name = str(file.relative_to(data / "imagenet" / "train"))
    (data / "imagenet" / "list.txt").write_text(f"{name} 0\n{line.format(file=name)}\n")
    settings = folders(data, ann_file="list.txt", metainfo=dict(classes=OBJECTS))
    assert_named(check(train=settings)["train"], *LINES[line])


def test_a_misspelt_class_is_noted_at_its_place_and_refused_elsewhere(drawn: Path) -> None:
    for old, new, is_refused in (("cube", "cubes", False), ("ball", "zball", True)):
        names = sorted(new if name == old else name for name in OBJECTS)
        findings = check(train=folders(drawn, metainfo=dict(classes=names)))["train"]
        assert bool(findings.problems) is is_refused
        if not is_refused:
            assert_named(
                findings, "not the name of its folder", "'cubes': folder 'cube'", is_note=True
            )
    other = dict(metainfo=dict(classes=[f"class {i}" for i in range(6)]))  # as in ImageNet
    assert not check(train=folders(drawn, **other))["train"].offenders
    spelt = dict(metainfo=dict(classes=[name.upper() for name in OBJECTS]))
    assert not check(train=folders(drawn, **spelt))["train"].offenders


def test_an_empty_list_is_refused(data: Path) -> None:
    (data / "imagenet" / "list.txt").write_text("")
    findings = check(train=folders(data, ann_file="list.txt"))["train"]
    assert_named(findings, "list with no image", "list.txt")


def test_an_image_listed_twice_is_noted_and_refused_with_two_labels(data: Path) -> None:
    file = next((data / "imagenet" / "train" / "ball").iterdir())
    name = str(file.relative_to(data / "imagenet" / "train"))
    for label, is_note in ((0, True), (1, False)):
        (data / "imagenet" / "list.txt").write_text(f"{name} 0\n{name} {label}\n")
        settings = folders(data, ann_file="list.txt", metainfo=dict(classes=OBJECTS))
        findings = check(train=settings)["train"]
        assert_named(findings, "image listed twice", name, is_note=True)
        assert bool(findings.problems) is not is_note
        if not is_note:
            assert_named(findings, "image listed with two labels", f"{name}: 0 and 1")
