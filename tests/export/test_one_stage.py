"""One-stage detectors: complete files, raw maps and their decoding agree with mmdet."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from export.one_stage_models import build
from mmdet.structures import DetDataSample
from runtimes import require_for
from torch import Tensor, nn

from care_mm.datasets.shapes.objects import OBJECTS
from care_mm.errors import InputError
from care_mm.export import compare, pipeline, verify
from care_mm.export.compare import Detections
from care_mm.export.graphs import detector_of, graph_of, maps_of
from care_mm.export.one_stage import FAMILIES
from care_mm.export.pipeline import ExportSettings
from care_mm.export.stand_in import open_program, stand_in

LIMITS = compare.LIMITS["fp32"]
META = {"classes": tuple(OBJECTS)}
SHAPE = (64, 96)
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def made(family: str) -> tuple[dict[str, Any], nn.Module]:
    """Return a config of a model and the model."""
    return build(family)


def changed(family: str, **settings: Any) -> nn.Module:
    """Return a model with other settings of ``test_cfg``; ``None`` drops one."""
    model = copy.deepcopy(made(family)[1])
    for key, value in settings.items():
        model.bbox_head.test_cfg[key] = value
    return model


def predicted(model: nn.Module, image: Tensor) -> Any:
    """Return mmdet's instances in one image whose sides are multiples of 32."""
    size = tuple(image.shape[2:])
    meta = {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}
    with torch.no_grad():
        (sample,) = model.predict(image, [DetDataSample(metainfo=meta)])
    return sample.pred_instances


def assert_equal(expected: Any, actual: Any) -> None:
    """Compare two sets of instances, in any order."""
    reference, candidate = (
        Detections(side.bboxes, side.scores, side.labels) for side in (expected, actual)
    )
    partner = compare.match(reference, candidate, LIMITS)
    assert (partner >= 0).all() and len(reference) == len(candidate) > 5
    if "masks" in expected:
        assert expected.masks.shape == actual.masks.shape
        equal = expected.masks == actual.masks[partner]
        assert float(equal.float().mean()) > 0.999 and len(expected.masks.unique()) == 2


def export(model: nn.Module, path: Path, **settings: Any) -> list[str]:
    """Export a model to the runtime of the file's suffix, and return the lines about it."""
    return pipeline.export(model, ExportSettings(require_for(path), path, **settings), META)


def stands_in(path: Path, family: str) -> nn.Module:
    """Return a model of a family whose network is a file."""
    model = copy.deepcopy(made(family)[1])
    stand_in(model, open_program(path))
    return model


# Runtimes


@pytest.mark.parametrize(
    ("family", "suffix"),
    [
        *((family, ".onnx") for family in FAMILIES),
        *((family, ".xml") for family in ("RTMDet-Ins", "YOLOX", "SSD")),
    ],
)
def test_a_complete_file_has_the_detections_of_mmdet(
    family: str, suffix: str, tmp_path: Path
) -> None:
    model, path = made(family)[1], tmp_path / f"x{suffix}"
    any_size = family in ("RetinaNet", "RTMDet-Ins")  # which takes longer to trace
    lines = export(model, path, shape=None if any_size else SHAPE)
    assert any(line.startswith("matched share of") for line in lines), lines
    image = verify.drawn_images(SHAPE, open_program(path).about)[:1]
    assert_equal(predicted(model, image), predicted(stands_in(path, family), image))


@pytest.mark.parametrize(
    ("family", "suffix"),
    [
        *((family, ".pte") for family in ("RetinaNet", "RTMDet")),
        *((family, ".param") for family in ("RTMDet", "SSD")),
        ("RTMDet", ".tflite"),
    ],
)
def test_device_runtimes_have_raw_maps_that_the_package_decodes(
    family: str, suffix: str, tmp_path: Path
) -> None:
    model, path = made(family)[1], tmp_path / f"x{suffix}"
    require_for(path)
    lines = export(model, path, shape=SHAPE)
    assert any(line.startswith("matched share of") for line in lines), lines
    program = open_program(path)
    assert program.about["outputs"] == detector_of(model).map_names
    image = verify.drawn_images(SHAPE, program.about)[:1]
    assert_equal(predicted(model, image), predicted(stands_in(path, family), image))


def test_objectness_of_rtmdet_ins_is_refused_for_ncnn(tmp_path: Path) -> None:
    require_for(tmp_path / "x.param")
    with pytest.raises(InputError, match="cannot be traced"):
        export(made("RTMDet-Ins")[1], tmp_path / "x.param", shape=SHAPE)
    assert not list(tmp_path.iterdir())


