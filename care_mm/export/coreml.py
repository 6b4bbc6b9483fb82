"""Core ML's ML program, ``.mlpackage``: written on any system, for one input size, run on macOS.

No file is run here. The folded model is compared instead, and the operators in the written file are
checked. The file of a detector has three functions, ``dense``, ``boxes`` and ``masks``; the
application does the steps between them.
"""

from __future__ import annotations

import io
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import numpy as np
import torch

from care_mm.errors import InputError
from care_mm.export.graphs import INPUT
from care_mm.export.target import Source, Target, quiet
from care_mm.export.trace import WHOLE, Part

PROPERTY = "care_mm"  # key of the description in the package's user metadata


class CoreML(Target):
    """Core ML packages."""

    name, suffix = "coreml", ".mlpackage"
    packages = ("coremltools",)
    precisions = ("fp32", "fp16")
    fixed_shape = True
    whole_detector = False
    program = None  # Core ML runs on macOS only

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write the parts as functions of an ``.mlpackage``."""
        # coremltools warns about every newer package, and prints its progress to stderr.
        with quiet("coremltools"), redirect_stderr(io.StringIO()):
            import coremltools as ct

            if WHOLE in source.parts:
                part = source.parts[WHOLE]
                model = _convert(part, source.outputs, source.precision, ct.target.iOS16)
                _save(model, source, path)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    joined = f"{folder}/joined{self.suffix}"
                    _write_functions(source, joined)
                    # A package must be saved under another path than it was read from.
                    _save(ct.models.MLModel(joined, skip_model_load=True), source, path)
            return list(_check(path))


def _save(model: Any, source: Source, path: Path) -> None:
    model.user_defined_metadata[PROPERTY] = source.about
    model.save(str(path))


def _write_functions(source: Source, path: str) -> None:
    import coremltools as ct

    functions = ct.utils.MultiFunctionDescriptor()
    with tempfile.TemporaryDirectory() as folder:
        for name, part in source.parts.items():
            single = f"{folder}/{name}{CoreML.suffix}"
            outputs = _output_names(name, part)
            _convert(part, outputs, source.precision, ct.target.iOS18).save(single)
            functions.add_function(single, "main", name)
        functions.default_function_name = next(iter(source.parts))
        ct.utils.save_multifunction(functions, path)


def _output_names(name: str, part: Part) -> tuple[str, ...]:
    """Return the output names of one of a detector's networks."""
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
    with _casts_of_arrays():
        return ct.convert(
            torch.jit.trace(part.module, part.example, check_trace=False),
            inputs=[ct.TensorType(name=INPUT, shape=tuple(part.example.shape))],
            outputs=[ct.TensorType(name=name) for name in outputs],
            convert_to="mlprogram",
            compute_precision=half if precision == "fp16" else ct.precision.FLOAT32,
            minimum_deployment_target=target,
            skip_model_load=True,
        )


@contextmanager
def _casts_of_arrays() -> Iterator[None]:
    """Let coremltools make an integer of an array of one value, which NumPy 2.5 refuses."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.frontend.torch import ops

    original = ops._cast

    def cast(context: Any, node: Any, dtype: type, dtype_name: str) -> None:
        value = context[node.inputs[0]].val
        if value is not None and np.ndim(value) and np.size(value) == 1:
            context.add(Builder.const(val=dtype(np.ravel(value)[0]), name=node.name))
        else:
            original(context, node, dtype, dtype_name)

    ops._cast = cast  # Patch, see docs/reliability.md; tested on coremltools 9.0.
    try:
        yield
    finally:
        ops._cast = original


def _in_attention(op: Any) -> bool:
    """Whether a MIL operator belongs to the products of linear attention, not its convolution."""
    from coremltools.converters.mil.mil.scope import ScopeSource

    modules = op.scopes.get(ScopeSource.TORCHSCRIPT_MODULE_TYPE, ())
    return "LinearAttention" in modules and op.op_type != "conv"


def _check(path: Path) -> Iterator[str]:
    """Check the operators of a package and describe each of its functions.

    Raises:
        InputError: An operator is not Core ML's own.
    """
    import coremltools as ct
    from coremltools.converters.mil.mil.ops.registry import SSAOpRegistry

    program = ct.utils.load_spec(str(path)).mlProgram
    for name, function in program.functions.items():
        (block,) = function.block_specializations.values()
        kinds = Counter(op.type for op in block.operations if op.type != "const")
        foreign = sorted(set(kinds) - set(SSAOpRegistry.core_ops))
        if foreign:
            raise InputError(f"{path.name}: Core ML has no operators {', '.join(foreign)}")
        listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
        yield f"{name}: {sum(kinds.values())} operators of Core ML's own: {listed}"
    yield "prediction needs macOS: the folded model was compared in the file's place"
