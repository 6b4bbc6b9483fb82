"""All runtimes by name.

Their packages are optional and imported only when a file is written or opened.
"""

from __future__ import annotations

from care_mm.export.coreml import CoreML
from care_mm.export.executorch import ExecuTorch
from care_mm.export.litert import LiteRT
from care_mm.export.ncnn import Ncnn
from care_mm.export.onnx import Onnx
from care_mm.export.openvino import OpenVINO
from care_mm.export.target import Target

TARGETS: dict[str, Target] = {
    target.name: target for target in (Onnx(), OpenVINO(), ExecuTorch(), CoreML(), Ncnn(), LiteRT())
}
