"""Labels cover no objects, and small images are enlarged, with the visualizers of all tasks."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmdet.visualization import DetLocalVisualizer
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer
from mmseg.structures import SegDataSample
from mmseg.visualization import SegLocalVisualizer
from PIL import Image

from care_mm.drawing import clarify, draw_class_map, draw_instances, place_labels
from care_mm.drawing.labels import MAX_COVERED
from care_mm.drawing.visualizer import size_to_draw
from care_mm.engine.hooks.drawing import DrawingGuardHook

GREEN = (20, 220, 40)


def cells(side: int, step: int, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (N, 4) and masks (N, side, side) of discs on a grid."""
    rows, columns = np.mgrid[:side, :side]
    centres = [(y, x) for y in range(step, side, step) for x in range(step, side, step)]
    masks = np.stack([(rows - y) ** 2 + (columns - x) ** 2 <= radius**2 for y, x in centres])
    boxes = [(x - radius, y - radius, x + radius + 1, y + radius + 1) for y, x in centres]
    return np.array(boxes, float), masks


def covered(labels: list, masks: np.ndarray) -> list[float]:
    """Return the share of each object that labels cover."""
    ground = np.zeros(masks.shape[1:], bool)
    for label in filter(None, labels):
        left, top, right, bottom = label.box
        ground[top:bottom, left:right] = True
    return [float((mask & ground).sum() / mask.sum()) for mask in masks]


@pytest.mark.parametrize(("step", "radius"), [(20, 8), (40, 12), (90, 30), (150, 20), (300, 250)])
def test_labels_cover_no_objects_and_do_not_overlap(step: int, radius: int) -> None:
    boxes, masks = cells(640, step, radius)
    areas = masks.sum((1, 2))
    labels = place_labels(["hazelnut 87"] * len(boxes), boxes, masks.sum(0), areas)
    assert max(covered(labels, masks)) <= (MAX_COVERED if radius > 100 else 0)
    total = np.zeros((640, 640), int)
    for label in filter(None, labels):
        left, top, right, bottom = label.box
        assert 0 <= left < right <= 640 and 0 <= top < bottom <= 640
        total[top:bottom, left:right] += 1
    assert total.max() <= 1
    if step == 20:
        assert not any(labels), "there is no room"
    if step == 150:
        assert all(labels), "there is room for all"


def test_a_large_object_holds_its_label_unless_another_is_there() -> None:
    owners = np.ones((400, 400), int)
    whole = np.array([[0, 0, 400, 400.0]])
    label = place_labels(["bus"], whole, owners, np.array([160000]))[0]
    assert label and label.box[:2] == (0, 0)
    owners[:60, :60] += 1
    assert place_labels(["bus"], whole, owners, np.array([160000])) == [None]
    assert place_labels(["bus"], whole, owners.clip(max=1), np.array([2000])) == [None]


def sample_of(masks: np.ndarray, boxes: np.ndarray, labels: list[int]) -> DetDataSample:
    sample = DetDataSample(metainfo=dict(img_path="a.png"))
    parts = dict(bboxes=torch.tensor(boxes).float(), labels=torch.tensor(labels))
    height, width = masks.shape[1:]
    truth = BitmapMasks(masks.astype(np.uint8), height, width)
    sample.gt_instances = InstanceData(masks=truth, **parts)
    scores = torch.full((len(boxes),), 0.9)
    sample.pred_instances = InstanceData(masks=torch.tensor(masks), scores=scores, **parts)
    return sample


def drawn(classes: tuple[str, ...], tmp_path: Path, truth: bool) -> np.ndarray:
    """Return 16 cells in an image of 100 pixels, drawn with the visualizer of a run."""
    visualizer = DetLocalVisualizer(name=f"{classes}{truth}", save_dir=str(tmp_path))
    visualizer.dataset_meta = dict(classes=classes, palette=[GREEN] * len(classes))
    DrawingGuardHook().before_test(SimpleNamespace(visualizer=visualizer))
    boxes, masks = cells(100, 20, 6)
    sample = sample_of(masks, boxes, [0] * len(boxes))
    out = tmp_path / f"{truth}.png"
    image = np.full((100, 100, 3), 128, np.uint8)
    visualizer.add_datasample(
        "a", image, sample, draw_gt=truth, draw_pred=not truth, out_file=str(out)
    )
    return np.array(Image.open(out))


