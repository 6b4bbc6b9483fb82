"""Class names, colours and test pipelines of any config; records of every kind of model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.mathtext import MathTextParser
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from untrained import CONFIGS

from care_mm.config import load_config
from care_mm.drawing.visualizer import size_to_draw
from care_mm.errors import InputError
from care_mm.palette import drawable, literal
from care_mm.predict.classes import metainfo_of, number_of_classes
from care_mm.predict.draw import as_rgb, draw, offline_visualizer
from care_mm.predict.predictor import Predictor, predict_one
from care_mm.predict.predictor import test_pipeline as pipeline_of
from care_mm.report.rating import rate
from care_mm.visualize.cam import Target, choose_target

NAMES = ("Ba$$in", "cube $", "star")
CHANNELS = st.integers(0, 255)
COLOURS = st.one_of(st.tuples(*[CHANNELS] * 3), st.lists(CHANNELS, min_size=3, max_size=3))
PALETTES = st.one_of(
    st.none(),
    st.just("random"),
    COLOURS,
    st.lists(COLOURS, max_size=5),
    st.lists(COLOURS, max_size=5).map(tuple),
    st.lists(COLOURS, min_size=1, max_size=5).map(np.array),
)


def samples(label: int) -> dict[str, object]:
    """Return a prediction of a label for each task, on 32 x 32 pixels."""
    detection = DetDataSample()
    detection.pred_instances = InstanceData(
        bboxes=torch.tensor([[4.0, 4, 20, 20]]),
        labels=torch.tensor([label]),
        scores=torch.tensor([0.9]),
    )
    segmentation = SegDataSample()
    segmentation.pred_sem_seg = PixelData(data=torch.full((1, 32, 32), label))
    scores = torch.zeros(3)
    scores[label] = 1
    classification = DataSample().set_pred_score(scores).set_pred_label(label)
    return dict(detection=detection, segmentation=segmentation, classification=classification)


@pytest.mark.parametrize("task", CONFIGS)
@settings(max_examples=8, deadline=None, derandomize=True, database=None)
@given(palette=PALETTES, label=st.integers(0, 2))
def test_any_palette_and_names_can_be_drawn_with(task: str, palette: object, label: int) -> None:
    config = load_config(CONFIGS[task])
    init_default_scope(config.default_scope)
    visualizer = offline_visualizer(config, dict(classes=list(NAMES), palette=palette))
    image = np.full((32, 32, 3), 120, np.uint8)
    size = size_to_draw(*image.shape[:2])
    assert draw(visualizer, image, samples(label)[task]).shape == (*size, 3)


@settings(deadline=None, derandomize=True, database=None)
@given(palette=PALETTES, number=st.integers(0, 5))
def test_every_class_has_a_colour_and_given_ones_are_kept(palette: object, number: int) -> None:
    meta = drawable(dict(classes=[f"c{i}" for i in range(number)], palette=palette))
    assert isinstance(meta["palette"], list) and len(meta["palette"]) >= max(number, 1)
    assert all(type(c) is tuple and all(type(v) is int for v in c) for c in meta["palette"])
    assert drawable(meta) == meta
    given_colours = np.array(palette if isinstance(palette, list | tuple) else [], int)
    if given_colours.ndim == 2:
        kept = list(map(tuple, given_colours[:number].tolist()))
        assert meta["palette"][: len(kept)] == kept


@pytest.mark.parametrize("text", ["Ba$$in", "$", "$a$b$", "plain"])
def test_dollar_signs_are_drawn_as_they_are(text: str) -> None:
    assert literal(literal(text)) == literal(text)
    MathTextParser("path").parse(literal(text))
    assert literal(text).replace(r"\$", "$") == text


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (np.full((2, 3), 7, np.uint8), [7, 7, 7]),
        (np.full((2, 3, 1), 7, np.uint8), [7, 7, 7]),
        (np.dstack([np.full((2, 3), v, np.uint8) for v in (1, 2, 3)]), [3, 2, 1]),
        (np.dstack([np.full((2, 3), v, np.uint8) for v in (1, 2, 3, 4)]), [3, 2, 1]),
        (np.full((2, 3), 65535, np.uint16), [255, 255, 255]),
        (np.full((2, 3, 3), 9.0, np.float32), [9, 9, 9]),
        (np.full((2, 3, 3), np.nan, np.float32), [0, 0, 0]),
    ],
)
def test_images_of_any_channels_and_depth_can_be_drawn_into(image, pixel) -> None:
    assert as_rgb(image).shape == (2, 3, 3) and as_rgb(image)[0, 0].tolist() == pixel


def model_of(number: int | None, part: str = "head", inside: str = "") -> torch.nn.Module:
    model, head = torch.nn.Module(), torch.nn.Module()
    head.num_classes = number
    owner = model
    if inside:
        owner = torch.nn.Module()
        setattr(model, inside, owner)
    setattr(owner, part, head)
    return model


@pytest.mark.parametrize(
    ("part", "inside"),
    [("head", ""), ("decode_head", ""), ("bbox_head", ""), ("bbox_head", "roi_head")],
)
def test_number_of_classes_of_each_task(part: str, inside: str) -> None:
    assert number_of_classes(model_of(3, part, inside)) == 3
    assert number_of_classes(torch.nn.Module()) is None


def config_of(metainfo: dict | None, wrapped: bool = False) -> Config:
    dataset = dict(type="mmpretrain.CustomDataset")
    if metainfo is not None:
        dataset["metainfo"] = metainfo
    if wrapped:
        dataset = dict(type="ConcatDataset", datasets=[dataset])
    return Config(dict(default_scope="mmpretrain", test_dataloader=dict(dataset=dataset)))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, ("a", "b", "c")),
        (dict(CLASSES=("x", "y", "z")), ("x", "y", "z")),
        (dict(dataset_meta=dict(classes=["x", "y", "z"])), ("x", "y", "z")),
        (dict(dataset_meta=dict(CLASSES=["x", "y", "z"])), ("x", "y", "z")),
        (dict(dataset_meta=dict(classes=["x", "y"])), ("a", "b", "c")),
    ],
)
def test_names_of_the_checkpoint_count_and_else_those_of_the_config(
    meta: dict, expected: tuple, wrapped: bool
) -> None:
    config = config_of(dict(classes=("a", "b", "c")), wrapped)
    assert metainfo_of(config, meta, model_of(3), "x.pth")["classes"] == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [(("c", "b", "a"), "in another order"), (("a", "b", "x"), "differ"), (("a",), "1 class names")],
)
def test_other_names_than_the_config_s_are_said(capsys, names: tuple, said: str) -> None:
    config = config_of(dict(classes=("a", "b", "c")))
    metainfo_of(config, dict(dataset_meta=dict(classes=names)), model_of(3), "x.pth")
    captured = capsys.readouterr()
    assert said in captured.out + captured.err


def test_another_number_of_names_is_refused_unless_the_config_helps() -> None:
    meta = dict(dataset_meta=dict(classes=("a", "b")))
    with pytest.raises(InputError, match="has 2 class names, the model has 3 classes"):
        metainfo_of(config_of(None), meta, model_of(3), "x.pth")
    assert metainfo_of(config_of(None), {}, model_of(3), "x.pth")["classes"] == ("0", "1", "2")


def test_names_of_the_data_set_s_class_and_the_config_s_colours() -> None:
    config = Config(dict(test_dataloader=dict(dataset=dict(type="mmdet.CocoDataset"))))
    names = metainfo_of(config, {}, model_of(80, "bbox_head"), "x.pth")["classes"]
    assert names[:2] == ("person", "bicycle")
    config = config_of(dict(classes=("a", "b"), palette=[[1, 2, 3], [4, 5, 6]]))
    stored = dict(dataset_meta=dict(classes=("a", "b"), palette=[(0, 0, 0)]))
    assert metainfo_of(config, stored, model_of(2), "x.pth")["palette"] == [[1, 2, 3], [4, 5, 6]]


STEPS = [dict(type="mmcv.LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackInputs")]


@pytest.mark.parametrize(
    "dataset",
    [
        dict(type="A", pipeline=STEPS),
        dict(type="ConcatDataset", datasets=[dict(type="A", pipeline=STEPS)] * 2),
        dict(type="RepeatDataset", times=2, dataset=dict(type="A", pipeline=STEPS)),
        dict(
            type="MultiImageMixDataset",
            pipeline=[dict(type="Mosaic")],
            dataset=dict(type="A", pipeline=STEPS),
        ),
    ],
    ids=lambda dataset: dataset["type"],
)
@pytest.mark.parametrize("split", ["test", "val"])
def test_pipeline_of_wrapped_or_missing_test_data(dataset: dict, split: str) -> None:
    config = Config({"test_dataloader": None, f"{split}_dataloader": dict(dataset=dataset)})
    assert [step["type"] for step in pipeline_of(config)] == [STEPS[0]["type"], "PackInputs"]


def test_pipeline_of_test_time_augmentation_is_not_used() -> None:
    inner = [[dict(type="RandomFlip", prob=1.0)], [dict(type="LoadAnnotations")]]
    augmented = [STEPS[0], dict(type="TestTimeAug", transforms=inner)]
    loaders = dict(test_dataloader=dict(dataset=dict(type="A", pipeline=augmented)))
    with pytest.raises(InputError, match="TestTimeAug"):
        pipeline_of(Config(loaders))
    loaders["val_dataloader"] = dict(dataset=dict(type="A", pipeline=STEPS))
    assert [step["type"] for step in pipeline_of(Config(loaders))][1:] == ["PackInputs"]


def test_config_without_any_pipeline_is_refused() -> None:
    for loader in (None, dict(dataset=dict(type="A", pipeline=[dict(type="PackInputs")]))):
        with pytest.raises(InputError, match="has no test_dataloader"):
            pipeline_of(Config(dict(test_dataloader=loader)))


def binary_sample() -> SegDataSample:
    """Return a prediction of a model with one output channel: labels of floating point."""
    sample = SegDataSample()
    sample.pred_sem_seg = PixelData(data=torch.tensor([[[0.0, 1, 1, 1]]]))
    sample.seg_logits = PixelData(data=torch.tensor([[[0.1, 0.9, 0.8, 0.7]]]))
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[0, 1, 100, 0]]]))
    return sample


class Model:
    """A model that returns a prepared sample."""

    def __init__(self, sample: object) -> None:
        self.sample = sample

    def test_step(self, batch: object) -> list:
        return [self.sample]


def record_of(sample: object, classes: tuple[str, ...], model: object = None) -> dict:
    predictor = Predictor.__new__(Predictor)
    predictor.model, predictor.dataset_meta = model, dict(classes=classes)
    return predictor.record(sample)


def test_binary_segmentation_is_recorded_rated_and_explained() -> None:
    sample = predict_one(Model(binary_sample()), {})
    assert not sample.pred_sem_seg.data.is_floating_point()
    classes = ("ground", "thing")
    assert record_of(sample, classes) == {"classes": {"ground": 0.25, "thing": 0.75}}
    rating = rate(sample, classes, 0.5, ignored=100)
    assert rating.counts.tolist() == [[1, 0, 1], [1, 1, 0]]
    assert choose_target(binary_sample(), classes, None, 0.3).label == 1
    sample.seg_logits = PixelData(data=sample.seg_logits.data.requires_grad_())
    thing, ground = (Target(label, "", 0.3, True)(sample) for label in (1, 0))
    assert thing > 0 and ground > 0


def test_several_labels_and_none_are_recorded() -> None:
    scores = torch.tensor([0.9, 0.2, 0.8])
    labels = [torch.tensor(label, dtype=torch.long) for label in ([0, 2], [])]
    records = [
        record_of(DataSample().set_pred_score(scores).set_pred_label(label), NAMES)
        for label in labels
    ]
    assert [entry["label"] for entry in records[0]["labels"]] == [0, 2]
    assert records[1] == {"labels": []}


def test_panoptic_segments_are_recorded_and_not_explained() -> None:
    sample = DetDataSample()
    # Two stars (label 2), the second with number 1, and pixels without a segment.
    sample.pred_panoptic_seg = PixelData(sem_seg=torch.tensor([[[2, 1002, 3, 3]]]))
    segments = record_of(sample, NAMES)["segments"]
    assert [(s["label"], s["class"], s["share"]) for s in segments] == [(2, "star", 0.25)] * 2
    with pytest.raises(InputError, match="panoptic"):
        choose_target(sample, NAMES, None, 0.3)


def test_other_predictions_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be written"):
        record_of(DetDataSample(), NAMES)


def test_frames_are_converted_as_the_loader_does() -> None:
    predictor = Predictor.__new__(Predictor)
    frame = np.full((4, 5, 3), 90, np.uint8)
    for kind, shape in (("grayscale", (4, 5)), ("color", (4, 5, 3))):
        loader = SimpleNamespace(color_type=kind, to_float32=kind == "color")
        predictor.load = SimpleNamespace(transforms=[loader])
        loaded = predictor.read_frame(frame, "frame 0")
        assert loaded["img"].shape == shape
        assert loaded["img"].dtype == (np.float32 if kind == "color" else np.uint8)
