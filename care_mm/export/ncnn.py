"""ncnn's ``.param`` with ``.bin`` next to it: converted by pnnx, for one input size."""

from __future__ import annotations

import copy
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from care_mm.errors import InputError, one_line
from care_mm.export.graphs import INPUT, read_metadata
from care_mm.export.program import Program, needs, opened
from care_mm.export.target import Source, Target
from care_mm.export.trace import WHOLE, Part

# ncnn reads as many layers as the second line counts, so that a last line may describe the file.
PROPERTY = "care_mm"
_WEIGHTS = ".bin"
# Layers behind an ELU compute linear attention until one of these reads the result.
_AFTER_ATTENTION = {"Concat", "Convolution", "ConvolutionDepthWise"}
# Key 31 switches features off for a layer: bits 0 to 2 are arithmetic in fp16, fp16 and bf16.
_FLOAT32_ONLY = "31=7"


class NcnnProgram(Program):
    """A ``.param`` file and its ``.bin`` in ncnn on the CPU, with torch's number of threads.

    Activations are float32 unless the file was exported for ``fp16`` and the CPU supports it. ncnn
    by itself would use half precision for every file.

    Args:
        path: The ``.param`` file.
        options: Attributes of ncnn's ``Option``.

    Raises:
        InputError: ncnn is not installed, or one of the files is missing, damaged or not ours.
    """

    def __init__(self, path: Path, **options: Any) -> None:
        needs("ncnn")
        import ncnn

        text = opened(path, path.read_text)
        last = text.rstrip("\n").rpartition("\n")[2]
        name, _, description = last.partition(" ")
        about = read_metadata(description if name == PROPERTY else None, path)
        half = about.get("precision") == "fp16"
        settings = {
            "num_threads": torch.get_num_threads(),
            "use_fp16_packed": half,
            "use_fp16_storage": half,
            "use_fp16_arithmetic": False,
            **options,
        }
        self.net = ncnn.Net()
        for key, value in settings.items():
            setattr(self.net.opt, key, value)
        weights = path.with_suffix(_WEIGHTS)
        # ncnn loads the weights of another network without an error.
        size = about.get("weights")
        opened(weights, lambda: _expect(weights.stat().st_size == size, f"not {size} bytes long"))
        opened(path, lambda: _expect(self.net.load_param(str(path)) == 0, "ncnn rejects it"))
        opened(weights, lambda: _expect(self.net.load_model(str(weights)) == 0, "ncnn rejects it"))
        super().__init__(path, about)

    def run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Run one image; see :meth:`Program.run`."""
        import ncnn

        extractor = self.net.create_extractor()
        extractor.input(INPUT, ncnn.Mat(images[0]))
        return [np.array(extractor.extract(name)[1])[None] for name in self.about["outputs"]]


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


class Ncnn(Target):
    """ncnn's networks; ``fp16`` stores weights in half precision."""

    name, suffix, companions = "ncnn", ".param", (_WEIGHTS,)
    program = NcnnProgram
    packages = ("ncnn", "pnnx")
    precisions = ("fp32", "fp16")
    fixed_shape = True
    whole_detector = False

    def convert(self, source: Source, path: Path) -> list[str]:
        """Write a ``.param`` file and its weights.

        Raises:
            InputError: The graph is divided or has a batch, or ncnn lacks one of its operators.
        """
        if WHOLE not in source.parts:
            parts = ", ".join(source.parts)
            raise InputError(
                f"--format ncnn: a file holds one network, and this detector has several ({parts}):"
                " --what backbone exports the feature pyramid"
            )
        part = source.parts[WHOLE]
        if len(part.example) > 1:
            raise InputError(
                f"a file for ncnn accepts one image at a time, not {len(part.example)}"
            )
        weights = path.with_suffix(_WEIGHTS)
        layers = _converted(part, weights, half=source.precision == "fp16")
        foreign = sorted({layer[0] for layer in layers if "." in layer[0]})
        if foreign:
            raise InputError(f"--format ncnn: ncnn has no {', '.join(foreign)}")
        names = {f"out{i}": name for i, name in enumerate(source.outputs)}
        layers = [_renamed(layer, {"in0": INPUT, **names}) for layer in layers]
        _keep_attention_in_float32(layers)
        layers = _with_fixed_reshapes(layers, weights, part.example[0].numpy())
        about = _with_size(source.about, weights.stat().st_size)
        path.write_text(f"{_text(layers)}{PROPERTY} {about}\n")
        kinds = Counter(layer[0] for layer in layers).most_common()
        listed = ", ".join(f"{kind} {count}" for kind, count in kinds)
        return [f"{len(layers)} layers: {listed}"]


def _converted(part: Part, weights: Path, half: bool) -> list[list[str]]:
    """Convert a network with pnnx: write its weights, and return the fields of each layer.

    A layer's fields are its type and name, the numbers of its inputs and outputs, their blobs, and
    its parameters.

    Raises:
        InputError: pnnx rejects the network.
    """
    import pnnx

    with tempfile.TemporaryDirectory() as folder:
        traced, text = Path(folder, "traced.pt"), Path(folder, "net.param")
        try:
            network = _apart(part.module)
            torch.jit.trace(network, part.example, check_trace=False).save(str(traced))
        except RuntimeError as error:  # such as a function with a backward pass in Python
            reason = one_line(error, 300)
            raise InputError(f"--format ncnn: this model cannot be traced ({reason})") from error
        shape = ",".join(map(str, part.example.shape))
        # Further files land in pnnx's working folder.
        outputs = (f"ncnnparam={text}", f"ncnnbin={weights.resolve()}")
        command = [pnnx.EXEC_PATH, traced, f"inputshape=[{shape}]", f"fp16={half:d}", *outputs]
        process = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if process.returncode != 0 or not text.is_file():
            reason = one_line(process.stderr, 300) or f"exit status {process.returncode}"
            raise InputError(f"--format ncnn: pnnx cannot convert this model ({reason})")
        return [line.split() for line in text.read_text().splitlines()[2:]]


