"""Every fault that is put into masks, class folders and lists is named with its file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checking import ade, assert_named, check, folders
from PIL import Image

from care_mm.datasets import check_masks
from care_mm.datasets.shapes.objects import OBJECTS

# Segmentation


def masks_of(data: Path) -> list[Path]:
    folder = data / "ade" / "ADEChallengeData2016" / "annotations" / "training"
    return sorted(folder.iterdir())


def repaint(file: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.array(Image.open(file)))).save(file)


def put(value: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(mask: np.ndarray) -> np.ndarray:
        mask[0, 0] = value
        return mask

    return change


MASK_FAULTS = {
    "beyond": (put(12), ("values beyond", "(value 12; 11 classes)")),
    "254": (put(254), ("values beyond", "(value 254; 11 classes)")),
    "size": (lambda mask: mask[:-1], ("not of its picture's size",)),
    "colour": (lambda mask: np.stack([mask] * 3, -1), ("one channel", "(RGB)")),
    "16 bits": (lambda mask: mask.astype(np.uint16), ("one channel", "(I;16)")),
}


@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_faults_of_masks_are_named(data: Path, fault: str) -> None:
    change, texts = MASK_FAULTS[fault]
    file = masks_of(data)[2]
    repaint(file, change)
    assert_named(check(train=ade(data))["train"], str(file), *texts)


@pytest.mark.parametrize("value", [0, 255])
def test_values_that_are_ignored_are_well(data: Path, value: int) -> None:
    repaint(masks_of(data)[0], put(value))
    assert not check(train=ade(data))["train"].problems


def test_images_and_masks_are_paired(data: Path) -> None:
    image = data / "ade" / "ADEChallengeData2016" / "images" / "training"
    first_image, *_, last_image = sorted(image.iterdir())
    masks_of(data)[0].unlink()
    last_image.unlink()
    findings = check(train=ade(data))["train"]
    assert_named(findings, "1 image has no mask", str(first_image))
    assert_named(findings, "1 mask has no image", str(masks_of(data)[-1]))


def test_a_folder_of_other_endings_is_named(data: Path) -> None:
    findings = check(train=ade(data, img_suffix=".png"))["train"]
    assert_named(findings, "no image of the data set", "images/training (*.png)")


def test_masks_that_are_ignored_altogether(data: Path) -> None:
    blank = np.zeros_like
    repaint(masks_of(data)[0], blank)
    findings = check(train=ade(data))["train"]
    assert not findings.problems
    assert_named(findings, "1 mask is ignored altogether", str(masks_of(data)[0]), fatal=False)
    for file in masks_of(data):
        repaint(file, blank)
    assert_named(check(train=ade(data))["train"], "6 masks are ignored altogether, which are all")


def test_masks_of_0_and_255_are_named(data: Path) -> None:
    for file in masks_of(data):
        repaint(file, lambda mask: np.where(mask > 3, 255, 0).astype(np.uint8))
    two = dict(metainfo=dict(classes=("ground", "object")), reduce_zero_label=False)
    assert_named(check(train=ade(data, **two))["train"], "nothing but 0 and 255")


def test_two_opinions_about_the_zero_label_are_named(drawn: Path) -> None:
    loads = [dict(type="LoadAnnotations", reduce_zero_label=True)]
    findings = check(train=ade(drawn, pipeline=loads, reduce_zero_label=False))["train"]
    assert_named(findings, "another reduce_zero_label", "True, and False in the data set")


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("classes", [None, ("sky", "wall")])
def test_values_become_labels_as_in_mmseg(tmp_path: Path, reduce: bool, classes) -> None:
    """Every value of a byte, through mmseg's own loading, for all classes and for a choice."""
    from mmseg.datasets import ADE20KDataset
    from mmseg.datasets.transforms import LoadAnnotations

    metainfo = None if classes is None else dict(classes=classes)
    dataset = ADE20KDataset(
        metainfo=metainfo, reduce_zero_label=reduce, lazy_init=True, data_prefix=dict(img_path="")
    )
    file = tmp_path / "mask.png"
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(file)
    results = dict(
        seg_map_path=str(file),
        label_map=dataset.label_map,
        reduce_zero_label=reduce,
        seg_fields=[],
    )
    loaded = LoadAnnotations()(results)["gt_seg_map"]
    assert np.array_equal(check_masks.label_table(dataset), loaded.ravel())


# Classification


def test_class_folders_that_lack_or_are_empty_are_named(data: Path) -> None:
    root = data / "imagenet"
    for file in (root / "train" / "leaf").iterdir():
        file.unlink()
    shutil.rmtree(root / "val" / "star")
    classes = dict(metainfo=dict(classes=OBJECTS))
    found = check(train=folders(data, **classes), val=folders(data, "val", **classes))
    assert_named(found["train"], "class folder is without an image", "train/leaf", fatal=False)
    assert not found["train"].problems
    assert_named(found["val"], "another number", "(5 folders, 6 classes; the first folders are")
    assert_named(found["val"], "other classes than the training's", "it lacks 'star'")


def test_unsorted_pictures_are_named(data: Path) -> None:
    root = data / "imagenet" / "val"
    for file in list(root.rglob("*.JPEG")):
        file.rename(root / file.name)
    for folder in list(root.iterdir()):
        if folder.is_dir():
            folder.rmdir()
    findings = check(val=folders(data, "val"))["val"]
    assert_named(findings, "pictures beside the class folders", "docs/data.md")
    assert_named(findings, "folder has no image", str(root))


def test_files_beside_the_images_are_noted(data: Path) -> None:
    (data / "imagenet" / "train" / "cube" / "notes.txt").write_text("x")
    assert_named(check(train=folders(data))["train"], "cube/notes.txt", fatal=False)


def test_classes_in_another_order_than_the_folders_are_named(drawn: Path) -> None:
    classes = dict(metainfo=dict(classes=OBJECTS[::-1]))
    findings = check(train=folders(drawn, **classes))["train"]
    assert_named(findings, "not at their folders' places", "'star' (number 0 of the classes")


LINES = {
    "cube/gone.JPEG 1": ("1 image is missing", "train/cube/gone.JPEG"),
    "cube.JPEG": ("not a file and a label", "list.txt:2 ('cube.JPEG')"),
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
