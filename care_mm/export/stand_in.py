"""Exported files in the place of checkpoints: same commands, same metrics, same result objects."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.checkpoint.matching import load_model
from care_mm.errors import InputError
from care_mm.export.program import Program

SUFFIXES = (".onnx", ".xml", ".pte")


def is_exported(path: str | Path) -> bool:
    """Whether a file, by its name, is one that :func:`open_program` opens."""
    return Path(path).suffix in SUFFIXES


def open_program(path: str | Path) -> Program:
    """Open an exported file in its runtime.

    Raises:
        InputError: No such file, a damaged one, one that we did not write, or no runtime for it.
    """
    path = Path(path)
    if path.suffix == ".onnx":
        from care_mm.export.onnx import OnnxProgram as Opened
    elif path.suffix == ".xml":
        from care_mm.export.openvino import OpenVINOProgram as Opened
    elif path.suffix == ".pte":
        from care_mm.export.executorch import ExecuTorchProgram as Opened
    else:
        raise InputError(f"{path}: none of {', '.join(SUFFIXES)}")
    return Opened(path)


def load_weights(model: nn.Module, path: str | Path, allow_partial: bool = False) -> dict[str, Any]:
    """Give a model a checkpoint, or an exported file that stands in for its network.

    Args:
        model: Changed in place.
        path: A file.
        allow_partial: Load what fits the model, and list what stays random.

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

    What is before and after it stays MM's: the data preprocessor, resizing to the size of the
    file, masks in the picture, softmax.

    Args:
        model: Built from the config that the program was exported with; its weights do not matter.
        program: From :func:`open_program`.

    Returns:
        ``dataset_meta``, as a checkpoint has it.

    Raises:
        InputError: The program is of another task, or the model has other classes.
    """
    task, parts = program.about["task"], dict(model.named_children())
    if task == "classifier" and "head" in parts:
        model.extract_feat = lambda images, *args, **kwargs: program(images)["logits"]
        model.head.forward = lambda logits: logits
    elif task == "segmentor" and "decode_head" in parts:
        model.encode_decode = partial(_logits, program, model.decode_head.out_channels)
    elif task == "detector" and "roi_head" in parts:
        model.predict = partial(_predict_instances, model, assembled(model, program))
    else:
        raise InputError(
            f"{program.path} holds a {task}, which cannot take the place of the config's "
            f"{type(model).__name__}"
        )
    return {"dataset_meta": program.about.get("dataset_meta")}


def assembled(model: nn.Module, program: Program) -> Callable[[Tensor], dict[str, Tensor]]:
    """The program itself; of a detector in parts, the parts with torch between them.

    Args:
        model: The detector that the program was made from, for its anchors and thresholds.
        program: Of any task.
    """
    if not program.parts:
        return program
    from care_mm.export.detector import Detector  # needs torchvision

    detector = Detector(model, **program.parts)

    @torch.no_grad()
    def detect(image: Tensor) -> dict[str, Tensor]:
        program.check_shape(image)
        return dict(zip(program.about["outputs"], detector(image), strict=True))

    return detect


def _logits(program: Program, num_classes: int, images: Tensor, metas: list[dict]) -> Tensor:
    """What mmseg's ``encode_decode`` gives, (B, classes, H, W)."""
    found = program(images)
    if "logits" in found:
        return found["logits"]
    # A file with the classes alone: exact until it is resized to another size.
    return F.one_hot(found["labels"].long(), num_classes).movedim(-1, 1).float()


def _predict_instances(
    model: nn.Module,
    detect: Callable[[Tensor], dict[str, Tensor]],
    images: Tensor,
    samples: list,
    rescale: bool = True,
) -> list:
    """mmdet's ``predict``."""
    results = []
    for image, sample in zip(images, samples, strict=True):
        height, width = sample.metainfo["img_shape"][:2]
        found = detect(image[None, :, :height, :width])  # which pads by itself
        keep = found.pop("valid")
        found = {name: values[keep] for name, values in found.items()}
        results.append(instances_of(model, found, sample.metainfo, rescale))
    return model.add_pred_to_datasample(samples, results)


def instances_of(
    model: nn.Module, found: dict[str, Tensor], meta: dict[str, Any], rescale: bool = True
) -> Any:
    """mmdet's instances in the picture.

    Args:
        model: The detector, whose mask head puts masks into the picture.
        found: ``boxes`` (N, 4), ``scores``, ``labels``, and with masks ``masks`` (N, h, w).
        meta: The sample's: ``scale_factor``, ``ori_shape``.
        rescale: To the size of the file.
    """
    from mmengine.structures import InstanceData

    boxes = found["boxes"].clone()
    if "masks" in found:
        # One mask each is left, whatever the label.
        frames = InstanceData(bboxes=boxes, labels=torch.zeros_like(found["labels"]))
        (frames,) = model.roi_head.mask_head.predict_by_feat(
            mask_preds=[torch.logit(found["masks"])[:, None]],
            results_list=[frames],
            batch_img_metas=[meta],
            rcnn_test_cfg=model.roi_head.test_cfg,
            rescale=rescale,
        )
        boxes = frames.bboxes  # the mask head has rescaled them
    elif rescale:
        boxes = boxes / boxes.new_tensor(meta["scale_factor"]).repeat(1, 2)
    result = InstanceData(bboxes=boxes, scores=found["scores"], labels=found["labels"])
    if "masks" in found:
        result.masks = frames.masks
    return result