def _apart(network: nn.Module) -> nn.Module:
    """Return a copy in which every module has one name, and computes once for the same input.

    pnnx cannot convert weights that have several names. In mmdet's RTMDet-Ins, the branches of
    classes and boxes are the same layers of the same map. Each further name gets a twin, which
    returns what the module itself has computed.
    """
    network = copy.deepcopy(network)
    seen: set[nn.Module] = set()
    replaced: tuple[str, ...] = ()  # prefixes of the names within twins
    for name, module in list(network.named_modules(remove_duplicate=False)):
        if module in seen and not name.startswith(replaced):
            twin = copy.deepcopy(module)
            for one, other in zip(module.modules(), twin.modules(), strict=True):
                last: list[Tensor] = []
                one.forward = _remembering(one.forward, last)
                other.forward = _remembering(other.forward, last)
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, twin)
            replaced += (f"{name}.",)
        seen.add(module)
    return network


def _remembering(forward: Callable[[Tensor], Tensor], last: list[Tensor]) -> Callable:
    """Return a function that takes the output from ``last`` if its input is the one there."""

    def call(x: Tensor) -> Tensor:
        if not last or last[0] is not x:
            last[:] = x, forward(x)
        return last[1]

    return call


def _blobs(layer: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the names of a layer's inputs and outputs."""
    inputs, outputs = 4 + int(layer[2]), 4 + int(layer[2]) + int(layer[3])
    return list(layer[4:inputs]), list(layer[inputs:outputs])


def _renamed(layer: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return a layer with other names for its blobs."""
    inputs, outputs = _blobs(layer)
    blobs = [names.get(blob, blob) for blob in (*inputs, *outputs)]
    return [*layer[:4], *blobs, *layer[4 + len(blobs) :]]


def _text(layers: Sequence[Sequence[str]]) -> str:
    """Return the text of a ``.param`` file."""
    blobs = {name for layer in layers for name in _blobs(layer)[1]}
    return "\n".join(["7767517", f"{len(layers)} {len(blobs)}", *map(" ".join, layers)]) + "\n"


def _with_fixed_reshapes(
    layers: Sequence[list[str]], weights: Path, image: np.ndarray
) -> list[list[str]]:
    """Return layers in which reshapes have fixed shapes, instead of those of other blobs.

    pnnx writes such reshapes around linear layers of tokens, and ncnn takes 40 times as long for
    them. The shapes are those for ``image`` (3, H, W), the only size of the file.
    """
    if not any(map(_computes_shape, layers)):
        return list(layers)
    import ncnn

    net = ncnn.Net()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.param")
        file.write_text(_text(layers))
        _expect(net.load_param(str(file)) == 0, "ncnn rejects the network")
        _expect(net.load_model(str(weights)) == 0, "ncnn rejects the weights")
    extractor = net.create_extractor()
    extractor.input(INPUT, ncnn.Mat(image))
    fixed = []
    for layer in layers:
        if _computes_shape(layer):
            inputs, outputs = _blobs(layer)
            others = [field for field in _parameters(layer) if not field.startswith("6=")]
            blob = extractor.extract(outputs[0])[1]
            sides = {"0": blob.w, "1": blob.h, "2": blob.c, "11": blob.d}  # by their parameters
            shape = [f"{key}={side}" for key, side in [*sides.items()][: blob.dims]]
            layer = ["Reshape", layer[1], "1", "1", inputs[0], outputs[0], *shape, *others]
        fixed.append(layer)
    return fixed


def _parameters(layer: Sequence[str]) -> list[str]:
    """Return the parameters of a layer, such as ``0=96``."""
    return list(layer[4 + int(layer[2]) + int(layer[3]) :])


def _computes_shape(layer: Sequence[str]) -> bool:
    """Whether it is a reshape with an expression for its shape that moves no batch (12 and 13)."""
    keys = {field.partition("=")[0] for field in _parameters(layer)}
    return layer[0] == "Reshape" and "6" in keys and not keys & {"12", "13"}


def _keep_attention_in_float32(layers: Sequence[list[str]]) -> None:
    """Let the products of linear attention compute in float32 on every CPU, in place.

    Half precision underflows their normaliser, see :class:`care_mm.models.layers.LinearAttention`.
    """
    attention: set[str] = set()
    for layer in layers:
        inputs, outputs = _blobs(layer)
        follows = not attention.isdisjoint(inputs) and layer[0] not in _AFTER_ATTENTION
        if layer[0] == "ELU" or follows:
            attention.update(outputs)
            layer.append(_FLOAT32_ONLY)


def _with_size(about: str, size: int) -> str:
    """Return a description with the number of bytes of the weights."""
    return json.dumps({**json.loads(about), "weights": size})
