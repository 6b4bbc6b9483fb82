"""Parameters and multiply-adds of a config's model, part by part, at any input size.

The counter is mmengine's copy of fvcore's ``FlopAnalyzer``, which traces the model and counts the
operators that are called, attention products included. One GMAC is 1e9 multiply-adds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from mmengine.analysis import FlopAnalyzer
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import nn

from care_mm.errors import InputError

# Modules whose children are listed as parts; every other child of the model is one part.
_DIVIDED = ("backbone", "stages", "roi_head")
_PRODUCTS = ("conv", "linear", "addmm", "matmul", "bmm", "mm", "einsum")
# mmdet's tensor mode passes this many proposals to the mask head.
_NUM_MASKS = 100


@dataclass(frozen=True)
class Part:
    """A part of a model.

    Attributes:
        name: Its path in the model, or ``'elsewhere'`` for work outside the calls of all parts.
        parameters: Number of parameters.
        macs: Multiply-adds by the counter's rules: products, two for every element that a norm
            reads, four for every bilinear sample.
        products: Multiply-adds of convolutions, linear layers and attention alone.
    """

    name: str
    parameters: int
    macs: int
    products: int


@dataclass(frozen=True)
class Complexity:
    """The cost of one image.

    Attributes:
        shape: Height and width of the input in pixels.
        parts: The parts in the order of the model.
        assumed: Assumptions of the count, such as ``'1000 proposals, 100 masks'``, or empty.
    """

    shape: tuple[int, int]
    parts: tuple[Part, ...]
    assumed: str = ""

    def sum(self, prefix: str = "", name: str = "total") -> Part:
        """Return the sum of the parts whose names start with ``prefix``."""
        parts = [part for part in self.parts if part.name.startswith(prefix)]
        return Part(
            name,
            sum(part.parameters for part in parts),
            sum(part.macs for part in parts),
            sum(part.products for part in parts),
        )

    @property
    def megapixels(self) -> float:
        """Number of pixels of the input, in millions."""
        return self.shape[0] * self.shape[1] / 1e6


def build(config: Config) -> nn.Module:
    """Build the model of a config in evaluation mode, with random weights.

    No weights are read, and no teacher is built.

    Raises:
        InputError: The config has no model.
    """
    if "model" not in config:
        raise InputError(f"config {config.filename}: has no model")
    init_default_scope(config.get("default_scope", "mmengine"))
    # Training settings do not matter here, and mmpretrain logs how it changes them.
    training = {"train_cfg": None} if "train_cfg" in config.model else {}
    return MODELS.build({**config.model, **training}).eval()


@torch.no_grad()
def count(model: nn.Module, shape: tuple[int, int]) -> Complexity:
    """Count parameters and multiply-adds of a model's parts for one image.

    A two-stage detector gets the maximum number of proposals of its ``test_cfg``, because their
    number is arbitrary with random weights.

    Args:
        model: A model of any MM scope, in evaluation mode.
        shape: Height and width of the input in pixels.

    Raises:
        InputError: The input is too small for the backbone.
    """
    least = getattr(getattr(model, "backbone", None), "min_size", 1)
    if min(shape) < least:
        raise InputError(
            f"shape {shape[0]} {shape[1]}: both sides need at least {least} pixels for this model"
        )
    image = torch.zeros(1, 3, *shape, device=next(model.parameters()).device)
    with _given_proposals(model) as assumed:
        counter = FlopAnalyzer(model, (image,))
        counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        # The pooling before the heads only sums, and published figures leave it out.
        counter.set_op_handle("aten::adaptive_avg_pool2d", lambda inputs, outputs: 0)
        by_module = counter.by_module_and_operator()

    def part(name: str, module: nn.Module) -> Part:
        operators = by_module[counter.canonical_module_name("" if module is model else name)]
        return Part(
            name,
            sum(p.numel() for p in module.parameters()),
            int(sum(operators.values())),
            int(sum(operators[operator] for operator in _PRODUCTS)),
        )

    parts = [part(name, module) for name, module in _parts(model)]
    parts = [part for part in parts if part.parameters or part.macs]
    total, listed = part("total", model), Complexity(shape, tuple(parts)).sum()
    if total != listed:
        differences = (
            total.parameters - listed.parameters,
            total.macs - listed.macs,
            total.products - listed.products,
        )
        parts.append(Part("elsewhere", *differences))
    return Complexity(shape, tuple(parts), assumed)


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        if name in _DIVIDED:
            yield from _parts(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


@contextmanager
def _given_proposals(model: nn.Module) -> Iterator[str]:
    """Give a two-stage detector its maximum number of proposals; yield the assumptions."""
    if not (getattr(model, "with_rpn", False) and getattr(model, "with_roi_head", False)):
        yield ""
        return
    head = model.rpn_head
    number = head.test_cfg["max_per_img"]
    box = torch.tensor([0.0, 0.0, 32.0, 32.0], device=next(model.parameters()).device)

    def predict(features: tuple, data_samples: Sequence, rescale: bool = False) -> list:
        # The trace drops everything that the model's output does not depend on.
        unused = sum(level.sum() for output in head(features) for level in output)
        return [InstanceData(bboxes=box.repeat(number, 1) + 0 * unused)]

    head.predict = predict
    masks = f", {min(number, _NUM_MASKS)} masks" if model.roi_head.with_mask else ""
    try:
        yield f"{number} proposals{masks}"
    finally:
        del head.predict


_FIGURES = ["parameters", "GMACs", "products alone"]
MODEL_HEADING = ["config", "input (HxW)", *_FIGURES, "assumed"]


def part_rows(complexity: Complexity) -> list[list[str]]:
    """Return a table of the parts and their sum, heading first."""
    rows = [["part", *_FIGURES]]
    for part in (*complexity.parts, complexity.sum()):
        rows.append([part.name, *_figures(part)])
    return rows


def model_row(name: str, complexity: Complexity) -> list[str]:
    """Return the row of a model under :data:`MODEL_HEADING`."""
    height, width = complexity.shape
    return [name, f"{height}x{width}", *_figures(complexity.sum()), complexity.assumed]


def growth_rows(complexities: Sequence[Complexity]) -> list[list[str]]:
    """Return a table of one model at several sizes, heading first.

    GMACs per megapixel are constant where the cost is linear in the number of pixels.
    """
    rows = [["input (HxW)"]]
    rows[0] += [f"{what}{unit}" for what in ("backbone", "model") for unit in (" GMACs", " per MP")]
    for complexity in complexities:
        row = ["x".join(map(str, complexity.shape))]
        for part in (complexity.sum("backbone."), complexity.sum()):
            gmacs = part.macs / 1e9
            row += [f"{gmacs:.4f}", f"{gmacs / complexity.megapixels:.4f}"]
        rows.append(row)
    return rows


def _figures(part: Part) -> list[str]:
    return [f"{part.parameters:,}", f"{part.macs / 1e9:.4f}", f"{part.products / 1e9:.4f}"]
