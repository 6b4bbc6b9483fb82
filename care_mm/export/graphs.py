"""Graphs to export: modules from a batch of normalised images to named tensors."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.environment import __version__
from care_mm.errors import InputError
from care_mm.export.detector import Detector, RawMaps
from care_mm.export.one_stage import OneStageDetector
from care_mm.export.two_stage import TwoStageDetector
from care_mm.tasks import Task, task_of_model

INPUT = "image"
WHAT = ("model", "backbone", "raw-maps")
BINARY_THRESHOLD = 0.3  # mmseg's default for segmentors with one output channel


@dataclass(frozen=True)
class Graph:
    """A module to export, with the information that a user of its file needs.

    Args:
        module: Returns a tensor or a tuple of tensors for (B, 3, H, W); in evaluation mode.
        task: ``classifier``, ``segmentor``, ``detector``, ``backbone`` or ``module``.
        outputs: A name for each tensor.
        least: Smallest side of an input in pixels.
        coarsest: Largest stride of the module's maps in pixels.
        batched: Whether a batch may hold several images.
        about: Further entries of the file's description: classes, normalisation.
    """

    module: nn.Module
    task: str
    outputs: tuple[str, ...]
    least: int = 32
    coarsest: int = 32
    batched: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, **more: Any) -> str:
        """Return the description of a file as JSON; :func:`read_metadata` reads it."""
        content = {
            "care_mm": __version__,
            "task": self.task,
            "outputs": self.outputs,
            **self.about,
            **more,
        }
        return json.dumps(content, default=_plain)


def read_metadata(text: str | None, path: object) -> dict[str, Any]:
    """Parse the description in an exported file.

    Args:
        text: The description; ``None`` if the file has none.
        path: The file, for the message.

    Raises:
        InputError: The file was not written by ``tools/export.py``.
    """
    try:
        content = json.loads(text or "")
        meta = _restored(content.get("dataset_meta"))
        restored = {"outputs": tuple(content["outputs"]), "task": str(content["task"])}
        return {**content, **restored, "dataset_meta": meta}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path}: was not written by tools/export.py") from None


def _plain(value: Any) -> Any:
    """Return what JSON can hold in place of an array, a tensor, a set or another object."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)


def _restored(value: Any) -> Any:
    """Return ``dataset_meta`` as data sets have it: classes and colours are tuples.

    The colours themselves stay in a list, because mmdet takes a tuple for a single colour. Keys of
    dicts that JSON turned into text are numbers again.
    """
    if isinstance(value, dict):
        return {int(k) if k.isdecimal() else k: _restored(v) for k, v in value.items()}
    if isinstance(value, list):
        nested = any(isinstance(item, (list, dict)) for item in value)
        return [_restored(item) for item in value] if nested else tuple(value)
    return value


class Classifier(nn.Module):
    """An mmpretrain classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes) for images (B, 3, H, W)."""
        return self.model(images, mode="tensor")


class UpsampleBy(nn.Module):
    """mmseg's ``Upsample`` by an integer factor, without the ``int()`` that would fix the size.

    Args:
        original: mmseg's module.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.factor = int(original.scale_factor)
        self.options = {"mode": original.mode, "align_corners": original.align_corners}

    def forward(self, x: Tensor) -> Tensor:
        """Resize (B, C, H, W) to (B, C, factor * H, factor * W)."""
        height, width = x.shape[2:]
        return F.interpolate(x, (height * self.factor, width * self.factor), **self.options)


def labels_of(logits: Tensor, threshold: float = BINARY_THRESHOLD) -> Tensor:
    """Return the label (B, H, W) of each pixel, as mmseg does.

    Args:
        logits: (B, classes, H, W); one channel is the logit of class 1 of two.
        threshold: The probability above which a pixel of one channel has class 1.
    """
    if logits.shape[1] == 1:
        return logits[:, 0].float().sigmoid() > threshold
    return logits.argmax(1)


class Segmentor(nn.Module):
    """An mmseg encoder-decoder whose output is resized to the input.

    Args:
        model: The segmentor.
        labels: Return the label of each pixel instead of logits.
    """

    def __init__(self, model: nn.Module, labels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.labels = labels
        self.threshold = threshold_of(model.decode_head)
        for parent in list(model.decode_head.modules()):
            for name, child in parent.named_children():
                if type(child).__name__ == "Upsample" and child.scale_factor in (2.0, 4.0, 8.0):
                    setattr(parent, name, UpsampleBy(child))

    def logits(self, images: Tensor) -> Tensor:
        """Return logits (B, classes, H, W), with one channel for two classes, for (B, 3, H, W)."""
        logits = self.model.decode_head(self.model.extract_feat(images))
        return F.interpolate(
            logits, images.shape[2:], mode="bilinear", align_corners=self.model.align_corners
        )

    def labels_of(self, logits: Tensor) -> Tensor:
        """Return :func:`labels_of` with the threshold of the model."""
        return labels_of(logits, self.threshold)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, classes, H, W), or labels (B, H, W) int32, for (B, 3, H, W)."""
        logits = self.logits(images)
        return self.labels_of(logits).to(torch.int32) if self.labels else logits


def threshold_of(head: nn.Module) -> float:
    """Return the probability above which a decode head with one output channel says class 1."""
    threshold = getattr(head, "threshold", None)
    return BINARY_THRESHOLD if threshold is None else float(threshold)


