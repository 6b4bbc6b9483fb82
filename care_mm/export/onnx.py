"""ONNX: written by torch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from care_mm.export.graphs import INPUT, Graph, read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.trace import WHOLE, Part

SUFFIX, BESIDE = ".onnx", ()
FIXED = False  # the size of the input may stay open
WHOLE_DETECTOR = True
PRECISIONS = ("fp32", "fp16", "int8")
CAST = {"fp16": torch.float16}  # computed in that, from the module on
# The first with GELU as one operator: a sixth of the time of S0 in ONNX Runtime.
OPSET = 20
PROPERTY = "care_mm"  # under which the description lies in the file


def require() -> None:
    """Raise InputError for a package that is not installed."""
    needs("onnx", "onnxscript", "onnxruntime")


def write(
    graph: Graph,
    parts: Mapping[str, Part],
    path: Path,
    about: str,
    precision: str = "fp32",
    samples: Sequence[Tensor] = (),
) -> list[str]:
    """Write an exported program.

    Args:
        graph: Where it is from.
        parts: From :func:`care_mm.export.trace.trace`, not divided.
        path: Of a new file.
        about: Its description.
        precision: One of ``PRECISIONS``.
        samples: Pictures (1, 3, H, W) to take the ranges of activations from, for ``int8``.

    Returns:
        What to say about the file.
    """
    from onnx import helper

    with _quiet():
        program = torch.onnx.export(
            parts[WHOLE].exported,
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(graph.outputs),
            verbose=False,
        )
    model = program.model_proto
    helper.set_model_props(model, {PROPERTY: about})
    path.write_bytes(model.SerializeToString())
    return [_quantise(path, samples)] if precision == "int8" else []


def _quantise(path: Path, samples: Sequence[Tensor]) -> str:
    """Let the convolutions of a file compute in eight bits; all else stays as it is."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(self.images, None)
            return None if image is None else {INPUT: image.numpy()}

    with _quiet():
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
    return f"convolutions in eight bits, ranges of {len(samples)} images"


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter warns and logs about its own insides."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class OnnxProgram(Program):
    """A ``.onnx`` file in ONNX Runtime on the CPU, with as many threads as torch has.

    Args:
        path: The file.

    Raises:
        InputError: ONNX Runtime is not installed, or the file is damaged or not ours.
    """

    def __init__(self, path: Path) -> None:
        needs("onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # what it says about its own optimisations
        self.session = opened(path, lambda: onnxruntime.InferenceSession(str(path), options))
        properties = self.session.get_modelmeta().custom_metadata_map
        super().__init__(path, read_metadata(properties.get(PROPERTY), path))

    def run(self, image: np.ndarray) -> Sequence[np.ndarray]:
        return self.session.run(list(self.about["outputs"]), {INPUT: image})


open_program = OnnxProgram
