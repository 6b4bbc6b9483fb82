"""Ways to run a model: each takes it with an example and returns a call that runs it once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from care_mm.benchmark.models import deploy
from care_mm.errors import InputError

if TYPE_CHECKING:
    import onnxruntime
    import openvino

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Attributes:
        backend: A key of :data:`BACKENDS`.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads of the backend.
        dtype: A key of :data:`DTYPES`; weights and input are of it. ``baseline`` stays in fp32.
        channels_last: Layout of weights and input where torch runs them. Not for ``baseline``.
        train: Forward and backward in training mode, instead of inference.
    """

    backend: str
    device: str = "cpu"
    threads: int = 2
    dtype: str = "fp32"
    channels_last: bool = False
    train: bool = False


Run = Callable[[], object]
# The first with GELU as one operator, which ONNX Runtime computes in the layout of convolutions.
OPSET = 20


def _torch(model: nn.Module, example: Tensor, setting: Setting) -> tuple[nn.Module, Tensor]:
    options = {"device": setting.device, "dtype": DTYPES[setting.dtype]}
    if setting.channels_last:
        options["memory_format"] = torch.channels_last
    return model.to(**options), example.to(**options)


def _baseline(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    """As the authors run it: unfolded, NCHW, eager, fp32."""
    return _eager(model, example, replace(setting, dtype="fp32", channels_last=False))


def _eager(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    model, example = _torch(model, example, setting)
    return _step_of(model, example) if setting.train else lambda: model(example)


def _step_of(model: nn.Module, example: Tensor) -> Run:
    """Forward and backward; the gradients are dropped, as an optimizer would after its step."""
    parameters = list(model.train().parameters())

    def step() -> None:
        outputs = model(example)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(output.float().mean() for output in outputs).backward()
        for parameter in parameters:
            parameter.grad = None

    return step


def _deploy(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    return _eager(deploy(model), example, setting)


def _compile(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    model = model if setting.train else deploy(model)
    model, example = _torch(model, example, setting)
    model.compile()
    return _step_of(model, example) if setting.train else lambda: model(example)


def _cudagraph(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    if setting.device != "cuda":
        raise InputError("backend cudagraph: needs --device cuda")
    model, example = _torch(deploy(model), example, setting)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # lets lazily made workspaces be made outside the capture
        for _ in range(3):
            model(example)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(example)
    return graph.replay


def _need(module: str) -> None:
    try:
        __import__(module)
    except ImportError as error:
        raise InputError(
            f"backend {module}: not installed: pip install 'care-mm[export]'"
        ) from error


def onnxruntime_options(setting: Setting) -> onnxruntime.SessionOptions:
    """Options of a session that uses the setting's threads."""
    _need("onnxruntime")
    import onnxruntime

    if setting.dtype != "fp32" or setting.device != "cpu":
        raise InputError("backend onnxruntime: is measured in fp32 on the CPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = setting.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def onnxruntime_session(
    model: nn.Module, example: Tensor, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    """ONNX Runtime's form of a folded model, for the shape of ``example``."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, (example,), path, dynamo=True, opset_version=OPSET, verbose=False)
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _onnxruntime(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    session = onnxruntime_session(deploy(model), example, onnxruntime_options(setting))
    feed = {session.get_inputs()[0].name: example.numpy()}
    return lambda: session.run(None, feed)


def openvino_request(
    model: nn.Module, example: Tensor, setting: Setting, options: Mapping[str, object]
) -> openvino.InferRequest:
    """OpenVINO's form of a folded model, for the shape of ``example``, which is its input."""
    _need("openvino")
    import openvino

    if setting.device != "cpu" or setting.dtype == "fp16":
        raise InputError("backend openvino: is measured in fp32 or bf16 on the CPU")
    graph = openvino.convert_model(model, example_input=example)
    graph.reshape([*example.shape])
    compiled = openvino.compile_model(
        graph,
        "CPU",
        {
            "INFERENCE_NUM_THREADS": setting.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[setting.dtype],
            **options,
        },
    )
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(example.numpy()))
    return request


def _openvino(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    return openvino_request(deploy(model), example, setting, {}).infer


BACKENDS: dict[str, Callable[[nn.Module, Tensor, Setting], Run]] = {
    "baseline": _baseline,
    "eager": _eager,
    "deploy": _deploy,
    "compile": _compile,
    "cudagraph": _cudagraph,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}

TRAINING_BACKENDS = ("baseline", "eager", "compile")


def prepare(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    """A call that runs ``model`` on ``example`` (B, 3, H, W) once, and waits for the result.

    Raises:
        InputError: The backend is not installed, or cannot do what the setting asks.
    """
    if setting.train and setting.backend not in TRAINING_BACKENDS:
        raise InputError(
            f"backend {setting.backend}: does not train; {', '.join(TRAINING_BACKENDS)} do"
        )
    run = BACKENDS[setting.backend](model, example, setting)
    if setting.device != "cuda":
        return run

    def synchronised() -> None:
        run()
        torch.cuda.synchronize()

    return synchronised
