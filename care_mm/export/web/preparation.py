"""Translate a test pipeline into the steps that the page of ``--format web`` knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from care_mm.config import type_name
from care_mm.errors import InputError
from care_mm.tasks import Task, task_of_model

# (backend, interpolation) of mmcv that prepare.js computes.
FILTERS = [(b, i) for b in ("cv2", "pillow") for i in ("bilinear", "bicubic")]
Step = Mapping[str, Any]


def preparation_of(steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Return the steps from an image to the input of the model, for ``prepare.js``.

    Args:
        steps: The test pipeline, without the steps that read annotations.

    Raises:
        InputError: The page has no equal for a step or one of its arguments.
    """
    translated = [_translated(step) for step in steps]
    return [step for step in translated if step is not None]


def padding_of(model: nn.Module) -> dict[str, Any] | None:
    """Return how the data preprocessor pads a normalised image; ``None`` if it does not.

    The graph of a detector pads images itself.

    Args:
        model: A model of any task.

    Returns:
        ``size``, (width, height) or ``None``, ``divisor`` and ``value``.
    """
    task, preprocessor = task_of_model(model), model.data_preprocessor
    if task is Task.SEGMENTATION and preprocessor.test_cfg:
        size = preprocessor.test_cfg.get("size")
        divisor = preprocessor.test_cfg.get("size_divisor") or 1
        size = None if size is None else [size[-1], size[-2]]
        return {"size": size, "divisor": divisor, "value": preprocessor.pad_val}
    if task is Task.CLASSIFICATION and preprocessor.pad_size_divisor > 1:
        divisor, value = preprocessor.pad_size_divisor, preprocessor.pad_value
        return {"size": None, "divisor": divisor, "value": value}
    return None


def _translated(step: Step) -> dict[str, Any] | None:
    name = type_name(step)
    if name.startswith("Pack") and name.endswith("Inputs"):
        return None
    if name not in _STEPS:
        raise InputError(
            f"--format web: the page has no step {name} of the test pipeline; it has "
            f"{', '.join(_STEPS)}"
        )
    return _STEPS[name](step)


def _refuse(step: Step, **expected: Any) -> None:
    """Raise InputError for an argument whose value the page cannot honour."""
    for key, value in expected.items():
        if step.get(key, value) != value:
            raise InputError(
                f"--format web: the page has no {type_name(step)} with {key}={step[key]!r}"
            )


def _filter(step: Step) -> str:
    """Return the resampling of a resizing step, such as ``'cv2-bilinear'``."""
    chosen = step.get("backend") or "cv2", step.get("interpolation") or "bilinear"
    if chosen not in FILTERS:
        known = ", ".join("-".join(pair) for pair in FILTERS)
        raise InputError(
            f"--format web: the page does not resize by {'-'.join(chosen)}; it has {known}"
        )
    return "-".join(chosen)


def _pair(value: Any) -> list[int]:
    """Return (width, height) for a pair or for one number."""
    return [value, value] if isinstance(value, int) else list(value)


def _load(step: Step) -> None:
    _refuse(step, color_type="color")


def _resize(step: Step) -> dict[str, Any]:
    _refuse(step, scale_factor=None)
    keep = bool(step.get("keep_ratio", False))
    return {"step": "resize", "size": _pair(step["scale"]), "keep": keep, "filter": _filter(step)}


def _resize_edge(step: Step) -> dict[str, Any]:
    edge, size = step.get("edge", "short"), step["scale"]
    return {"step": "resize_edge", "edge": edge, "size": size, "filter": _filter(step)}


def _resize_to_multiple(step: Step) -> dict[str, Any]:
    divisor = _pair(step.get("size_divisor", 32))
    return {"step": "resize_to_multiple", "divisor": divisor, "filter": _filter(step)}


def _crop(step: Step) -> dict[str, Any]:
    _refuse(step, auto_pad=False)
    return {"step": "crop", "size": _pair(step["crop_size"])}


def _pad(step: Step) -> dict[str, Any]:
    _refuse(step, padding_mode="constant")
    value = step.get("pad_val", 0)
    value = value.get("img", 0) if isinstance(value, Mapping) else value
    bgr = [value] * 3 if isinstance(value, int | float) else list(value)
    size = step.get("size")
    return {
        "step": "pad",
        "size": None if size is None else _pair(size),
        "square": bool(step.get("pad_to_square", False)),
        "divisor": step.get("size_divisor") or 1,
        "rgb": bgr[::-1],
    }


_STEPS: dict[str, Callable[[Step], dict[str, Any] | None]] = {
    "LoadImageFromFile": _load,
    "Resize": _resize,
    "ResizeEdge": _resize_edge,
    "ResizeToMultiple": _resize_to_multiple,
    "CenterCrop": _crop,
    "Pad": _pad,
}
