"""Unreadable and unusual images are named."""

from __future__ import annotations

from pathlib import Path

import mmcv
import numpy as np
import pytest
from checking import WITH_MASKS, ade, assert_named, check, coco, details, edit, folders
from PIL import Image

from care_mm.datasets.check import images

DAMAGED = {
    "empty": (lambda file: file.write_bytes(b""), "an empty file"),
    "truncated": (
        lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
        "truncated",
    ),
    "html": (lambda file: file.write_text("<html>404</html>"), "a text file"),
    "noise": (lambda file: file.write_bytes(bytes(range(256)) * 9), "cannot identify"),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_is_named(data: Path, fault: str) -> None:
    damage, reason = DAMAGED[fault]
    coco_file = data / "coco" / "train2017" / "000000000003.jpg"
    crop = next((data / "imagenet" / "train" / "cube").iterdir())
    mask = next((data / "ade" / "ADEChallengeData2016" / "annotations" / "training").iterdir())
    for file in (coco_file, crop, mask):
        content = file.read_bytes()
        file.unlink()  # a hard link of another file
        file.write_bytes(content)
        damage(file)
    assert_named(check(train=coco(data))["train"], "unreadable image", str(coco_file), reason)
    assert_named(check(train=folders(data))["train"], "unreadable image", str(crop), reason)
    assert_named(check(train=ade(data))["train"], "unreadable mask", str(mask), reason)


MODES = {
    "L": "grayscale image",
    "CMYK": "CMYK image",
    "P": "image with a palette",
    "RGBA": "image with alpha",
    "I;16": "image with more than 8 bits",
}


@pytest.mark.parametrize("mode", MODES)
def test_images_that_are_not_rgb_are_noted_and_load(data: Path, mode: str) -> None:
    file = data / "coco" / "train2017" / "000000000002.jpg"
    image = Image.open(file)
    size = image.size
    image = image.convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    file.unlink()
    image.save(file, "JPEG" if mode in ("L", "CMYK") else "PNG")
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, f"1 x {MODES[mode]}", str(file), is_note=True)
    loaded = mmcv.imread(str(file))
    assert loaded.shape == (size[1], size[0], 3) and loaded.dtype == np.uint8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sizes_are_those_that_opencv_loads(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "rotated.jpg"
    Image.new("RGB", (40, 24)).save(file, exif=exif)
    for color in ("color", "color_ignore_orientation", "unchanged"):
        loads = [dict(type="LoadImageFromFile", color_type=color)]
        loader = images.loader_of(dict(pipeline=loads))
        height, width = mmcv.imread(str(file), flag=color).shape[:2]
        assert images.decode(file, loader).size == (width, height)


def test_a_rotated_image_must_be_annotated_as_rotated(data: Path) -> None:
    file = data / "coco" / "train2017" / "000000000001.jpg"
    image = Image.open(file)
    image.load()
    width, height = image.size
    assert width != height
    exif = Image.Exif()
    exif[0x0112] = 6
    file.unlink()
    image.save(file, exif=exif)
    named = f"{file}: {height} x {width}, annotated as {width} x {height}"
    assert_named(check(train=coco(data))["train"], "another size than annotated", named)
    edit(data, lambda content: content["images"][0].update(width=height, height=width))
    edit(data, lambda c: c.update(annotations=[a for a in c["annotations"] if a["image_id"] != 1]))
    findings = check(train=coco(data))["train"]
    assert not findings.problems
    assert_named(findings, "rotated by its EXIF data", str(file), is_note=True)


def test_images_that_only_opencv_reads_are_intact(data: Path, monkeypatch) -> None:
    """Limits of Pillow, which opens a file for notes only, do not matter to training."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    file = data / "coco" / "train2017" / "000000000001.jpg"
    with pytest.raises(Image.DecompressionBombError):
        Image.open(file).load()
    assert not check(train=coco(data))["train"].problems


def test_dark_16_bit_images_are_noted(data: Path) -> None:
    file = data / "coco" / "train2017" / "000000000002.jpg"
    pixels = np.asarray(Image.open(file).convert("L")).astype(np.uint16)
    file.unlink()
    Image.fromarray(pixels * 16).save(file, "PNG")  # 12 bits
    findings = check(train=coco(data))["train"]
    assert_named(findings, "1 x 16-bit image with small values", str(file), is_note=True)
    assert mmcv.imread(str(file)).max() < 16
    scaled = [dict(type="LoadImageFromFile", color_type=3), WITH_MASKS[1]]
    settings = {**coco(data), "pipeline": scaled}
    assert "small values" not in details(check(train=settings)["train"])


def test_a_sample_is_even_and_bounded() -> None:
    assert list(images.sample(range(5), 9)) == list(range(5))
    assert list(images.sample(range(5), None)) == list(range(5))
    assert images.sample(range(101), 5) == [0, 25, 50, 75, 100]
    assert list(images.sample(range(5), 0)) == []
