"""What of a model is exported: a module from one normalised picture to named tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.environment import __version__
from care_mm.errors import InputError
from care_mm.export.detector import Detector

INPUT = "image"
WHAT = ("model", "backbone")


@dataclass(frozen=True)
class Graph:
    """A module with what a user of its file has to know.

    Args:
        module: (B, 3, H, W) -> a tensor or a tuple of tensors; in evaluation mode and folded.
        task: ``classifier``, ``segmentor``, ``detector`` or ``backbone``.
        outputs: A name for each tensor.
        least: Shortest side of an input in pixels.
        batched: Whether the batch may be larger than one.
        about: More for the file: classes, normalisation.
    """

    module: nn.Module
    task: str
    outputs: tuple[str, ...]
    least: int = 32
    batched: bool = True
    about: Mapping[str, Any] = field(default_factory=dict)

    def metadata(self, **more: Any) -> str:
        """What the file says about itself, as JSON; :func:`read_metadata` is its inverse."""
        content = {
            "care_mm": __version__,
            "task": self.task,
            "outputs": self.outputs,
            **self.about,
            **more,
        }
        return json.dumps(content)


def read_metadata(text: str | None, path: object) -> dict[str, Any]:
    """The description in a file that we wrote.

    Raises:
        InputError: Somebody else wrote it.
    """
    try:
        content = json.loads(text or "")
        return {**content, "outputs": tuple(content["outputs"]), "task": str(content["task"])}
    except (ValueError, TypeError, KeyError):
        raise InputError(f"{path}: was not written by tools/export.py") from None


class Classifier(nn.Module):
    """mmpretrain's classifier: (B, 3, H, W) -> logits (B, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image, mode="tensor")


class UpsampleBy(nn.Module):
    """mmseg's ``Upsample`` for whole factors, without the ``int()`` that would fix the size.

    Args:
        original: mmseg's module.
    """

    def __init__(self, original: nn.Module) -> None:
        super().__init__()
        self.factor = int(original.scale_factor)
        self.how = {"mode": original.mode, "align_corners": original.align_corners}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, factor * H, factor * W)."""
        height, width = x.shape[2:]
        return F.interpolate(x, (height * self.factor, width * self.factor), **self.how)


class Segmentor(nn.Module):
    """mmseg's encoder and decoder, resized to the input.

    (B, 3, H, W) -> logits (B, classes, H, W), or with ``labels`` the best class (B, H, W), int32.
    """

    def __init__(self, model: nn.Module, labels: bool = False) -> None:
        super().__init__()
        self.model = model
        self.labels = labels
        for parent in list(model.decode_head.modules()):
            for name, child in parent.named_children():
                if type(child).__name__ == "Upsample" and child.scale_factor in (2.0, 4.0, 8.0):
                    setattr(parent, name, UpsampleBy(child))

    def forward(self, image: Tensor) -> Tensor:
        logits = self.model.decode_head(self.model.extract_feat(image))
        logits = F.interpolate(
            logits, image.shape[2:], mode="bilinear", align_corners=self.model.align_corners
        )
        return logits.argmax(1).to(torch.int32) if self.labels else logits


def graph_of(model: nn.Module, what: str = "model", labels: bool = False, **about: Any) -> Graph:
    """The graph of a model of mmdet's, mmseg's or mmpretrain's.

    Args:
        model: In evaluation mode.
        what: ``'model'``, or ``'backbone'`` for the feature pyramid.
        labels: Of a segmentor, give the best class instead of logits.
        about: More for the file's description.

    Raises:
        InputError: A model of a kind that cannot be exported.
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
    kind = _kind(model)
    if labels and kind != "segmentor":
        raise InputError(f"--argmax is for segmentors, the config has a {kind}")
    if kind == "classifier":
        return Graph(Classifier(model), kind, ("logits",), least, about=about)
    if kind == "segmentor":
        name = "labels" if labels else "logits"
        return Graph(Segmentor(model, labels), kind, (name,), least, about=about)
    masks = ("masks",) if model.roi_head.with_mask else ()
    outputs = ("boxes", "scores", "labels", "valid", *masks)
    return Graph(Detector(model), kind, outputs, least, batched=False, about=about)


def _kind(model: nn.Module) -> str:
    """Which task a model is for, by what it is made of."""
    parts = dict(model.named_children())
    if "decode_head" in parts:
        if model.test_cfg.get("mode", "whole") != "whole":
            raise InputError("test_cfg.mode='slide': a graph sees the whole picture; set 'whole'")
        return "segmentor"
    if "roi_head" in parts and "rpn_head" in parts:
        return "detector"
    if "head" in parts and hasattr(model, "head") and hasattr(model.head, "pre_logits"):
        return "classifier"
    raise InputError(
        f"{type(model).__name__}: export knows mmpretrain's classifiers, mmseg's encoder-decoders "
        "and mmdet's two-stage detectors; --what backbone exports the feature pyramid of any model"
    )


class Cast(nn.Module):
    """A module in another precision, between inputs and outputs in float32."""

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module.to(dtype)
        self.dtype = dtype

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        out = self.module(image.to(self.dtype))
        return tuple(_float(t) for t in out) if isinstance(out, tuple) else _float(out)


def _float(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def in_precision(graph: Graph, dtype: torch.dtype) -> Graph:
    """The same graph computing in ``dtype``; of a detector the networks, while boxes stay float32,
    since half precision cannot tell pixels apart beyond 2048.
    """
    if not isinstance(graph.module, Detector):
        return replace(graph, module=Cast(graph.module, dtype))
    for name, part in graph.module.networks().items():
        setattr(graph.module, name, Cast(part, dtype))
    return graph


def normalisation(model: nn.Module) -> dict[str, Any]:
    """How a picture becomes the graph's input: order of the channels, mean and std of each."""
    preprocessor = model.data_preprocessor
    convert = ("to_rgb", "channel_conversion", "_channel_conversion")
    rgb = any(getattr(preprocessor, name, False) for name in convert)
    about: dict[str, Any] = {"channels": "RGB" if rgb else "BGR"}
    for name in ("mean", "std"):
        values = getattr(preprocessor, name, None)
        if torch.is_tensor(values):
            about[name] = [round(float(value), 4) for value in values.flatten()]
    return about


def deploy(model: nn.Module) -> None:
    """Fold all that can be folded, exactly, in place."""
    for module in list(model.modules()):
        if hasattr(module, "switch_to_deploy"):
            module.switch_to_deploy()
