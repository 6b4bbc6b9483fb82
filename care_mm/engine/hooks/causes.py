"""Likely causes of a loss or gradient that is not finite, from the batch and the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from care_mm.datasets.transforms import FILTER, unfiltered_cut

_DATA = "the annotations have it so, and tools/check_data.py names all of them"
_SHOWN = 3


def find_cause(
    batch: Any, model: nn.Module, dataset: Any = None, start: str | None = None
) -> str | None:
    """Return the likely cause of a value that is not finite, and its fix.

    The batch is searched first, because training on it spoils the weights; then the weights.

    Args:
        batch: The batch as it comes from the dataloader.
        model: The model before the optimizer step.
        dataset: The training data set, for its transforms and classes.
        start: The checkpoint that the run started from.

    Returns:
        A sentence; ``None`` if batch and weights are sound.
    """
    found = list(_faults_of_batch(batch, dataset, model))
    if found:
        text, fix = found[0]
        same = [other for other, its_fix in found[1:] if its_fix == fix]
        text = ", ".join([text, *same[: _SHOWN - 1]])
        more = len(same) + 1 - _SHOWN
        return f"{text}{f' and {more} more' if more > 0 else ''}: {fix}"
    return _fault_of_weights(model, start)


def _faults_of_batch(batch: Any, dataset: Any, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield faults of a batch and the fix of each; the likeliest causes first."""
    if not isinstance(batch, Mapping):
        return
    samples = batch.get("data_samples")
    samples = list(samples) if isinstance(samples, list | tuple) else []
    classes = _num_classes(dataset)
    cut = unfiltered_cut(dataset)
    emptied = f"put {FILTER} behind {cut} in the pipeline" if cut else _DATA
    for sample in samples:
        objects = getattr(sample, "gt_instances", None)
        if objects is not None:
            yield from _boxes(sample, objects, cut, emptied)
    for sample in samples:
        yield from _labels(sample, classes)
    for sample in samples:
        objects = getattr(sample, "gt_instances", None)
        if objects is not None:
            yield from _masks(sample, objects, cut, emptied)
    yield from _pixels(batch.get("inputs"), samples, model)
    yield from _ignored(samples, model)


def _boxes(sample: Any, objects: Any, cut: str | None, emptied: str) -> Iterator[tuple[str, str]]:
    """Yield boxes (N, 4) that are not finite, have no area or lie outside of the image."""
    boxes = getattr(objects, "bboxes", None)
    boxes = getattr(boxes, "tensor", boxes)
    if not isinstance(boxes, Tensor) or boxes.ndim != 2 or boxes.shape[1] != 4:
        return  # rotated boxes have other numbers
    height, width = getattr(sample, "img_shape", (float("inf"),) * 2)[:2]
    after = f" after {cut}" if cut else ""
    for number, (left, top, right, bottom) in enumerate(boxes.detach().float().tolist()):
        where = f"box {number} of {_name(sample)}"
        if not np.isfinite([left, top, right, bottom]).all():
            yield f"{where} is not finite", _DATA
        elif right <= left or bottom <= top:
            side = "width" if right <= left else "height"
            yield f"{where} has no {side}{after}", emptied
        elif right <= 0 or bottom <= 0 or left >= width or top >= height:
            yield f"{where} is outside of the image{after}", emptied


def _labels(sample: Any, classes: int | None) -> Iterator[tuple[str, str]]:
    """Yield labels of objects and images beyond the classes."""
    if classes is None:
        return
    fix = f"the classes are 0 to {classes - 1}: tools/check_data.py compares them with the data"
    objects = getattr(sample, "gt_instances", None)
    for subject, labels in (
        ("an object", getattr(objects, "labels", None)),
        ("the image", getattr(sample, "gt_label", None)),
    ):
        if isinstance(labels, Tensor) and len(beyond := labels[(labels < 0) | (labels >= classes)]):
            yield f"{subject} in {_name(sample)} has label {int(beyond[0])}", fix


def _masks(sample: Any, objects: Any, cut: str | None, emptied: str) -> Iterator[tuple[str, str]]:
    """Yield masks without a pixel."""
    areas = getattr(getattr(objects, "masks", None), "areas", None)
    for number in np.flatnonzero(np.asarray([] if areas is None else areas) <= 0):
        after = f" after {cut}" if cut else ""
        yield f"mask {number} of {_name(sample)} has no pixel{after}", emptied


def _pixels(inputs: Any, samples: list, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield images (C, H, W) with a pixel that is not finite, before or after normalisation."""
    std = getattr(getattr(model, "data_preprocessor", None), "std", None)
    if isinstance(std, Tensor) and bool((std == 0).any()):
        yield "data_preprocessor.std has a 0", "set it to the deviation of the pixel values"
    images = inputs if isinstance(inputs, list | tuple | Tensor) else []
    for number, image in enumerate(images):
        if isinstance(image, Tensor) and not torch.isfinite(image).all():
            name = _name(samples[number]) if number < len(samples) else f"image {number}"
            yield (
                f"{name} has pixels that are not finite",
                "look at the image and at the transforms that compute with its values",
            )


def _ignored(samples: list, model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield a batch of which every pixel is ignored."""
    labels = [sample.gt_sem_seg.data for sample in samples if hasattr(sample, "gt_sem_seg")]
    heads = [module for module in model.modules() if hasattr(module, "ignore_index")]
    for ignored in sorted({h.ignore_index for h in heads if isinstance(h.ignore_index, int)}):
        if labels and all(bool((mask == ignored).all()) for mask in labels):
            yield (
                f"every pixel of the batch has the ignored label {ignored}",
                "use larger crops or batches, or a RandomCrop with cat_max_ratio",
            )


def _fault_of_weights(model: nn.Module, start: str | None) -> str | None:
    """Return a sentence about the parameters that were not finite before the step, if any."""
    bad = [name for name, value in model.named_parameters() if not torch.isfinite(value).all()]
    if not bad:
        return None
    more = f" and {len(bad) - 1} others" if len(bad) > 1 else ""
    source = f": check {start}" if start else ": check the weights that the run started from"
    verb = "were" if more else "was"
    return f"{bad[0]}{more} {verb} not finite before this step{source}"


def _num_classes(dataset: Any) -> int | None:
    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    return len(classes) if isinstance(classes, list | tuple) and classes else None


def _name(sample: Any) -> str:
    return Path(str(getattr(sample, "img_path", None) or "an image")).name
