"""ONNX: written by torch's exporter, run by ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from care_mm.errors import InputError, one_line
from care_mm.export.graphs import INPUT, read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.target import Source, Target, quiet
from care_mm.export.trace import WHOLE

# 20 is the first opset with GELU as one operator: S0 takes a sixth less time in ONNX Runtime. torch
# writes 18 and later, and expresses GELU with Erf before 20.
OPSETS = (20, 19, 18, 17)
_OLDEST_OF_TORCH = 18
_OLDEST_WITH_CHANNELS_LAST = 20  # ONNX Runtime 1.17 and later run such files
# Attributes that opset 18 added, with the value that means the behaviour of opset 17.
_NEW_IN_18 = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch", "noop_with_empty_axes": 0}
_CHANNELS_LAST = [0, 2, 3, 1]
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
    """ONNX files, run by ONNX Runtime.

    Args:
        labels_channels_last: Choose the class of each pixel as :func:`put_classes_last` describes.
    """

    name, suffix = "onnx", ".onnx"
    program = OnnxProgram
    packages = ("onnx", "onnxscript", "onnxruntime")
    precisions = ("fp32", "fp16", "int8")
    opsets = OPSETS
    casts: ClassVar = {"fp16": torch.float16}

    def __init__(self, labels_channels_last: bool = True) -> None:
        self.labels_channels_last = labels_channels_last

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write an ``.onnx`` file; ``int8`` quantises the convolutions alone.

        The file has the lowest IR version of its opset, for old runtimes.

        Raises:
            InputError: The opset lacks one of the operators.
        """
        from onnx import helper

        opset = source.opset or self.opsets[0]
        with quiet(*_LOGGERS):
            program = torch.onnx.export(
                source.parts[WHOLE].exported,
                dynamo=True,
                opset_version=max(opset, _OLDEST_OF_TORCH),
                input_names=[INPUT],
                output_names=list(source.outputs),
                verbose=False,
            )
        model = program.model_proto
        if opset >= _OLDEST_WITH_CHANNELS_LAST and self.labels_channels_last:
            put_classes_last(model)
        if opset < _OLDEST_OF_TORCH:
            lower_to_17(model)
        model.ir_version = helper.find_min_ir_version_for(model.opset_import)
        helper.set_model_props(model, {PROPERTY: source.about})
        path.write_bytes(model.SerializeToString())
        lines = [f"opset {opset}, IR version {model.ir_version}"]
        if source.precision == "int8":
            _quantise(path, source.samples)
            lines.append(f"convolutions in 8 bits, ranges from {len(source.samples)} images")
        return lines


def put_classes_last(model: Any) -> None:
    """Transpose logits before they are resized and reduced to labels, in place.

    The best class of a pixel is found faster if the logits of a pixel are adjacent in memory:
    resizing and choosing take 0.6 of the time in ONNX Runtime. OpenVINO is slower that way. The
    labels stay the same. Graphs without a resize right before an ArgMax over classes stay as they
    are.
    """
    from onnx import helper, numpy_helper

    nodes = model.graph.node
    uses = Counter(name for node in nodes for name in node.input)
    makers = {name: node for node in nodes for name in node.output}
    for argmax in [node for node in nodes if node.op_type == "ArgMax"]:
        resize = makers.get(argmax.input[0])
        axis = next((a for a in argmax.attribute if a.name == "axis"), None)
        keepdims = next((a.i for a in argmax.attribute if a.name == "keepdims"), 1)
        if resize is None or resize.op_type != "Resize" or uses[argmax.input[0]] > 1:
            continue
        if axis is None or axis.i != 1 or keepdims or len(resize.input) != 4 or resize.input[1]:
            continue
        logits, sizes = resize.input[0], resize.input[3]
        order = f"{resize.output[0]}_order"
        model.graph.initializer.append(numpy_helper.from_array(np.array(_CHANNELS_LAST), order))
        added = [
            helper.make_node("Transpose", [logits], [f"{order}_logits"], perm=_CHANNELS_LAST),
            helper.make_node("Gather", [sizes, order], [f"{order}_sizes"]),
        ]
        resize.input[0], resize.input[3] = added[0].output[0], added[1].output[0]
        axis.i = 3
        position = list(nodes).index(resize)
        for node in reversed(added):
            nodes.insert(position, node)
        stale = [v for v in model.graph.value_info if v.name == resize.output[0]]
        for value in stale:
            model.graph.value_info.remove(value)


def lower_to_17(model: Any) -> None:
    """Rewrite a model of opset 18 for opset 17, in place.

    Raises:
        InputError: An operator has no equal in opset 17.
    """
    from onnx import checker, helper, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        reduces = node.op_type.startswith("Reduce") and node.op_type != "ReduceSum"
        if reduces and len(node.input) == 2 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
            del node.input[1:]
            node.attribute.append(helper.make_attribute("axes", axes))
        for attribute in list(node.attribute):
            # The checker refuses what is left of the attributes that opset 18 added.
            default = _NEW_IN_18.get(attribute.name)
            if attribute.name == "num_outputs" or default == helper.get_attribute_value(attribute):
                node.attribute.remove(attribute)
    model.opset_import[0].version = 17
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        reason = one_line(error, 200)
        raise InputError(f"--opset 17: the model needs a later opset ({reason})") from error


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
