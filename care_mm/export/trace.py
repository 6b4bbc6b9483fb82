"""From a module to the programs that the runtimes' converters read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from care_mm.errors import InputError
from care_mm.export.detector import Detector
from care_mm.export.graphs import Graph

# Sizes to trace with where the size stays open: not square, and none equal to a number of channels.
_OPEN_SHAPE = (2, 3, 96, 160)
_MAX_SIDE, _MAX_BATCH = 1 << 13, 1 << 10
WHOLE = "forward"  # the name of the only part of what was not divided


@dataclass(frozen=True)
class Part:
    """A module that goes into a file, an input for it, and torch's program of it."""

    module: nn.Module
    example: Tensor
    exported: ExportedProgram


@torch.no_grad()
def trace(graph: Graph, shape: tuple[int, int] | None, divide: bool = False) -> dict[str, Part]:
    """torch's program of a graph, under the name ``WHOLE``.

    Args:
        graph: What to trace.
        shape: Height and width of the only input, one picture; ``None`` leaves them open, and the
            batch where the graph has one.
        divide: Give the networks of a detector, ``dense``, ``boxes`` and ``masks``, and leave out
            what is between them. Takes a fixed shape.

    Raises:
        InputError: A size too small for the model, or a model that cannot be traced.
    """
    if shape is not None and min(shape) < graph.least:
        raise InputError(
            f"--shape {shape[0]} {shape[1]}: both sides need at least {graph.least} pixels"
        )
    example, dynamic = torch.zeros(1, 3, *(shape or _OPEN_SHAPE[2:])), None
    if divide and isinstance(graph.module, Detector):
        return {
            name: Part(module, given, _export(graph, module, given, None))
            for name, module, given in _networks(graph.module, example)
        }
    if shape is None:
        dynamic = {2: _side("height", graph), 3: _side("width", graph)}
        if graph.batched:
            dynamic[0] = Dim("batch", max=_MAX_BATCH)
            example = example.expand(_OPEN_SHAPE).contiguous()
    return {WHOLE: Part(graph.module, example, _export(graph, graph.module, example, dynamic))}


def _side(name: str, graph: Graph) -> Dim:
    # torch tells maps of one pixel from larger ones; the files that come of it do not.
    return Dim(name, min=2 * graph.least, max=_MAX_SIDE)


def _export(
    graph: Graph, module: nn.Module, example: Tensor, dynamic: dict[int, Dim] | None
) -> ExportedProgram:
    shapes = None if dynamic is None else (dynamic,)
    try:
        return torch.export.export(
            module,
            (example,),
            dynamic_shapes=shapes,
            strict=False,
            # Of padded sizes torch cannot prove what is true of them.
            prefer_deferred_runtime_asserts_over_guards=dynamic is not None,
        )
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        hint = "; a fixed size may do: --shape H W" if dynamic else ""
        raise InputError(f"this {graph.task} cannot be traced ({reason}){hint}") from error


def _networks(detector: Detector, image: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """The networks in a detector, in the order of their work, with what each is given."""
    found = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, name=name: found.append((name, module, args[0].clone()))
        )
        for name, module in detector.networks().items()
    ]
    try:
        detector(image)
    finally:
        for hook in hooks:
            hook.remove()
    return found
