"""Exported files in place of checkpoints: same commands, same metrics, same result objects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.structures import InstanceData
from torch import Tensor, nn

from care_mm.checkpoint.matching import load_model
from care_mm.errors import InputError
from care_mm.export.decoding import Decoder, Decoding
from care_mm.export.graphs import detector_of, threshold_of
from care_mm.export.program import Program
from care_mm.export.runtimes import TARGETS
from care_mm.export.two_stage import TwoStageDetector
from care_mm.tasks import Task, task_of_model

Detect = Callable[[Tensor], dict[str, Tensor]]
# Suffix of a file -> the runtime that runs it.
_RUNTIMES = {target.suffix: target for target in TARGETS.values() if target.program}


def is_exported(path: str | Path) -> bool:
    """Whether :func:`open_program` opens a file of that suffix."""
    return Path(path).suffix in _RUNTIMES


def open_program(path: str | Path) -> Program:
    """Open an exported file in its runtime.

    Raises:
        InputError: The file does not exist, is damaged or not ours, or its runtime is not
            installed.
    """
    path = Path(path)
    if not is_exported(path):
        raise InputError(f"{path}: not a file that runs here ({', '.join(_RUNTIMES)})")
    return _RUNTIMES[path.suffix].open(path)


def load_weights(model: nn.Module, path: str | Path, allow_partial: bool = False) -> dict[str, Any]:
    """Load a checkpoint into a model, or let an exported file replace its network.

    Args:
        model: Changed in place.
        path: A checkpoint or an exported file.
        allow_partial: Load the tensors of a checkpoint that fit; log those that stay random.

    Returns:
        The file's ``meta``.

    Raises:
        InputError: As :func:`care_mm.checkpoint.matching.load_model`, :func:`open_program` and
            :func:`stand_in`.
    """
    if is_exported(path):
        return stand_in(model, open_program(path))
    return load_model(model, path, allow_partial=allow_partial)


def stand_in(model: nn.Module, program: Program) -> dict[str, Any]:
    """Let an exported program do the work of a model's network, in place.

    The steps before and after the network stay MM's: the data preprocessor, the resizing to the
    size of the image file, the placing of masks in the image, the softmax.

    Args:
        model: Built from the config that the program was exported with; its weights are ignored.
        program: From :func:`open_program`.

    Returns:
        ``dataset_meta``, as a checkpoint has it.

    Raises:
        InputError: The program is for another task than the model.
    """
    task = task_of_model(model)
    fits = task is not None and task.model == program.about["task"]
    if fits and task is Task.CLASSIFICATION:
        model.extract_feat = lambda images, *args, **kwargs: program(images)["logits"]
        model.head.forward = lambda logits: logits
    elif fits and task is Task.SEGMENTATION:
        model.encode_decode = partial(_logits, program, model.decode_head)
    elif fits and _detects_the_same(model, program):
        model.predict = partial(_predict_instances, model, assembled(model, program))
    else:
        raise InputError(
            f"{program.path} holds a {program.about['task']}, which cannot replace the config's "
            f"{type(model).__name__}"
        )
    return {"dataset_meta": program.about.get("dataset_meta")}


def _detects_the_same(model: nn.Module, program: Program) -> bool:
    """Whether a program has the outputs of a detector, final or raw."""
    detector = detector_of(model)
    return program.about["outputs"] in (detector.outputs, detector.map_names)


def assembled(model: nn.Module, program: Program) -> Detect:
    """Return the program, with everything in torch that the file of a detector lacks.

    Args:
        model: The detector that the program was made from. It has the anchors and thresholds of a
            file with the networks of a two-stage detector.
        program: A program for any task.
    """
    if "decoding" in program.about:
        return decoded(program, program.about["decoding"])
    if not program.parts:
        return program
    detector = divided(model, program)

    @torch.no_grad()
    def detect(image: Tensor) -> dict[str, Tensor]:
        program.check_shape(image)
        return dict(zip(program.about["outputs"], detector(image), strict=True))

    return detect


def divided(model: nn.Module, program: Program) -> TwoStageDetector:
    """Return a two-stage detector whose networks are those of a program."""
    return TwoStageDetector(model, **program.parts)


def decoded(run: Detect, decoding: Mapping[str, Any]) -> Detect:
    """Return a function that decodes the raw maps of a one-stage detector.

    Args:
        run: Returns the raw maps by name for an image (1, 3, H, W).
        decoding: The entry of the same name in the file's description.
    """
    decoder = Decoder(Decoding.from_dict(decoding))

    @torch.no_grad()
    def detect(image: Tensor) -> dict[str, Tensor]:
        results = decoder(run(image), tuple(image.shape[2:]))
        return dict(zip(decoder.decoding.outputs, results, strict=True))

    return detect


def _logits(program: Program, head: nn.Module, images: Tensor, metas: list[dict]) -> Tensor:
    """Replace mmseg's ``encode_decode``, which returns logits (B, classes, H, W)."""
    outputs = program(images)
    if "logits" in outputs:
        return outputs["logits"]
    return logits_of_labels(outputs["labels"], head)


