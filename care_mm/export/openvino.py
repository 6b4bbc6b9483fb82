"""OpenVINO's IR, ``.xml`` with ``.bin`` next to it: converted from ONNX, run on the CPU."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from care_mm.export.graphs import INPUT, read_metadata
from care_mm.export.onnx import Onnx
from care_mm.export.program import Program, needs, opened
from care_mm.export.target import Source, Target

PROPERTY = "care_mm"  # key of the description in the file's rt_info


@functools.cache
def shared_core() -> Any:
    """Return the only ``openvino.Core`` of this process.

    A core's CPU plugin (2026.4) gives the thread a signal stack and frees it with the core. If two
    cores overlap, the thread is left with a freed one, and the next Ctrl-C ends the process.
    """
    import openvino

    return openvino.Core()


class OpenVINOProgram(Program):
    """An ``.xml`` file on the CPU, with torch's number of threads.

    It computes in float32, or in bfloat16 if it was exported for that and the CPU supports it.
    OpenVINO by itself would use bfloat16 for every file.

    Args:
        path: The file.
        options: Properties of the compiled model.

    Raises:
        InputError: OpenVINO is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        needs("openvino")
        core = shared_core()
        model = opened(path, lambda: core.read_model(path))
        is_ours = model.has_rt_info([PROPERTY])
        text = model.get_rt_info([PROPERTY]).astype(str) if is_ours else None
        about = read_metadata(text, path)
        supported = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        in_bf16 = about.get("precision") == "bf16" and "BF16" in supported
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            **options,
        }
        self.compiled = opened(path, lambda: core.compile_model(model, "CPU", settings))
        self.request = self.compiled.create_infer_request()
        super().__init__(path, about)

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run one batch; see :meth:`Program.run`."""
        outputs = self.request.infer({INPUT: images}, share_inputs=True)
        return [outputs[name] for name in self.about["outputs"]]


class OpenVINO(Target):
    """OpenVINO's intermediate representation.

    ``fp16`` stores weights in half precision. ``bf16`` is requested when the file is opened.
    """

    name, suffix, companions = "openvino", ".xml", (".bin",)
    program = OpenVINOProgram
    packages = (*Onnx.packages, "openvino")
    precisions = ("fp32", "fp16", "bf16", "int8")

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write an ``.xml`` file and its weights; ``int8`` needs nncf."""
        import openvino

        onnx = Onnx(labels_channels_last=False)
        intermediate = path.with_suffix(onnx.suffix)
        onnx.convert(replace(source, precision="fp32"), intermediate)
        model = openvino.convert_model(intermediate)
        lines = []
        if source.precision == "int8":
            model = _quantised(model, source.samples)
            lines.append(f"convolutions in 8 bits, ranges from {len(source.samples)} images")
        model.set_rt_info(source.about, [PROPERTY])
        openvino.save_model(model, path, compress_to_fp16=source.precision == "fp16")
        intermediate.unlink()
        return lines


def _quantised(model: Any, samples: Sequence[Tensor]) -> Any:
    """Return the model with its convolutions in 8 bits."""
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
