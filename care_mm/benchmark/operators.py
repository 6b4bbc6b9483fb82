"""The time of a model by kind of operator, from the profiler of each runtime."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from care_mm.benchmark.backends import RUNTIMES, Setting, open_file, prepare, write_file
from care_mm.benchmark.device_operators import Event, litert_events, ncnn_events
from care_mm.errors import InputError

# Group -> words in the names of its operators; the first group with a word in a name counts.
GROUPS = {
    "attention": ("(attention)",),
    "convolutions": ("conv", "innerproduct", "fullyconnected", "gemm", "addmm"),
    "activations": ("gelu", "relu", "silu", "swish", "sigmoid", "erf", "logistic"),
    "products of attention": ("elu", "matmul", "softmax", "exp", "greater", "select", "div", "sum"),
    "sums and products": ("binaryop", "add", "mul", "sub", "eltwise"),
}
REST = "data movement and the rest"


@dataclass(frozen=True)
class Operators:
    """All operators of a kind.

    Attributes:
        kind: The runtime's name of the operator, and of its kernel if the runtime reports it.
        number: How many of them one run executes.
        ms: Their time in one run, in ms.
    """

    kind: str
    number: int
    ms: float


def grouped(operators: Iterable[Operators]) -> list[Operators]:
    """Return the operators summed by :data:`GROUPS` and :data:`REST`, convolutions first."""
    totals = dict.fromkeys((*GROUPS, REST), (0, 0.0))
    for operator in operators:
        name = operator.kind.lower().replace("_", "")
        words = GROUPS.items()
        group = next((key for key, words in words if any(word in name for word in words)), REST)
        number, ms = totals[group]
        totals[group] = number + operator.number, ms + operator.ms
    return [Operators(group, *total) for group, total in totals.items()]


def profile(model: nn.Module, example: Tensor, setting: Setting, runs: int) -> list[Operators]:
    """Measure the time by kind of operator in one run of a model, the most expensive first.

    Args:
        model: In evaluation mode; it is folded unless the backend is ``eager``.
        example: Input (B, 3, H, W).
        setting: The backend ``eager``, ``deploy``, ``onnxruntime`` or ``openvino``, on the CPU.
        runs: Number of runs to average, after as many that warm up.

    Raises:
        InputError: The backend has no profiler, or does not support the setting.
    """
    if setting.backend in FILE_PROFILERS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"model{RUNTIMES[setting.backend].target.suffix}"
            write_file(model, example, setting, path)
            return profile_file(path, example, setting, runs)
    if setting.backend not in PROFILERS:
        raise InputError(f"backend {setting.backend}: {', '.join(PROFILERS)} have a profiler")
    with torch.no_grad():
        return _by_kind(_torch(model, example, setting, runs), runs)


def profile_file(path: Path, example: Tensor, setting: Setting, runs: int) -> list[Operators]:
    """Do the same for an exported file; see :func:`profile`."""
    if setting.backend not in FILE_PROFILERS:
        raise InputError(f"backend {setting.backend}: {', '.join(FILE_PROFILERS)} profile files")
    return _by_kind(FILE_PROFILERS[setting.backend](path, example, setting, runs), runs)


def _by_kind(events: Iterable[Event], runs: int) -> list[Operators]:
    time, number = defaultdict(float), defaultdict(int)
    for kind, us in events:
        time[kind] += us / runs / 1e3
        number[kind] += 1
    operators = [Operators(kind, number[kind] // runs, ms) for kind, ms in time.items() if ms]
    return sorted(operators, key=lambda operator: -operator.ms)


def _torch(model: nn.Module, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    run = prepare(model, example, setting)
    for _ in range(runs):
        run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(runs):
            run()
    for event in profiler.events():
        if event.name.startswith("aten::"):
            yield event.name, event.self_cpu_time_total


def _onnxruntime(path: Path, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    with tempfile.TemporaryDirectory() as folder:
        options = dict(enable_profiling=True, profile_file_prefix=f"{folder}/profile")
        program = open_file(path, example, setting, **options)
        for _ in range(2 * runs):
            program.run(example.numpy())
        events = json.loads(Path(program.session.end_profiling()).read_text())
    events = [event for event in events if event.get("args", {}).get("op_name")]
    for event in events[len(events) // 2 :]:
        yield event["args"]["op_name"], event["dur"]


def _openvino(path: Path, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    program = open_file(path, example, setting, PERF_COUNT=True)
    for number in range(2 * runs):
        program.run(example.numpy())
        if number >= runs:
            for node in program.request.get_profiling_info():
                us = node.real_time.total_seconds() * 1e6
                yield f"{node.node_type} {node.exec_type}", us


FILE_PROFILERS = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": ncnn_events,
    "litert": litert_events,
}
PROFILERS = ("eager", "deploy", *FILE_PROFILERS)