def logits_of_labels(labels: Tensor, head: nn.Module) -> Tensor:
    """Return logits (B, channels, H, W) from which mmseg derives the same labels (B, H, W).

    They are exact until they are resized. A pixel then has the class that most of it is made of.

    Args:
        labels: The labels.
        head: The decode head of the model, for its number of channels and its threshold.
    """
    if head.out_channels > 1:
        return F.one_hot(labels.long(), head.out_channels).movedim(-1, 1).float()
    threshold = torch.logit(torch.tensor(threshold_of(head)), 1e-6)
    return (threshold + labels[:, None].float() - 0.5).to(labels.device)


def _predict_instances(
    model: nn.Module,
    detect: Detect,
    images: Tensor,
    samples: list,
    rescale: bool = True,
) -> list:
    """Replace mmdet's ``predict``."""
    results = []
    for image, sample in zip(images, samples, strict=True):
        height, width = sample.metainfo["img_shape"][:2]
        outputs = detect(image[None, :, :height, :width])  # the program pads the image itself
        valid = outputs.pop("valid")
        outputs = {name: values[valid] for name, values in outputs.items()}
        results.append(instances_of(model, outputs, sample.metainfo, rescale))
    return model.add_pred_to_datasample(samples, results)


def instances_of(
    model: nn.Module, outputs: dict[str, Tensor], meta: dict[str, Any], rescale: bool = True
) -> InstanceData:
    """Return mmdet's instances for the outputs of a program.

    Args:
        model: The detector, whose head places masks in the image.
        outputs: ``boxes`` (N, 4), ``scores``, ``labels``, and with masks ``masks`` (N, h, w) in the
            frames of boxes, or ``mask_logits`` (N, h, w) of the whole image.
        meta: ``scale_factor`` and ``ori_shape`` of the sample.
        rescale: Rescale to the size of the image file.
    """
    boxes = outputs["boxes"].clone()
    result = InstanceData(bboxes=boxes, scores=outputs["scores"], labels=outputs["labels"])
    if "masks" in outputs:
        # The program has chosen the mask of each label already, so one mask each is left.
        frames = InstanceData(bboxes=boxes, labels=torch.zeros_like(outputs["labels"]))
        (frames,) = model.roi_head.mask_head.predict_by_feat(
            mask_preds=[torch.logit(outputs["masks"])[:, None]],
            results_list=[frames],
            batch_img_metas=[meta],
            rcnn_test_cfg=model.roi_head.test_cfg,
            rescale=rescale,
        )
        result.bboxes, result.masks = frames.bboxes, frames.masks  # rescaled by the mask head
    elif rescale:
        result.bboxes = boxes / boxes.new_tensor(meta["scale_factor"]).repeat(1, 2)
    if "mask_logits" in outputs:
        head = model.bbox_head
        probabilities = resized_masks(
            outputs["mask_logits"], head.prior_generator.strides[0][0], meta, rescale
        )
        result.masks = probabilities > head.test_cfg["mask_thr_binary"]
    return result


def resized_masks(
    logits: Tensor, stride: float, meta: Mapping[str, Any], rescale: bool = True
) -> Tensor:
    """Return the mask probabilities (N, H, W) of RTMDet-Ins as mmdet resizes them.

    Args:
        logits: (N, h, w).
        stride: Pixels of the input for each value.
        meta: ``scale_factor`` and ``ori_shape`` of the sample.
        rescale: Resize to the size of the image file, and cut off the padding.
    """
    height, width = (
        meta["ori_shape"][:2] if rescale else [int(stride * s) for s in logits.shape[1:]]
    )
    if not len(logits):
        return logits.new_zeros(0, height, width)
    masks = F.interpolate(logits[None], scale_factor=stride, mode="bilinear")
    if rescale:
        scale_x, scale_y = meta["scale_factor"][:2]
        sides = masks.shape[2] * (1 / scale_y), masks.shape[3] * (1 / scale_x)
        size = [math.ceil(side) for side in sides]
        masks = F.interpolate(masks, size, mode="bilinear", align_corners=False)
    return masks[0, :, :height, :width].sigmoid()
