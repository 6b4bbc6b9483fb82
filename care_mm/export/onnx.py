"""ONNX: written by torch's exporter, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from care_mm.export.graphs import INPUT, read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.target import Source, Target, quiet
from care_mm.export.trace import WHOLE

# The first opset with GELU as one operator: S0 takes a sixth less time in ONNX Runtime.
OPSET = 20
PROPERTY = "care_mm"  # key of the description among the file's properties
_LOGGERS = ("torch.onnx", "onnxscript", "onnx_ir")


class OnnxProgram(Program):
    """An ``.onnx`` file in ONNX Runtime on the CPU, with torch's number of threads.

    Args:
        path: The file.
        options: Attributes of ``SessionOptions``.

    Raises:
        InputError: ONNX Runtime is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        needs("onnxruntime")
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3  # warnings are about its own optimisations
        for key, value in options.items():
            setattr(settings, key, value)
        cpu = ["CPUExecutionProvider"]
        self.session = opened(
            path, lambda: onnxruntime.InferenceSession(str(path), settings, providers=cpu)
        )
        properties = self.session.get_modelmeta().custom_metadata_map
        super().__init__(path, read_metadata(properties.get(PROPERTY), path))

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run one batch; see :meth:`Program.run`."""
        return self.session.run(list(self.about["outputs"]), {INPUT: images})


class Onnx(Target):
    """ONNX files, run by ONNX Runtime."""

    name, suffix = "onnx", ".onnx"
    program = OnnxProgram
    packages = ("onnx", "onnxscript", "onnxruntime")
    precisions = ("fp32", "fp16", "int8")
    casts: ClassVar = {"fp16": torch.float16}

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write an ``.onnx`` file; ``int8`` quantises the convolutions alone."""
        from onnx import helper

        with quiet(*_LOGGERS):
            program = torch.onnx.export(
                source.parts[WHOLE].exported,
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(source.outputs),
                verbose=False,
            )
        model = program.model_proto
        helper.set_model_props(model, {PROPERTY: source.about})
        path.write_bytes(model.SerializeToString())
        if source.precision != "int8":
            return []
        _quantise(path, source.samples)
        return [f"convolutions in 8 bits, ranges from {len(source.samples)} images"]


def _quantise(path: Path, samples: Sequence[Tensor]) -> None:
    """Let the convolutions of a file compute in 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image.numpy()}

    with quiet(*_LOGGERS):
        quantize_static(
            path,
            path,
            Reader(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,  # CPUs without VNNI overflow otherwise
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
