"""Trace a module into the programs that the converters of the runtimes read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.export
from torch import Tensor, nn

from care_mm.errors import InputError, one_line
from care_mm.export.graphs import Graph
from care_mm.export.two_stage import TwoStageDetector

_OPEN_BATCH = 2
_MAX_SIDE, _MAX_BATCH = 1 << 13, 1 << 10
WHOLE = "forward"  # name of the only part of a graph that is not divided


@dataclass(frozen=True)
class Part:
    """A module that goes into a file, an example of its input, and its traced program."""

    module: nn.Module
    example: Tensor
    exported: torch.export.ExportedProgram


@torch.no_grad()
def trace(
    graph: Graph, shape: tuple[int, int] | None, batch: int = 1, divide: bool = False
) -> dict[str, Part]:
    """Trace a graph; return its parts by name.

    Args:
        graph: The graph to trace.
        shape: Height and width of the only input size; ``None`` leaves them open, and the number
            of images too unless the graph accepts one only.
        batch: Images of an input of fixed size.
        divide: Return the networks of a two-stage detector, ``dense``, ``boxes`` and ``masks``,
            without the steps between them. Needs a fixed size. Other graphs have the one part
            ``WHOLE``.

    Raises:
        InputError: The size is too small for the model, the graph accepts one image only, or the
            model cannot be traced, or it has windows and the size is open.
    """
    if shape is not None and min(shape) < graph.least:
        raise InputError(
            f"--shape {shape[0]} {shape[1]}: both sides need at least {graph.least} pixels"
        )
    if batch > 1 and not graph.batched:
        raise InputError(f"the file of a {graph.task} accepts one image at a time, not {batch}")
    example, dynamic = torch.zeros(batch, 3, *(shape or _open_shape(graph))), None
    if divide and isinstance(graph.module, TwoStageDetector):
        return {
            name: Part(module, argument, _export(graph, module, argument, None))
            for name, module, argument in _networks(graph.module, example)
        }
    if shape is None:
        _refuse_windows(graph)
        dynamic = {2: _side("height", graph), 3: _side("width", graph)}
        if graph.batched:
            dynamic[0] = torch.export.Dim("batch", max=_MAX_BATCH)
            example = torch.zeros(_OPEN_BATCH, 3, *_open_shape(graph))
    return {WHOLE: Part(graph.module, example, _export(graph, graph.module, example, dynamic))}


def _refuse_windows(graph: Graph) -> None:
    """Raise InputError for attention in windows.

    For open sizes, torch.export takes more than five minutes for timm's Swin, FLatten-Swin and
    SLAB-Swin, and fails for mmdet's Swin.
    """
    names = {type(module).__name__ for module in graph.module.modules()}
    windows = sorted(name for name in names if "Window" in name or "Swin" in name)
    if windows:
        raise InputError(
            f"this {graph.task} divides its maps into windows ({', '.join(windows)}), and torch "
            "exports those for one size only: --shape H W"
        )


def _open_shape(graph: Graph) -> tuple[int, int]:
    """Return the shape that an open size is traced with: not square, and no map has a side of 1."""
    return 2 * graph.coarsest + 32, 4 * graph.coarsest + 32


def _side(name: str, graph: Graph) -> torch.export.Dim:
    # torch.export specialises on maps of size 1, so the range starts at 2; the files accept 1.
    least = max(2 * graph.least, graph.coarsest + 1)
    return torch.export.Dim(name, min=least, max=_MAX_SIDE)


def _export(
    graph: Graph, module: nn.Module, example: Tensor, dynamic: dict[int, torch.export.Dim] | None
) -> torch.export.ExportedProgram:
    shapes = None if dynamic is None else (dynamic,)
    try:
        return torch.export.export(
            module,
            (example,),
            dynamic_shapes=shapes,
            strict=False,
            # torch.export cannot prove its guards for padded sizes.
            prefer_deferred_runtime_asserts_over_guards=dynamic is not None,
        )
    except Exception as error:
        hint = "; a fixed size may work: --shape H W" if dynamic else ""
        reason = one_line(error, 300)
        raise InputError(f"this {graph.task} cannot be traced ({reason}){hint}") from error


def _networks(detector: TwoStageDetector, image: Tensor) -> list[tuple[str, nn.Module, Tensor]]:
    """Return the networks in the order of their calls, with an input for each."""
    calls = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, args, name=name: calls.append((name, module, args[0].clone()))
        )
        for name, module in detector.networks().items()
    ]
    try:
        detector(image)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
