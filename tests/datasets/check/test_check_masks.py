"""Every fault in masks is named with its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checking import ade, assert_named, check, details
from mmengine.config import Config
from PIL import Image

from care_mm.datasets.check import check_config
from care_mm.datasets.check.masks import label_table


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
    "beyond": (put(12), ("values beyond", ": value 12; 11 classes")),
    "254": (put(254), ("values beyond", ": value 254; 11 classes")),
    "size": (lambda mask: mask[:-1], ("another size than its image",)),
    "colour": (lambda mask: np.stack([mask] * 3, -1), ("one channel", ": RGB")),
    "16 bits": (lambda mask: mask.astype(np.uint16), ("one channel", ": I;16")),
}


@pytest.mark.parametrize("fault", MASK_FAULTS)
def test_faults_of_masks_are_named(data: Path, fault: str) -> None:
    change, texts = MASK_FAULTS[fault]
    file = masks_of(data)[2]
    repaint(file, change)
    assert_named(check(train=ade(data))["train"], str(file), *texts)


@pytest.mark.parametrize("value", [0, 255])
def test_ignored_values_are_ok(data: Path, value: int) -> None:
    repaint(masks_of(data)[0], put(value))
    assert not check(train=ade(data))["train"].problems


def test_images_and_masks_are_paired(data: Path) -> None:
    image = data / "ade" / "ADEChallengeData2016" / "images" / "training"
    first_image, *_, last_image = sorted(image.iterdir())
    masks_of(data)[0].unlink()
    last_image.unlink()
    findings = check(train=ade(data))["train"]
    assert_named(findings, "1 x image without a mask", str(first_image))
    assert_named(findings, "1 x mask without an image", str(masks_of(data)[-1]))


def test_a_folder_with_other_suffixes_is_named(data: Path) -> None:
    findings = check(train=ade(data, img_suffix=".png"))["train"]
    assert_named(findings, "without an image of the data set", "images/training: no *.png")


def test_masks_that_are_ignored_completely_are_a_problem_if_all_are(data: Path) -> None:
    blank = np.zeros_like
    repaint(masks_of(data)[0], blank)
    findings = check(train=ade(data))["train"]
    assert not findings.problems
    assert_named(
        findings, "1 x mask that is ignored completely", str(masks_of(data)[0]), is_note=True
    )
    for file in masks_of(data):
        repaint(file, blank)
    assert_named(
        check(train=ade(data))["train"], "6 x mask that is ignored completely, like all others"
    )


def test_masks_of_0_and_255_are_named(data: Path) -> None:
    for file in masks_of(data):
        repaint(file, lambda mask: np.where(mask > 3, 255, 0).astype(np.uint8))
    two = dict(metainfo=dict(classes=("background", "object")), reduce_zero_label=False)
    assert_named(check(train=ade(data, **two))["train"], "0 and 255 only")


def test_the_ignored_value_is_that_of_the_model(data: Path) -> None:
    for file in masks_of(data):
        repaint(file, lambda mask: np.where(mask == 0, 100, mask - 1).astype(np.uint8))
    settings = ade(data, reduce_zero_label=False)
    model = dict(decode_head=dict(num_classes=11, ignore_index=100))
    assert not check(train=settings, model=model)["train"].problems
    assert_named(check(train=settings)["train"], "values beyond", ": value 100")
    reduced = check(train=ade(data), model=model)["train"]
    assert_named(reduced, "ignore_index other than 255", "ignore_index=100")


def test_masks_are_needed_unless_predictions_are_only_written(data: Path) -> None:
    prefix = dict(data_prefix=dict(img_path="images/training"))
    assert_named(check(train=ade(data, **prefix))["train"], "data set without masks")
    no_step = ade(data, pipeline=[dict(type="LoadImageFromFile")])
    assert_named(check(train=no_step)["train"], "data set without masks", "no LoadAnnotations")
    inside = [dict(type="TestTimeAug", transforms=[[dict(type="LoadAnnotations")]])]
    assert not check(train=ade(data, pipeline=inside))["train"].problems
    content = dict(
        default_scope="mmseg",
        test_dataloader=dict(dataset=ade(data, **prefix)),
        test_evaluator=dict(type="IoUMetric", format_only=True, output_dir="x"),
    )
    assert not next(check_config(Config(content))).problems


def test_a_palette_needs_the_decoder_that_keeps_it(data: Path) -> None:
    for file in masks_of(data):
        image = Image.open(file)
        mask = Image.fromarray(np.array(image)).convert("P")
        mask.putpalette(bytes(range(256)) * 3)
        mask.putdata(list(np.array(image).ravel()))
        mask.save(file)
    assert not check(train=ade(data))["train"].problems
    steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", imdecode_backend="cv2")]
    assert "not one channel" in details(check(train=ade(data, pipeline=steps))["train"])


def test_a_disagreement_about_the_zero_label_is_named(drawn: Path) -> None:
    loads = [dict(type="LoadAnnotations", reduce_zero_label=True)]
    findings = check(train=ade(drawn, pipeline=loads, reduce_zero_label=False))["train"]
    assert_named(findings, "another reduce_zero_label", "True, and False in the data set")


@pytest.mark.parametrize("reduce", [False, True])
@pytest.mark.parametrize("classes", [None, ("sky", "wall")])
def test_values_become_labels_as_in_mmseg(tmp_path: Path, reduce: bool, classes) -> None:
    """Every value of a byte through mmseg's own loading, for all classes and for a subset."""
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
    assert np.array_equal(label_table(dataset), loaded.ravel())
