"""ExecuTorch's ``.pte``, lowered to XNNPACK, for one input size.

The file of a detector has three methods, ``dense``, ``boxes`` and ``masks``. The application does
the steps between them; our commands do them in torch.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from care_mm.export.graphs import read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.target import Source, Target
from care_mm.export.trace import WHOLE
from care_mm.export.xnnpack_decompositions import DECOMPOSITIONS

ABOUT = "care_mm_about"  # the method that returns the description, as bytes


class ExecuTorchProgram(Program):
    """A ``.pte`` file in ExecuTorch's Python runtime, with torch's number of threads.

    Args:
        path: The file.

    Raises:
        InputError: ExecuTorch is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        needs("executorch")
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        # By itself the runtime takes a thread for each core of the machine.
        if portable_lib._threadpool_get_thread_count() != torch.get_num_threads():
            portable_lib._unsafe_reset_threadpool(torch.get_num_threads())
        self.program = opened(path, lambda: Runtime.get().load_program(path))
        names = self.program.method_names
        text = None
        if ABOUT in names:
            (data,) = self.program.load_method(ABOUT).execute([])
            text = bytes(data.tolist()).decode()
        super().__init__(path, read_metadata(text, path))
        methods = {name: self.program.load_method(name) for name in names - {ABOUT}}
        self.method = methods.pop(WHOLE, None)
        self.parts = {name: _callable(method) for name, method in methods.items()}

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run one batch; see :meth:`Program.run`."""
        return [out.numpy().copy() for out in self.method.execute([torch.from_numpy(images)])]


def _callable(method: Any) -> Callable[[Tensor], tuple[Tensor, ...] | Tensor]:
    """Return a function that calls a method as torch's modules are called."""

    def call(tensor: Tensor) -> tuple[Tensor, ...] | Tensor:
        # The runtime reuses the memory of its outputs.
        outputs = tuple(t.clone() for t in method.execute([tensor.contiguous()]))
        return outputs[0] if len(outputs) == 1 else outputs

    return call


class ExecuTorch(Target):
    """ExecuTorch programs for XNNPACK."""

    name, suffix = "executorch", ".pte"
    program = ExecuTorchProgram
    packages = ("executorch",)
    precisions = ("fp32", "fp16")
    casts: ClassVar = {"fp16": torch.float16}
    fixed_shape = True
    whole_detector = False

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write the parts as methods of a ``.pte`` file."""
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        # flatc is installed next to Python, and the environment need not be activated.
        compiler = shutil.which("flatc") or str(Path(sys.executable).with_name("flatc"))
        os.environ.setdefault("FLATC_EXECUTABLE", compiler)
        about = torch.frombuffer(bytearray(source.about.encode()), dtype=torch.uint8)
        lowered = to_edge_transform_and_lower(
            {
                name: part.exported.run_decompositions(DECOMPOSITIONS)
                for name, part in source.parts.items()
            },
            partitioner={name: [XnnpackPartitioner()] for name in source.parts},
            constant_methods={ABOUT: about},
        )
        path.write_bytes(lowered.to_executorch().buffer)
        return [_delegated(name, lowered.exported_program(name).graph) for name in source.parts]


def _delegated(name: str, graph: torch.fx.Graph) -> str:
    """Describe which operators of a method XNNPACK runs, and which it does not."""
    calls = [
        getattr(node.target, "__name__", str(node.target))
        for node in graph.nodes
        if node.op == "call_function"
    ]
    delegates = calls.count("executorch_call_delegate")
    others = [call for call in calls if call not in ("executorch_call_delegate", "getitem")]
    kinds = ", ".join(sorted(set(others)))
    return f"{name}: {delegates} XNNPACK delegates, {len(others)} other operators ({kinds})"