@pytest.mark.parametrize("truth", [True, False])
def test_small_images_are_enlarged_and_one_class_has_no_labels(tmp_path: Path, truth: bool) -> None:
    image = drawn(("nucleus",), tmp_path, truth)
    assert image.shape[:2] == (600, 600)
    assert (image.max(-1) >= 90).all(), "there is a dark label"
    _, masks = cells(100, 20, 6)
    inside = masks.any(0).repeat(6, 0).repeat(6, 1)
    green = image[..., 1].astype(int) - image[..., 0] > 30
    assert green[inside].mean() > 0.99, "every mask is visible"
    assert green[~inside].mean() < 0.1, "nothing but boxes is drawn outside"


def test_names_of_several_classes_are_written_in_free_space_only(tmp_path: Path) -> None:
    image = drawn(("a", "b"), tmp_path, truth=False)
    assert (image.max(-1) < 60).any(), "there is room for short labels"
    inside = cells(100, 20, 6)[1].any(0).repeat(6, 0).repeat(6, 1)
    assert (image.max(-1)[inside] >= 90).all(), "a label covers an object"


def test_masks_keep_their_outlines_and_let_the_object_show() -> None:
    boxes, masks = cells(320, 80, 24)
    noise = np.random.default_rng(0).integers(0, 255, (320, 320, 3), np.uint8)
    image = draw_instances(noise, [GREEN] * len(boxes), boxes, masks, alpha=1.0)
    core = masks.any(0) & cells(320, 80, 20)[1].any(0)
    shown = np.corrcoef(image[core, 0].astype(float), noise[core, 0])[0, 1]
    assert shown > 0.9, "the fill hides the object"
    assert (image == GREEN).all(-1).sum() > 20 * len(boxes)


def test_names_on_class_maps_are_in_their_regions() -> None:
    class_map = np.zeros((300, 400), int)
    class_map[100:200] = 1
    class_map[200:204] = 2
    class_map[250:] = 255
    palette = [(200, 100, 100), (100, 200, 100), (100, 100, 200)]
    grey = np.full((300, 400, 3), 128, np.uint8)
    plain = draw_class_map(grey, class_map, ("sky", "sea", "rope"), palette, with_labels=False)
    image = draw_class_map(grey, class_map, ("sky", "sea", "rope"), palette)
    differs = (image != plain).any(-1)
    shares = [differs[class_map == label].mean() for label in (0, 1, 2)]
    assert 0 < shares[0] <= MAX_COVERED and 0 < shares[1] <= MAX_COVERED and shares[2] == 0
    assert (image[class_map == 255] == 128).all(), "ignored pixels are left as they are"
    single = draw_class_map(grey, class_map * 0, ("sky",), palette[:1])
    assert (single == single[0, 0]).all()


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.float32])
def test_class_maps_and_images_of_classes_are_enlarged(dtype: torch.dtype, tmp_path: Path) -> None:
    grey = np.full((50, 100, 3), 128, np.uint8)
    segmentor = SegLocalVisualizer(name="maps", save_dir=str(tmp_path))
    clarify(segmentor, dict(classes=("a", "b")))
    sample = SegDataSample()
    sample.pred_sem_seg = PixelData(data=torch.ones(1, 50, 100, dtype=dtype))
    segmentor.add_datasample("a", grey, sample, out_file=str(tmp_path / "a.png"))
    assert Image.open(tmp_path / "a.png").size == (600, 300)
    classifier = UniversalVisualizer(name="classes", save_dir=str(tmp_path))
    clarify(classifier, dict(classes=("a", "b")))
    sample = DataSample().set_pred_score(torch.ones(2)).set_pred_label(0)
    assert classifier.visualize_cls(grey, sample).shape[:2] == (300, 600)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((64, 64), (640, 640)),
        ((256, 200), (512, 400)),
        ((360, 480), (360, 480)),
        ((1, 1), (640,) * 2),
    ],
)
def test_images_are_drawn_at_a_whole_multiple_of_their_size(size: tuple, expected: tuple) -> None:
    assert size_to_draw(*size) == expected
