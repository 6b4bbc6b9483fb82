"""LiteRT's ``.tflite`` (TensorFlow Lite), for one input size.

``litert-torch`` and mmpretrain exclude each other, so a Python of its own converts the exported
programs: ``make setup-litert``. Running a file needs ``ai-edge-litert`` alone. The file of a
two-stage detector has three signatures, ``dense``, ``boxes`` and ``masks``. The application does
the steps between them; our commands do them in torch.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from care_mm.errors import InputError, one_line
from care_mm.export import litert_converter
from care_mm.export.graphs import read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.target import Source, Target
from care_mm.export.trace import WHOLE

# LiteRT's convention for labels and licences: a ZIP archive that is appended to the file.
DESCRIPTION = "description.json"
PYTHON = "CARE_MM_LITERT_PYTHON"  # names a Python that has litert-torch


class LiteRTProgram(Program):
    """A ``.tflite`` file in LiteRT on the CPU (XNNPACK), with torch's number of threads.

    Args:
        path: The file.
        options: Arguments of LiteRT's ``Interpreter``.

    Raises:
        InputError: LiteRT is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        needs("ai_edge_litert")
        from ai_edge_litert.interpreter import Interpreter

        settings = {"num_threads": torch.get_num_threads(), **options}
        interpreter = opened(path, lambda: Interpreter(model_path=str(path), **settings))
        super().__init__(path, read_metadata(_description(path), path))
        runners = {
            name: _callable(interpreter.get_signature_runner(name))
            for name in interpreter.get_signature_list()
        }
        self.forward = runners.pop(WHOLE, None)
        self.parts = {name: _in_torch(runner) for name, runner in runners.items()}

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run one batch; see :meth:`Program.run`."""
        return self.forward(images)


def _description(path: Path) -> str | None:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(DESCRIPTION).decode()
    except (zipfile.BadZipFile, KeyError):
        return None


def _callable(runner: Any) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Return a function that calls a signature by position."""
    (name,) = runner.get_input_details()

    def call(images: np.ndarray) -> list[np.ndarray]:
        outputs = runner(**{name: images})
        return [outputs[f"output_{i}"] for i in range(len(outputs))]

    return call


def _in_torch(
    call: Callable[[np.ndarray], list[np.ndarray]],
) -> Callable[[Tensor], tuple[Tensor, ...] | Tensor]:
    """Return a function that is called as torch's modules are called."""

    def module(tensor: Tensor) -> tuple[Tensor, ...] | Tensor:
        outputs = tuple(map(torch.from_numpy, call(tensor.contiguous().numpy())))
        return outputs[0] if len(outputs) == 1 else outputs

    return module


def _mul(a: Tensor, b: Any) -> Tensor:
    """Multiply maps by a value for each channel in four dimensions.

    litert-torch keeps maps in the layout of the convolutions between operators of four dimensions
    alone. For others it transposes the maps before and after them.
    """
    if not isinstance(b, Tensor) or {a.ndim, b.ndim} != {3, 4}:
        return NotImplemented
    return a.reshape(1, *a.shape) * b if a.ndim == 3 else a * b.reshape(1, *b.shape)


_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {torch.ops.aten.mul.Tensor: _mul}


def converter_python() -> Path:
    """Return the Python that converts: ``$CARE_MM_LITERT_PYTHON``, or that of ``.venv-litert``.

    Raises:
        InputError: There is none.
    """
    named = os.environ.get(PYTHON)
    python = Path(named or Path(sys.prefix).with_name(".venv-litert") / "bin" / "python")
    if not python.is_file():
        raise InputError(
            f"{python}: no such file; `make setup-litert` makes the environment that writes LiteRT "
            f"files, and {PYTHON} names the Python of another one"
        )
    return python


class LiteRT(Target):
    """LiteRT's models.

    ``fp16`` stores weights in half precision. ``int8`` quantises the convolutions alone.
    """

    name, suffix = "litert", ".tflite"
    program = LiteRTProgram
    packages = ("ai_edge_litert",)
    precisions = ("fp32", "fp16", "int8")
    fixed_shape = True
    whole_detector = False

    def require(self) -> None:
        """Raise InputError if a package or the environment that converts is missing."""
        super().require()
        converter_python()

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write the parts as signatures of a ``.tflite`` file.

        Raises:
            InputError: The environment that converts is missing, it rejects the model, or ``int8``
                was asked for a divided detector.
        """
        if source.precision == "int8" and WHOLE not in source.parts:
            raise InputError("--precision int8: not for the three networks of a two-stage detector")
        with tempfile.TemporaryDirectory() as folder:
            for name, part in source.parts.items():
                program = part.exported.run_decompositions(_DECOMPOSITIONS)
                torch.export.save(program, Path(folder, f"{name}.pt2"))
            samples = Path(folder, "samples.npy")
            if source.precision == "int8":
                np.save(samples, np.concatenate([image.numpy() for image in source.samples]))
            names = ",".join(source.parts)
            arguments = [folder, names, source.precision, path.resolve(), samples]
            _run(converter_python(), *map(str, arguments))
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(DESCRIPTION, source.about)
        if source.precision == "int8":
            return [f"convolutions in 8 bits, ranges from {len(source.samples)} images"]
        return []


def _run(python: Path, *arguments: str) -> None:
    """Run the converter.

    Raises:
        InputError: It fails.
    """
    # Isolated: neither this environment's variables nor our folder, which has an onnx.py.
    command = [str(python), "-I", litert_converter.__file__, *arguments]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode != 0:
        errors = [line for line in process.stderr.splitlines() if line.strip()]
        reason = one_line(errors[-1] if errors else f"exit status {process.returncode}", 300)
        raise InputError(f"--format litert: litert-torch cannot convert this model ({reason})")