def test_raw_maps_in_half_precision_are_decoded_in_single(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    export(made("ATSS")[1], path, shape=SHAPE, what="raw-maps", precision="fp16")
    program = open_program(path)
    images = verify.drawn_images(SHAPE, program.about)[:1]
    assert {tensor.dtype for tensor in program(images).values()} == {torch.float32}
    decoding = program.about["decoding"]
    assert decoding["head"] == "ATSSHead" and decoding["factor"] and decoding["masks"] is None
    assert len(predicted(stands_in(path, "ATSS"), images)) > 5


# Decoding


@every_family
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"nms": dict(type="nms", iou_threshold=0.3, class_agnostic=True)},
        {"min_bbox_size": 4, "max_per_img": 7},
        {"nms_pre": 10, "score_thr": 0.3},
    ],
)
def test_decoding_respects_the_test_settings(family: str, settings: dict[str, Any]) -> None:
    model = changed(family, **settings)
    graph = graph_of(model)
    detector = graph.module
    image = verify.drawn_images(SHAPE, graph.about)[:1]
    expected = predicted(model, image)
    with torch.no_grad():
        boxes, scores, labels, valid, *_ = detector(image)
    limit = detector.decoding.max_per_img
    # mmdet ignores max_per_img for YOLOX.
    actual = Detections(boxes[valid], scores[valid], labels[valid])
    order = expected.scores.argsort(descending=True)[:limit]
    reference = Detections(expected.bboxes[order], expected.scores[order], expected.labels[order])
    assert len(actual) == len(reference) > 0
    assert (compare.match(reference, actual, LIMITS) >= 0).all()
    assert (scores[~valid] == -1).all() and not boxes[~valid].any()


def test_the_softmax_of_other_heads_has_a_background() -> None:
    model = copy.deepcopy(made("RetinaNet")[1])
    head = model.bbox_head
    head.use_sigmoid_cls, head.cls_out_channels = False, head.num_classes + 1
    old = head.retina_cls
    head.retina_cls = nn.Conv2d(old.in_channels, 9 * head.cls_out_channels, 3, padding=1)
    nn.init.normal_(head.retina_cls.weight, std=0.1, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(head.retina_cls.bias)
    model.requires_grad_(False)
    graph = graph_of(model)
    findings = verify.differences(
        model, graph, verify.Folded(graph), [verify.drawn_images(SHAPE, graph.about)], "fp32"
    )
    assert all(finding.ok for finding in findings), list(map(str, findings))


def test_images_of_any_size_are_padded_to_what_the_neck_needs() -> None:
    model = made("RTMDet")[1]
    detector = detector_of(model)
    assert model.data_preprocessor.pad_size_divisor == 1 and detector.divisor == 32
    image = torch.rand(1, 3, 50, 70)
    with torch.no_grad():
        padded = detector.maps(nn.functional.pad(image, (0, 26, 0, 14)))
        assert all(map(torch.equal, detector.maps(image), padded))
        boxes = detector(image)[0]
    assert float(boxes[:, [0, 2]].max()) <= 70 and float(boxes[:, [1, 3]].max()) <= 50


# Comparison


def silent(family: str) -> nn.Module:
    """Return a model whose scores are below the threshold everywhere."""
    model = copy.deepcopy(made(family)[1])
    for name, parameter in model.bbox_head.named_parameters():
        if name.endswith(("rtm_cls.bias", "rtm_cls.0.bias", "rtm_cls.1.bias", "rtm_cls.2.bias")):
            parameter.sub_(50)
    return model


def test_other_weights_are_noticed_without_a_detection() -> None:
    model = silent("RTMDet")
    graph = graph_of(model)
    other = copy.deepcopy(model)
    next(other.neck.parameters()).mul_(1.3)
    images = [verify.drawn_images(SHAPE, graph.about)]
    for candidate, ok in ((model, True), (other, False)):
        maps = verify.Folded(maps_of(graph_of(candidate)))
        findings = verify.map_differences(graph.module, maps, images, "fp32")
        assert all(finding.ok for finding in findings) == ok
        detections = verify.Folded(graph_of(candidate))
        findings = verify.differences(model, graph, detections, images, "fp32")
        assert verify.nothing_detected(findings)


@every_family
def test_other_weights_are_noticed_with_detections(family: str) -> None:
    model = made(family)[1]
    graph, other = graph_of(model), copy.deepcopy(model)
    next(other.bbox_head.parameters()).mul_(1.3)
    images = [verify.drawn_images(SHAPE, graph.about)]
    for candidate, ok in ((model, True), (other, False)):
        run = verify.Folded(graph_of(candidate))
        findings = verify.differences(model, graph, run, images, "fp32")
        assert all(finding.ok for finding in findings) == ok, list(map(str, findings))


# Refusals


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(nms=dict(type="soft_nms", iou_threshold=0.5)), r"test_cfg\.nms=.*soft_nms"),
        (dict(nms=None), r"test_cfg\.nms=None: export supports plain nms with an iou_threshold"),
    ],
)
def test_other_suppressions_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        graph_of(changed("FCOS", **change))


def test_other_heads_and_parts_are_refused_by_name() -> None:
    model = copy.deepcopy(made("GFL")[1])
    model.bbox_head.bbox_coder = nn.Identity()
    with pytest.raises(InputError, match="a bbox_coder of type Identity: export supports Delta"):
        graph_of(model)
    model.bbox_head.prior_generator = nn.Identity()
    with pytest.raises(InputError, match="prior_generator of type Identity: export supports Anch"):
        graph_of(model)
    model.bbox_head.__class__ = type("OtherHead", (type(model.bbox_head),), {})
    with pytest.raises(InputError, match=r"bbox_head of type OtherHead: .*RetinaNet.*SSDHead"):
        graph_of(model)
