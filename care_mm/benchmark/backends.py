"""Ways to run a model: torch in several forms, and files that :mod:`care_mm.export` writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from care_mm.benchmark.models import CALLS, Adapter
from care_mm.errors import InputError, one_line
from care_mm.export.detector import Detector
from care_mm.export.graphs import Graph, graph_of, graph_of_module, in_precision
from care_mm.export.program import Program
from care_mm.export.runtimes import TARGETS
from care_mm.export.segformer_head import fold_segformer_head
from care_mm.export.target import Target
from care_mm.export.two_stage import TwoStageDetector
from care_mm.models.backbone import CARETransformer
from care_mm.models.fold import switch_to_deploy
from care_mm.models.staged import StagedBackbone
from care_mm.tasks import Task

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
    options = {"device": setting.device}
    if not isinstance(model, Detector):  # its networks have the dtype, its boxes are in fp32
        options["dtype"] = DTYPES[setting.dtype]
    if setting.channels_last:
        options["memory_format"] = torch.channels_last
    return model.to(**options), example.to(**options)


def _baseline(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    """Run the model as the authors do: unfolded, NCHW, eager, fp32."""
    for module in model.modules():
        if isinstance(module, StagedBackbone):
            module.channels_last_on_cpu = False
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


def _detects(model: nn.Module) -> bool:
    return isinstance(model, Adapter) and model.call is CALLS[Task.DETECTION]


def _folded(model: nn.Module, example: Tensor, setting: Setting) -> nn.Module:
    """Return the folded model in the form that is exported: a detector has fixed counts."""
    model = switch_to_deploy(model)
    if not (isinstance(model, Adapter) and model.exported):
        return model
    graph = graph_for_export(model, example)
    if isinstance(graph.module, Detector) and setting.dtype != "fp32":
        graph = in_precision(graph, DTYPES[setting.dtype])
    return graph.module


def _deploy(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    return _eager(_folded(model, example, setting), example, setting)


def _compile(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    model = model if setting.train else _folded(model, example, setting)
    model.compile()
    return _eager(model, example, setting)


def _cudagraph(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    if setting.device != "cuda":
        raise InputError("backend cudagraph: needs --device cuda")
    if _detects(model):
        raise InputError(
            "backend cudagraph: the suppression of a detector cannot be captured; --what raw-maps "
            "measures a one-stage detector without it"
        )
    model, example = _torch(_folded(model, example, setting), example, setting)
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


@dataclass(frozen=True)
class Runtime:
    """A backend that runs exported files.

    Attributes:
        target: Writes and opens the files.
        dtypes: The keys of :data:`DTYPES` that it is measured in.
    """

    target: Target
    dtypes: tuple[str, ...] = ("fp32",)

    def check(self, setting: Setting) -> None:
        """Raise InputError if a setting does not fit."""
        if setting.device != "cpu" or setting.dtype not in self.dtypes or setting.train:
            raise InputError(
                f"backend {setting.backend}: is measured in {' or '.join(self.dtypes)} on the CPU"
            )


# ncnn, LiteRT and ExecuTorch have no suppression: they run one-stage detectors up to raw maps.
RUNTIMES = {
    "onnxruntime": Runtime(TARGETS["onnx"]),
    "openvino": Runtime(TARGETS["openvino"], ("fp32", "bf16")),
    "ncnn": Runtime(TARGETS["ncnn"], ("fp32", "fp16")),
    "litert": Runtime(TARGETS["litert"]),
    "executorch": Runtime(TARGETS["executorch"]),
}


def backend_of(path: str | Path) -> str:
    """Return the backend that runs an exported file, by its suffix.

    Raises:
        InputError: No backend does.
    """
    for name, runtime in RUNTIMES.items():
        if runtime.target.suffix == Path(path).suffix:
            return name
    suffixes = ", ".join(runtime.target.suffix for runtime in RUNTIMES.values())
    raise InputError(f"{path}: not a file that the benchmark runs ({suffixes})")


def graph_for_export(model: nn.Module, example: Tensor) -> Graph:
    """Return the graph that is exported of a folded model, for the shape of ``example``.

    Every candidate of a one-stage detector counts, whatever its score. So the cost of the
    suppression does not depend on the weights, and a trained detector takes no longer.

    Raises:
        InputError: The model is of a kind that cannot be exported.
    """
    if not (isinstance(model, Adapter) and model.exported):
        return graph_of_module(model, example)
    head = getattr(model.model, "bbox_head", None)
    if head is not None and head.test_cfg:
        head.test_cfg = {**head.test_cfg, "score_thr": 0.0}
    if isinstance(model.model.backbone, CARETransformer):
        fold_segformer_head(model.model)  # ours; peers are folded by their own method alone
    return graph_of(model.model, model.exported)


_DIVIDED = "backend {}: runs no two-stage detector as a whole; --what backbone measures its pyramid"


def write_file(model: nn.Module, example: Tensor, setting: Setting, path: Path) -> None:
    """Fold a model and export it for the shape of ``example``.

    Args:
        model: In evaluation mode.
        example: Input (B, 3, H, W).
        setting: A backend of :data:`RUNTIMES`.
        path: The new file, with the suffix of the backend's target.

    Raises:
        InputError: The runtime is not installed, or the setting or the model does not fit it.
    """
    runtime = RUNTIMES[setting.backend]
    runtime.check(setting)
    runtime.target.require()
    graph = graph_for_export(switch_to_deploy(model), example)
    if isinstance(graph.module, TwoStageDetector) and not runtime.target.whole_detector:
        raise InputError(_DIVIDED.format(setting.backend))
    shape, batch = tuple(example.shape[2:]), len(example)
    runtime.target.write(graph, path, shape=shape, batch=batch, precision=setting.dtype)


def open_file(path: Path, example: Tensor, setting: Setting, **options: Any) -> Program:
    """Open an exported file that accepts ``example``.

    Args:
        path: The file.
        example: Input (B, 3, H, W).
        setting: A backend of :data:`RUNTIMES`.
        options: Options of the runtime, see :meth:`care_mm.export.target.Target.open`.

    Raises:
        InputError: The file is damaged, not ours, or for other inputs.
    """
    runtime = RUNTIMES[setting.backend]
    runtime.check(setting)
    program = runtime.target.open(path, **options)
    if program.parts:
        raise InputError(f"{path}: {_DIVIDED.format(setting.backend)}")
    program.check_shape(example)
    return program


def run_of(program: Program, example: Tensor) -> Run:
    """Return a call that runs an opened file on ``example`` (B, 3, H, W).

    Raises:
        InputError: The file does not accept the batch.
    """
    images = example.numpy()
    try:
        program.run(images)
    except Exception as error:
        raise InputError(
            f"{program.path}: does not run with an input of {tuple(images.shape)} "
            f"({one_line(error, 200)})"
        ) from error
    return lambda: program.run(images)


# Backend -> what runs a model in it; the runtimes run files instead.
TORCH_BACKENDS: dict[str, Callable[[nn.Module, Tensor, Setting], Run]] = {
    "baseline": _baseline,
    "eager": _eager,
    "deploy": _deploy,
    "compile": _compile,
    "cudagraph": _cudagraph,
}
BACKENDS = (*TORCH_BACKENDS, *RUNTIMES)

TRAINING_BACKENDS = ("baseline", "eager", "compile")


def prepare(model: nn.Module, example: Tensor, setting: Setting) -> Run:
    """Return a call that runs ``model`` on ``example`` (B, 3, H, W) once and waits for the result.

    Args:
        model: In evaluation mode.
        example: The input.
        setting: A backend of :data:`TORCH_BACKENDS`.

    Raises:
        InputError: The backend does not support the setting.
    """
    if setting.train and setting.backend not in TRAINING_BACKENDS:
        raise InputError(
            f"backend {setting.backend}: does not train; {', '.join(TRAINING_BACKENDS)} do"
        )
    if setting.train and _detects(model):
        raise InputError(
            "--train: a detector needs annotations; --what backbone trains its backbone"
        )
    run = TORCH_BACKENDS[setting.backend](model, example, setting)
    return synchronised(run) if setting.device == "cuda" else run


def synchronised(run: Run) -> Run:
    """Return a call that waits until the GPU has finished ``run``."""

    def run_and_wait() -> None:
        run()
        torch.cuda.synchronize()

    return run_and_wait
