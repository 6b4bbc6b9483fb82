"""OpenVINO's IR, ``.xml`` with ``.bin`` beside it: converted from ONNX, run on the CPU."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from care_mm.export import onnx
from care_mm.export.graphs import INPUT, Graph, read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.trace import Part

SUFFIX, BESIDE = ".xml", (".bin",)
FIXED = False
WHOLE_DETECTOR = True
# fp16 is how weights lie in the file; what is computed in is asked for when the file is opened.
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CAST: dict[str, torch.dtype] = {}
PROPERTY = "care_mm"


def require() -> None:
    """Raise InputError for a package that is not installed."""
    onnx.require()
    needs("openvino")


def write(
    graph: Graph,
    parts: Mapping[str, Part],
    path: Path,
    about: str,
    precision: str = "fp32",
    samples: Sequence[Tensor] = (),
) -> list[str]:
    """Write ``path`` and the weights beside it; see :func:`care_mm.export.onnx.write`.

    Raises:
        InputError: nncf is not installed, which ``int8`` needs.
    """
    import openvino

    source = path.with_suffix(onnx.SUFFIX)
    onnx.write(graph, parts, source, about)
    model = openvino.convert_model(source)
    lines = []
    if precision == "int8":
        model = _quantised(model, samples)
        lines.append(f"convolutions in eight bits, ranges of {len(samples)} images")
    model.set_rt_info(about, [PROPERTY])
    openvino.save_model(model, path, compress_to_fp16=precision == "fp16")
    source.unlink()
    return lines


def _quantised(model: Any, samples: Sequence[Tensor]) -> Any:
    """The model with its convolutions in eight bits; all else stays as it is."""
    needs("nncf")
    import nncf

    others = {op.get_type_name() for op in model.get_ops()} - {"Convolution", "GroupConvolution"}
    nncf.set_log_level(logging.ERROR)
    return nncf.quantize(
        model,
        nncf.Dataset(samples, lambda image: {INPUT: image.numpy()}),
        subset_size=len(samples),
        preset=nncf.QuantizationPreset.MIXED,
        ignored_scope=nncf.IgnoredScope(types=sorted(others), validate=False),
    )


class OpenVINOProgram(Program):
    """An ``.xml`` file on the CPU, with as many threads as torch has.

    It computes in float32, in bfloat16 if it was exported for that and the CPU has it. OpenVINO
    itself would take bfloat16 unasked.

    Args:
        path: The file.

    Raises:
        InputError: OpenVINO is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        needs("openvino")
        import openvino

        core = openvino.Core()
        model = opened(path, lambda: core.read_model(path))
        known = model.has_rt_info([PROPERTY])
        about = read_metadata(model.get_rt_info([PROPERTY]).astype(str) if known else None, path)
        can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        in_bf16 = about.get("precision") == "bf16" and "BF16" in can
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
        }
        self.compiled = opened(path, lambda: core.compile_model(model, "CPU", settings))
        super().__init__(path, about)

    def run(self, image: np.ndarray) -> Sequence[np.ndarray]:
        found = self.compiled(image)
        return [np.array(found[name]) for name in self.about["outputs"]]


open_program = OpenVINOProgram
