"""GuardedPipeline on single files and samples; tests/faults/test_bad_data.py has data sets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import make_ade
from mmengine.registry import DATASETS, init_default_scope
from PIL import Image

from care_mm.engine.hooks.guarded_pipeline import (
    BadSample,
    GuardedPipeline,
    check_complete,
    recorded,
)
from care_mm.errors import InputError

IMAGE = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
SEGMENTATION = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]


def save(image: np.ndarray | Image.Image, path: Path, **options) -> None:
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(path, **options)


def _png(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: save(array, path, format="PNG")


READ = {
    "grayscale": _png(IMAGE[..., 0]),
    "16 bits": _png(IMAGE[..., 0].astype(np.uint16) * 257),
    "alpha": lambda path: save(Image.fromarray(IMAGE).convert("RGBA"), path, format="PNG"),
    "palette": lambda path: save(Image.fromarray(IMAGE).quantize(16), path, format="PNG"),
    "one bit": lambda path: save(Image.fromarray(IMAGE).convert("1"), path, format="PNG"),
    "CMYK": lambda path: save(Image.fromarray(IMAGE).convert("CMYK"), path, format="JPEG"),
    "progressive": lambda path: save(IMAGE, path, format="JPEG", progressive=True),
    "junk at the end": lambda path: (
        save(IMAGE, path, format="JPEG"),
        path.write_bytes(path.read_bytes() + b"\0" * 100),
    ),
}


@pytest.mark.parametrize("kind", READ)
def test_unusual_images_are_read_as_rgb(kind: str, tmp_path: Path) -> None:
    from mmcv.transforms import LoadImageFromFile

    path = tmp_path / "image"
    READ[kind](path)
    guarded = GuardedPipeline(LoadImageFromFile())
    image = guarded(dict(img_path=str(path)))["img"]
    assert (image.shape, image.dtype) == ((40, 60, 3), np.uint8)
    if kind in ("grayscale", "16 bits"):
        assert np.array_equal(image[..., 1], IMAGE[..., 0])
    elif kind == "alpha":
        assert np.array_equal(image[..., ::-1], IMAGE)


@pytest.mark.parametrize("turn", [1, 3, 6, 8])
def test_image_that_exif_rotates_is_loaded_upright(turn: int, tmp_path: Path) -> None:
    from mmcv.transforms import LoadImageFromFile

    tags = Image.Exif()
    tags[0x0112] = turn
    save(IMAGE, tmp_path / "rotated.jpg", exif=tags)
    image = GuardedPipeline(LoadImageFromFile())(dict(img_path=str(tmp_path / "rotated.jpg")))[
        "img"
    ]
    assert image.shape[:2] == ((40, 60) if turn in (1, 3) else (60, 40))


# Labels


def test_mask_with_a_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    from mmseg.utils import register_all_modules as register_mmseg

    register_mmseg(init_default_scope=False)
    init_default_scope("mmseg")
    root = make_ade(tmp_path / "ade", 4, 2, 64)
    masks = sorted((root / "annotations" / "training").glob("*.png"))
    mask = np.array(Image.open(masks[0]))
    mask[3, 4] = 200
    Image.fromarray(mask).save(masks[0])
    blank = np.zeros_like(np.array(Image.open(masks[1])))  # without any label
    Image.fromarray(blank).save(masks[1])
    dataset = DATASETS.build(
        dict(
            type="ADE20KDataset",
            data_root=str(root),
            data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
            pipeline=SEGMENTATION,
        )
    )
    dataset.pipeline = GuardedPipeline(dataset.pipeline, num_classes=150)
    with pytest.raises(InputError, match=f"{masks[0].stem}.*has label 199 in its mask"):
        dataset[0]
    assert (dataset[1]["data_samples"].gt_sem_seg.data == 255).all()


@pytest.mark.parametrize("label", [-1, 6, 1000])
def test_label_beyond_the_classes_is_named(label: int) -> None:
    from mmpretrain.structures import DataSample

    guarded = GuardedPipeline(
        lambda data: dict(data_samples=DataSample().set_gt_label(label)), num_classes=6
    )
    with pytest.raises(InputError, match=r"a\.jpg: has label .*the classes end at 5"):
        guarded(dict(img_path="a.jpg"))
    guarded.pipeline = lambda data: dict(data_samples=DataSample().set_gt_label(5))
    assert guarded(dict(img_path="a.jpg")) is not None


# How many are tolerated


def fail(data: dict) -> None:
    raise ValueError("no")


def test_data_without_a_valid_image_end_the_run_at_once() -> None:
    calls = []
    guarded = GuardedPipeline(lambda data: calls.append(data) or fail(data), skip=True)
    with pytest.raises(InputError, match="20 images in a row are unusable"):
        for _ in range(1000):
            guarded(dict(img_path="same.jpg"))
    assert len(calls) == 20


def test_pipeline_that_returns_nothing_ends_the_run() -> None:
    guarded = GuardedPipeline(lambda data: None, skip=True)
    with pytest.raises(InputError, match="returned nothing for 201 samples in a row"):
        for _ in range(1000):
            guarded(dict(img_path="x.jpg"))


def test_too_many_bad_files_end_the_run(tmp_path: Path) -> None:
    """Each file counts once, over all processes and epochs."""
    record = tmp_path / "bad.txt"
    guards = [
        GuardedPipeline(
            lambda data: fail(data) if data["bad"] else data, skip=True, max_bad=3, record=record
        )
        for _ in range(2)
    ]
    for epoch in range(3):
        for number in range(3):
            assert guards[epoch % 2](dict(img_path=f"{number}.jpg", bad=True)) is None
            assert guards[epoch % 2](dict(img_path="good.jpg", bad=False)) is not None
    assert [line.split(":")[0] for line in recorded(record)] == ["0.jpg", "1.jpg", "2.jpg"]
    with pytest.raises(InputError, match=r"4 images are unusable, which is more than 3"):
        guards[0](dict(img_path="3.jpg", bad=True))


def test_memory_error_is_not_a_bad_file() -> None:
    def full(data: dict) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        GuardedPipeline(full, skip=True)(dict(img_path="x.jpg"))


# Truncated files


def test_complete_files_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(IMAGE, tmp_path / "a.jpg")
    save(IMAGE, tmp_path / "b.png")
    (tmp_path / "c.bmp").write_bytes(b"BM")
    monkeypatch.setattr(Image, "open", lambda path: pytest.fail("decoded"))
    for name in ("a.jpg", "b.png", "c.bmp"):
        check_complete(tmp_path / name)


def test_truncation_at_any_length_is_detected(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png"):
        save(IMAGE, tmp_path / name)
        complete = (tmp_path / name).read_bytes()
        for length in range(20, len(complete) - 40, 97):
            (tmp_path / name).write_bytes(complete[:length])
            with pytest.raises(BadSample, match="cut short"):
                check_complete(tmp_path / name)


def test_mask_of_another_form_than_its_image_is_named() -> None:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def guarded(shape: tuple, loaded: tuple) -> object:
        sample = SegDataSample(metainfo=dict(ori_shape=loaded))
        sample.gt_sem_seg = PixelData(data=torch.zeros(shape).long())
        result = dict(inputs=torch.zeros(3, 40, 60), data_samples=sample)
        return GuardedPipeline(lambda _: result, num_classes=2)(dict(img_path="a.jpg"))

    assert guarded((1, 40, 60), (80, 120)), "a mask that was resized with its image"
    assert guarded((1, 80, 120), (80, 120)), "a mask of an evaluation"
    with pytest.raises(InputError, match=r"a\.jpg: is 60x40 pixels.* mask is 60x30"):
        guarded((1, 30, 60), (80, 120))
