"""ExecuTorch's ``.pte``: lowered to XNNPACK, for one size. A detector's file has three methods,
``dense``, ``boxes`` and ``masks``; what is between them is for the application, here for torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from care_mm.export.graphs import Graph, read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.trace import WHOLE, Part

SUFFIX, BESIDE = ".pte", ()
FIXED = True
WHOLE_DETECTOR = False
PRECISIONS = ("fp32", "fp16")
CAST = {"fp16": torch.float16}
ABOUT = "care_mm_about"  # the method that gives the description, as bytes


def require() -> None:
    """Raise InputError for a package that is not installed."""
    needs("executorch")


def write(
    graph: Graph,
    parts: Mapping[str, Part],
    path: Path,
    about: str,
    precision: str = "fp32",
    samples: Sequence[Tensor] = (),
) -> list[str]:
    """Write the parts as methods of one file; see :func:`care_mm.export.onnx.write`."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    # Its compiler of files lies beside Python, in an environment that need not be activated.
    compiler = shutil.which("flatc") or str(Path(sys.executable).with_name("flatc"))
    os.environ.setdefault("FLATC_EXECUTABLE", compiler)
    lowered = to_edge_transform_and_lower(
        {name: part.exported for name, part in parts.items()},
        partitioner={name: [XnnpackPartitioner()] for name in parts},
        constant_methods={ABOUT: torch.frombuffer(bytearray(about.encode()), dtype=torch.uint8)},
    )
    path.write_bytes(lowered.to_executorch().buffer)
    return [_delegated(name, lowered.exported_program(name).graph) for name in parts]


def _delegated(name: str, graph: torch.fx.Graph) -> str:
    """How much of a method XNNPACK takes."""
    calls = [_name(node.target) for node in graph.nodes if node.op == "call_function"]
    taken = calls.count("executorch_call_delegate")
    others = [call for call in calls if call not in ("executorch_call_delegate", "getitem")]
    kinds = ", ".join(sorted(set(others)))
    return f"{name}: {taken} XNNPACK delegates, {len(others)} other operators ({kinds})"


def _name(operator: Any) -> str:
    return getattr(operator, "__name__", str(operator))


class ExecuTorchProgram(Program):
    """A ``.pte`` file in ExecuTorch's Python runtime.

    Args:
        path: The file.

    Raises:
        InputError: ExecuTorch is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        needs("executorch")
        from executorch.runtime import Runtime

        self.program = opened(path, lambda: Runtime.get().load_program(path))
        names = self.program.method_names
        text = None
        if ABOUT in names:
            (data,) = self.program.load_method(ABOUT).execute([])
            text = bytes(data.tolist()).decode()
        super().__init__(path, read_metadata(text, path))
        methods = {name: self.program.load_method(name) for name in names - {ABOUT}}
        if WHOLE in methods:
            self.method = methods[WHOLE]
        else:
            self.parts = {name: _callable(method) for name, method in methods.items()}

    def run(self, image: np.ndarray) -> Sequence[np.ndarray]:
        return [out.numpy().copy() for out in self.method.execute([torch.from_numpy(image)])]


def _callable(method: Any) -> Callable[[Tensor], tuple[Tensor, ...] | Tensor]:
    """A method as torch's modules are called."""

    def call(given: Tensor) -> tuple[Tensor, ...] | Tensor:
        out = tuple(t.clone() for t in method.execute([given.contiguous()]))
        return out[0] if len(out) == 1 else out

    return call


open_program = ExecuTorchProgram
