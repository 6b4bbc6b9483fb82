"""Ways to run a model: torch in several forms, and files that :mod:`care_mm.export` writes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from care_mm.benchmark.models import Adapter
from care_mm.errors import InputError
from care_mm.export.graphs import Graph, graph_of, graph_of_module
from care_mm.export.program import Program
from care_mm.export.runtimes import TARGETS
from care_mm.models.fold import switch_to_deploy
from care_mm.tasks import Task, task_of_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Run = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """How a model is run.

    Attributes:
        backend: A key of :data:`BACKENDS`.
        device: ``'cpu'`` or ``'cuda'``.
        threads: CPU threads of the worker.
        dtype: A key of :data:`DTYPES` for weights and input. ``baseline`` stays in fp32.
        channels_last: Memory layout of weights and input in torch. ``baseline`` stays in NCHW.
        train: Run forward and backward in training mode instead of inference.
    """

    backend: str
    device: str = "cpu"
    threads: int = 2
    dtype: str = "fp32"
    channels_last: bool = False
    train: bool = False


# torch


def _torch(model: nn.Module, example: Tensor, setting: Setting) -> tuple[nn.Module, Tensor]:
    options = {"device": setting.device, "dtype": DTYPES[setting.dtype]}
    if setting.channels_last:
        options["memory_format"] = torch.channels_last
    return model.to(**options), example.to(**options)


def _baseline(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    """Run the model as the authors do: unfolded, NCHW, eager, fp32."""
    return _eager(model, example, replace(setting, dtype="fp32", channels_last=False))


def _eager(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    model, example = _torch(model, example, setting)
    return _step_of(model, example) if setting.train else lambda: model(example)


def _step_of(model: nn.Module, example: Tensor) -> Run:
    """Return a forward and backward pass that drops its gradients, as an optimizer step would."""
    parameters = list(model.train().parameters())

    def step() -> None:
        outputs = model(example)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        sum(output.float().mean() for output in outputs).backward()
        for parameter in parameters:
            parameter.grad = None

    return step


def _deploy(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    return _eager(switch_to_deploy(model), example, setting)


def _compile(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    model = model if setting.train else switch_to_deploy(model)
    model.compile()
    return _eager(model, example, setting)


def _cudagraph(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    if setting.device != "cuda":
        raise InputError("backend cudagraph: needs --device cuda")
    model, example = _torch(switch_to_deploy(model), example, setting)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # allocates lazy workspaces outside the capture
        for _ in range(3):
            model(example)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model(example)
    return graph.replay


# Exported files

# Backend -> the format of its file, and the dtypes that it is measured in.
RUNTIMES = {"onnxruntime": ("onnx", ("fp32",)), "openvino": ("openvino", ("fp32", "bf16"))}


def open_exported(model: nn.Module, example: Tensor, setting: Setting, **options: Any) -> Program:
    """Fold a model, export it for the shape of ``example``, and open the file.

    Args:
        model: In evaluation mode.
        example: Input (B, 3, H, W).
        setting: A backend of :data:`RUNTIMES`.
        options: Options of the runtime, see :meth:`care_mm.export.target.Target.open`.

    Raises:
        InputError: The runtime is not installed, or the setting or the model does not fit it.
    """
    name, dtypes = RUNTIMES[setting.backend]
    target = TARGETS[name]
    if setting.device != "cpu" or setting.dtype not in dtypes:
        raise InputError(
            f"backend {setting.backend}: is measured in {' or '.join(dtypes)} on the CPU"
        )
    target.require()
    graph = _graph(switch_to_deploy(model), example)
    shape, batch = tuple(example.shape[2:]), len(example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"model{target.suffix}"
        target.write(graph, path, shape=shape, batch=batch, precision=setting.dtype)
        return target.open(path, **options)


def _graph(model: nn.Module, example: Tensor) -> Graph:
    if isinstance(model, Adapter) and task_of_model(model.model) is Task.DETECTION:
        return graph_of(model.model)
    return graph_of_module(model, example)


def _exported(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    program, images = open_exported(model, example, setting), example.numpy()
    return lambda: program.run(images)


BACKENDS: dict[str, Callable[[nn.Module, Tensor, Setting], Run]] = {
    "baseline": _baseline,
    "eager": _eager,
    "deploy": _deploy,
    "compile": _compile,
    "cudagraph": _cudagraph,
    **dict.fromkeys(RUNTIMES, _exported),
}

TRAINING_BACKENDS = ("baseline", "eager", "compile")


def prepare(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    """Return a call that runs ``model`` on ``example`` (B, 3, H, W) once and waits for the result.

    Raises:
        InputError: The backend is not installed, or does not support the setting.
    """
    if setting.train and setting.backend not in TRAINING_BACKENDS:
        raise InputError(
            f"backend {setting.backend}: does not train; {', '.join(TRAINING_BACKENDS)} do"
        )
    run = BACKENDS[setting.backend](model, example, setting)
    return synchronised(run) if setting.device == "cuda" else run


def synchronised(run: Run) -> Run:
    """Return a call that waits until the GPU has finished ``run``."""

    def run_and_wait() -> None:
        run()
        torch.cuda.synchronize()

    return run_and_wait
