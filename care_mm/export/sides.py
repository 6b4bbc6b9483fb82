"""The detections of mmdet and of an exported file in the same image, made comparable."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.structures import InstanceData
from torch import Tensor, nn

from care_mm.export.compare import Detections, Limits, match, tied
from care_mm.export.detector import MAX_CANDIDATES, pad_to_multiple
from care_mm.export.one_stage import OneStageDetector
from care_mm.export.stand_in import instances_of


@dataclass(frozen=True)
class Sides:
    """The detections of both sides in one image.

    Attributes:
        expected: The model's.
        actual: The file's.
        score_thr: The model's threshold.
        cut: A score up to which fixed counts may have cut off detections of one side; -1 for none.
    """

    expected: Detections
    actual: Detections
    score_thr: float
    cut: float


# One stage


def one_stage_sides(
    model: nn.Module,
    detector: OneStageDetector,
    outputs: Sequence[Mapping[str, Tensor]],
    images: Sequence[Tensor],
) -> list[Sides]:
    """Return the detections that count, of a one-stage detector and of its file.

    Args:
        model: mmdet's model.
        detector: The detector with fixed counts that was made from it.
        outputs: The file's outputs for each image.
        images: Images (1, 3, H, W).
    """
    from mmdet.structures import DetDataSample

    if not hasattr(model.bbox_head, "loss_cls"):
        model.bbox_head.loss_cls = None  # mmdet 3.3 reads it to predict, but SSDHead has none
    sides = []
    for output, image in zip(outputs, images, strict=True):
        with _recorded_masks(model) as masks:
            sample = DetDataSample(metainfo=_meta(image))
            (sample,) = model.predict(detector.pad(image), [sample])
        found = sample.pred_instances
        recorded = masks[0].sigmoid() if masks else None
        if recorded is None and "mask_logits" in output:
            recorded = output["mask_logits"][:0]
        expected = Detections(found.bboxes, found.scores, found.labels, recorded)
        valid = {name: values[output["valid"]] for name, values in output.items()}
        logits = valid.get("mask_logits")
        actual = Detections(
            valid["boxes"],
            valid["scores"],
            valid["labels"],
            None if logits is None else logits.sigmoid(),
        )
        about = detector.decoding
        maps = dict(zip(detector.map_names, detector.maps(image), strict=True))
        cut = max(
            about.score_thr,
            _lowest_kept(detector.decoder.candidates(maps)["scores"], MAX_CANDIDATES),
            _lowest_kept(expected.scores, about.max_per_img),
            cut_of_outputs(output),
        )
        sides.append(Sides(expected, actual, about.score_thr, cut))
    return sides


@contextmanager
def _recorded_masks(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record the mask logits (N, h, w) from which RTMDet-Ins computes masks of true and false."""
    recorded: list[Tensor] = []
    head, name = model.bbox_head, "_mask_predict_by_feat_single"
    original = getattr(head, name, None)

    def record(*args: Any) -> Tensor:
        recorded.append(original(*args))
        return recorded[-1]

    if original is not None:
        setattr(head, name, record)
    try:
        yield recorded
    finally:
        if original is not None:
            delattr(head, name)


# Two stages


def two_stage_sides(
    model: nn.Module,
    outputs: Sequence[Mapping[str, Tensor]],
    images: Sequence[Tensor],
    limits: Limits,
) -> list[Sides]:
    """Return the detections, without a threshold, of a two-stage detector and of its file.

    Args:
        model: mmdet's model.
        outputs: The file's outputs for each image.
        images: Images (1, 3, H, W).
        limits: The limits of a match.
    """
    score_thr = model.roi_head.test_cfg["score_thr"]
    model = unfiltered(model)
    sides = []
    for output, image in zip(outputs, images, strict=True):
        expected, cut = detections_of_model(model, image)
        actual = detections_of_outputs(model, output, image)
        cut = max(cut, cut_of_outputs(output))
        if tied(expected, actual, score_thr, cut):
            expected = counterparts(model, expected, actual, image, limits)
        sides.append(Sides(expected, actual, score_thr, cut))
    return sides


def unfiltered(model: nn.Module) -> nn.Module:
    """Return a copy of a detector without score threshold, whose masks are values of 0 to 255."""
    model = copy.deepcopy(model)
    model.roi_head.test_cfg["score_thr"] = 0.0
    model.roi_head.test_cfg["mask_thr_binary"] = -1
    return model