def graph_of(model: nn.Module, what: str = "model", labels: bool = False, **about: Any) -> Graph:
    """Return the graph of an mmdet, mmseg or mmpretrain model.

    Args:
        model: In evaluation mode.
        what: ``'model'``, ``'backbone'`` for the feature pyramid, or ``'raw-maps'`` for the maps of
            a one-stage detector before decoding.
        labels: Return the label of each pixel of a segmentor instead of logits.
        about: Further entries of the file's description.

    Raises:
        InputError: The model is of a kind that cannot be exported.
    """
    about = {**normalisation(model), **about}
    least = getattr(model.backbone, "min_size", 32)
    if what == "backbone":
        indices = getattr(model.backbone, "out_indices", None)
        if indices is None:
            raise InputError(
                f"{type(model.backbone).__name__} has no out_indices to name outputs by"
            )
        names = tuple(f"stage{i + 1}" for i in indices)
        return Graph(model.backbone, "backbone", names, least, about=about)
    task = _exportable_task(model)
    if labels and task is not Task.SEGMENTATION:
        raise InputError(f"--argmax is for segmentors, the config has a {task.model}")
    if what == "raw-maps" and (task is not Task.DETECTION or hasattr(model, "roi_head")):
        raise InputError(
            f"--what raw-maps is for one-stage detectors, the config has a {type(model).__name__}"
        )
    if task is Task.CLASSIFICATION:
        return Graph(Classifier(model), task.model, ("logits",), least, about=about)
    if task is Task.SEGMENTATION:
        outputs = ("labels",) if labels else ("logits",)
        return Graph(Segmentor(model, labels), task.model, outputs, least, about=about)
    detector = detector_of(model)
    graph = Graph(
        detector, task.model, detector.outputs, least, detector.coarsest, batched=False, about=about
    )
    return maps_of(graph) if what == "raw-maps" else graph


def detector_of(model: nn.Module) -> Detector:
    """Return a detector with fixed counts.

    Raises:
        InputError: The detector is of a kind that cannot be exported.
    """
    return TwoStageDetector(model) if hasattr(model, "roi_head") else OneStageDetector(model)


def maps_of(graph: Graph) -> Graph:
    """Return the graph of the maps that a detector computes its detections from.

    The description of a one-stage detector's maps says how they are decoded.
    """
    detector = graph.module
    about = dict(graph.about)
    if isinstance(detector, OneStageDetector):
        about["decoding"] = detector.decoding.as_dict()
    return replace(graph, module=RawMaps(detector), outputs=detector.map_names, about=about)


def _exportable_task(model: nn.Module) -> Task:
    """Return the task of a model; raise InputError if its kind cannot be exported."""
    task = task_of_model(model)
    if task is Task.SEGMENTATION and isinstance(model.decode_head, nn.ModuleList):
        task = None  # a cascade of heads
    elif task is Task.SEGMENTATION and model.test_cfg.get("mode", "whole") != "whole":
        raise InputError("test_cfg.mode='slide': a graph sees the whole image; set 'whole'")
    if task is Task.DETECTION and not _has_known_heads(model):
        task = None
    if task is Task.CLASSIFICATION and not hasattr(model.head, "pre_logits"):
        task = None
    if task is None:
        raise InputError(
            f"{type(model).__name__}: export supports mmpretrain's classifiers, mmseg's "
            "encoder-decoders and mmdet's one-stage and two-stage detectors; --what backbone "
            "exports the feature pyramid of any model"
        )
    return task


def _has_known_heads(model: nn.Module) -> bool:
    """Whether a detector has the heads of a two-stage or of a one-stage detector."""
    two_stage = hasattr(model, "roi_head") and hasattr(model, "rpn_head")
    return two_stage or (hasattr(model, "bbox_head") and not hasattr(model, "roi_head"))


@torch.no_grad()
def graph_of_module(module: nn.Module, images: Tensor) -> Graph:
    """Return the graph of any module from images (B, 3, H, W) to a tensor or a tuple of tensors.

    Args:
        module: In evaluation mode.
        images: An example of its input; the module is called once to count its outputs.
    """
    result = module(images)
    number = len(result) if isinstance(result, tuple) else 1
    return Graph(module, "module", tuple(f"output{i}" for i in range(number)), least=1)


class Cast(nn.Module):
    """A module that computes in another dtype, with inputs and outputs in float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, tensor: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Call the module on a float32 tensor and return its outputs in float32."""
        out = self.module(tensor.to(self.dtype))
        return tuple(_float(t) for t in out) if isinstance(out, tuple) else _float(out)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def in_precision(graph: Graph, dtype: torch.dtype) -> Graph:
    """Return a copy of a graph that computes in ``dtype``.

    Only the networks of a detector are converted: half precision cannot tell the pixels of a box
    apart beyond 2048.
    """
    module = copy.deepcopy(graph.module)
    if not isinstance(module, Detector):
        return replace(graph, module=Cast(module, dtype))
    for name, network in module.networks().items():
        setattr(module, name, Cast(network, dtype))
    return replace(graph, module=module)


def normalisation(model: nn.Module) -> dict[str, Any]:
    """Return how an image becomes the graph's input: order, mean and std of the channels."""
    preprocessor = model.data_preprocessor
    convert = ("to_rgb", "channel_conversion", "_channel_conversion")
    rgb = any(getattr(preprocessor, name, False) for name in convert)
    about: dict[str, Any] = {"channels": "RGB" if rgb else "BGR"}
    for name in ("mean", "std"):
        values = getattr(preprocessor, name, None)
        if torch.is_tensor(values):
            about[name] = [round(float(value), 4) for value in values.flatten()]
    return about
