"""Core ML's ML program, ``.mlpackage``: written anywhere, for one size; it runs on macOS only.

So no file is run here: the folded model is compared in its place, and the file is read back and its
operators, types and shapes are looked at. A detector's file has three functions, ``dense``,
``boxes`` and ``masks``; what is between them is for the application.
"""

from __future__ import annotations

import io
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from care_mm.errors import InputError
from care_mm.export.graphs import INPUT, Graph
from care_mm.export.program import needs
from care_mm.export.trace import WHOLE, Part

SUFFIX, BESIDE = ".mlpackage", ()
FIXED = True
WHOLE_DETECTOR = False
PRECISIONS = ("fp32", "fp16")
CAST: dict[str, torch.dtype] = {}
PROPERTY = "care_mm"


def require() -> None:
    """Raise InputError for a package that is not installed."""
    needs("coremltools")


def write(
    graph: Graph,
    parts: Mapping[str, Part],
    path: Path,
    about: str,
    precision: str = "fp32",
    samples: Sequence[Tensor] = (),
) -> list[str]:
    """Write the parts as functions of one package; see :func:`care_mm.export.onnx.write`.

    Raises:
        InputError: A part has operators that Core ML does not have.
    """
    with _quiet():
        import coremltools as ct

        if WHOLE in parts:
            model = _convert(parts[WHOLE], graph.outputs, precision, ct.target.iOS16)
            model.user_defined_metadata[PROPERTY] = about
            model.save(str(path))
        else:
            with tempfile.TemporaryDirectory() as folder:
                joined = f"{folder}/joined{SUFFIX}"
                _write_functions(parts, joined, precision)
                model = ct.models.MLModel(joined, skip_model_load=True)
                model.user_defined_metadata[PROPERTY] = about
                model.save(str(path))  # which must not be where it was read from
        return list(read_back(path, parts, precision))


def _write_functions(parts: Mapping[str, Part], path: str, precision: str) -> None:
    import coremltools as ct

    functions = ct.utils.MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            single = f"{folder}/{name}{SUFFIX}"
            _convert(part, output_names(name, part), precision, ct.target.iOS18).save(single)
            functions.add_function(single, "main", name)
        functions.default_function_name = next(iter(parts))
        ct.utils.save_multifunction(functions, path)


def output_names(name: str, part: Part) -> tuple[str, ...]:
    """Of one of a detector's networks."""
    if name == "boxes":
        return "scores", "deltas"
    if name == "masks":
        return ("masks",)
    levels = len(part.module(part.example)) // 3
    return tuple(f"{kind}{i}" for kind in ("features", "scores", "deltas") for i in range(levels))


def _convert(part: Part, outputs: Sequence[str], precision: str, target: Any) -> Any:
    import coremltools as ct

    # Sums over all tokens and their normaliser stay float32, see LinearAttention.
    half = ct.transform.FP16ComputePrecision(op_selector=lambda op: not _in_attention(op))
    return ct.convert(
        torch.jit.trace(part.module, part.example, check_trace=False),
        inputs=[ct.TensorType(name=INPUT, shape=tuple(part.example.shape))],
        outputs=[ct.TensorType(name=name) for name in outputs],
        convert_to="mlprogram",
        compute_precision=half if precision == "fp16" else ct.precision.FLOAT32,
        minimum_deployment_target=target,
        skip_model_load=True,
    )


def _in_attention(op: Any) -> bool:
    """Whether a MIL operator comes out of linear attention's products, not its convolution."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    modules = op.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_TYPE, ())
    return "LinearAttention" in modules and op.op_type != "conv"


def read_back(path: Path, parts: Mapping[str, Part], precision: str) -> Iterator[str]:
    """What is in a package, line by line.

    Raises:
        InputError: An operator that is not Core ML's, or attention in half precision.
    """
    import coremltools as ct
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    program = ct.utils.load_spec(str(path)).mlProgram
    for name, function in program.functions.items():
        (block,) = function.block_specializations.values()
        kinds = Counter(op.type for op in block.operations if op.type != "const")
        foreign = sorted(set(kinds) - set(SSAOpRegistry.core_ops))
        if foreign:
            raise InputError(f"{path.name}: {', '.join(foreign)} are no operators of Core ML's")
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        yield f"{name}: {sum(kinds.values())} operators of Core ML's own: {listed}"
    yield "prediction needs macOS: the folded model was compared in the file's place"


@contextmanager
def _quiet() -> Iterator[None]:
    """coremltools warns about every package that is newer than it, and counts its passes aloud."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def open_program(path: Path) -> None:
    """None: there is nothing that runs the file here."""