def detections_of_model(model: nn.Module, image: Tensor) -> tuple[Detections, float]:
    """Return mmdet's detections in one image (1, 3, H, W), and a score.

    Fixed counts may lack detections up to that score: those beyond ``max_per_img``, and those
    beyond the pairs of box and class that enter the second suppression. It is -1 if there are none.
    """
    from mmdet.structures import DetDataSample

    scores = []
    hook = model.roi_head.bbox_head.register_forward_hook(
        lambda module, args, outputs: scores.append(outputs[0].softmax(-1)[:, :-1].flatten())
    )
    try:
        sample = DetDataSample(metainfo=_meta(image))
        padded = pad_to_multiple(image, model.data_preprocessor.pad_size_divisor)
        (sample,) = model.predict(padded, [sample])
    finally:
        hook.remove()
    detections = _detections(sample.pred_instances)
    cut = _lowest_kept(detections.scores, model.roi_head.test_cfg["max_per_img"])
    return detections, max(cut, *(_lowest_kept(pairs, MAX_CANDIDATES) for pairs in scores), -1.0)


def _lowest_kept(scores: Tensor, count: int) -> float:
    """Return the lowest of the ``count`` best scores; -1 if there are fewer."""
    return float(scores.topk(count).values[-1]) if 0 < count <= len(scores) else -1.0


def cut_of_outputs(outputs: Mapping[str, Tensor]) -> float:
    """Return the lowest score of a program's outputs; -1 if there are entries that fill up."""
    return float(outputs["scores"].min())


def detections_of_outputs(
    model: nn.Module, outputs: Mapping[str, Tensor], image: Tensor
) -> Detections:
    """Return the detections in a program's outputs for one image, without the fill-ups."""
    keep = outputs["scores"] > 0  # as mmdet with a threshold of 0
    outputs = {name: values[keep] for name, values in outputs.items() if name != "valid"}
    return _detections(instances_of(model, outputs, _meta(image)))


def _meta(image: Tensor) -> dict[str, Any]:
    size = tuple(image.shape[2:])
    return {"img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0)}


def _detections(instances: Any) -> Detections:
    masks = instances.get("masks")
    return Detections(
        instances.bboxes,
        instances.scores,
        instances.labels,
        None if masks is None else masks.float() / 255,
    )


def counterparts(
    model: nn.Module, reference: Detections, candidate: Detections, image: Tensor, limits: Limits
) -> Detections:
    """Return the model's detections that match a program's, before any suppression.

    Among equal scores, each runtime keeps others. All are the model's nevertheless, so the class,
    the score and the box must be one of its pairs of proposal and class, and the mask must be the
    model's for that box.

    Args:
        model: From :func:`unfiltered`.
        reference: The model's detections. If there are more than the program's, as many of them
            are added as the program lacks.
        candidate: The program's detections.
        image: (1, 3, H, W).
        limits: The limits of a match.
    """
    loose = copy.deepcopy(model)
    loose.roi_head.mask_head = None
    for cfg, count in ((loose.rpn_head.test_cfg, 10**5), (loose.roi_head.test_cfg, -1)):
        cfg["nms"] = {**cfg["nms"], "iou_threshold": 1.0}
        cfg["max_per_img"] = count
    if len(candidate):
        lowest = float(candidate.scores.min())
        loose.roi_head.test_cfg["score_thr"] = max(0.0, lowest - limits.score_error)
    pairs, _ = detections_of_model(loose, image)
    index = match(candidate, pairs, limits)
    index = index[index >= 0]
    missing = slice(max(0, len(reference) - len(candidate)))
    boxes = torch.cat([pairs.boxes[index], reference.boxes[missing]])
    scores = torch.cat([pairs.scores[index], reference.scores[missing]])
    labels = torch.cat([pairs.labels[index], reference.labels[missing]])
    if reference.masks is None or not len(boxes):
        return Detections(boxes, scores, labels)
    features = model.extract_feat(pad_to_multiple(image, model.data_preprocessor.pad_size_divisor))
    instances = InstanceData(bboxes=boxes, scores=scores, labels=labels)
    (instances,) = model.roi_head.predict_mask(features, [_meta(image)], [instances], rescale=True)
    return _detections(instances)
