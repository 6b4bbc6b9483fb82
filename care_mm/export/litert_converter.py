"""Convert exported programs to a ``.tflite`` file; run as a script by the Python of `.venv-litert`.

It imports nothing of care_mm, whose packages do not go with those of litert-torch.

Arguments: a folder with one ``NAME.pt2`` for each signature, their names in order, separated by
commas, the precision, the new file, and for ``int8`` an ``.npy`` file of images (N, 3, H, W).
"""

from __future__ import annotations

import sys
from pathlib import Path


def main(folder: str, names: str, precision: str, out: str, samples: str = "") -> None:
    """Write the file."""
    import torch
    from litert_torch import Converter

    converter = Converter()
    for name in names.split(","):
        program = torch.export.load(Path(folder, f"{name}.pt2"))
        args, _ = program.example_inputs
        converter.add_signature(name, program.module(), args)
    # litert-torch wants modules in evaluation mode, and a program has no other one.
    converter.convert(strict_export=False).export(out)
    if precision != "fp32":
        _quantise(out, precision, samples, names)


def _quantise(path: str, precision: str, samples: str, signature: str) -> None:
    """Store weights in half precision, or let convolutions compute in 8 bits."""
    import numpy as np
    from ai_edge_quantizer import quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName

    quantiser = quantizer.Quantizer(path)
    calibration = None
    if precision == "fp16":
        for operation in _weighted():
            quantiser.add_weight_only_config(
                ".*", operation, num_bits=16, algorithm_key=AlgorithmName.FLOAT_CASTING
            )
    else:
        for operation in (TFLOperationName.CONV_2D, TFLOperationName.DEPTHWISE_CONV_2D):
            quantiser.add_static_config(".*", operation, activation_num_bits=8, weight_num_bits=8)
        images = [{"args_0": image[None]} for image in np.load(samples)]
        calibration = quantiser.calibrate({signature: images}, num_threads=1)
    content = quantiser.quantize(calibration, enable_progress_report=False).quantized_model
    Path(path).write_bytes(content)


def _weighted() -> list:
    from ai_edge_quantizer.qtyping import TFLOperationName

    return [
        TFLOperationName.CONV_2D,
        TFLOperationName.DEPTHWISE_CONV_2D,
        TFLOperationName.FULLY_CONNECTED,
    ]


if __name__ == "__main__":
    main(*sys.argv[1:])
