"""Where the milliseconds go: time by kind of operator, as each runtime's own profiler has it."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from care_mm.benchmark import backends
from care_mm.benchmark.backends import Setting
from care_mm.benchmark.models import deploy
from care_mm.errors import InputError


@dataclass(frozen=True)
class Operators:
    """All operators of a kind.

    Attributes:
        kind: The runtime's name of the operator and, where it tells, of its kernel.
        number: How many of them a run executes.
        ms: What they take together in one run.
    """

    kind: str
    number: int
    ms: float


Event = tuple[str, float]  # kind, microseconds


def profile(model: nn.Module, example: Tensor, setting: Setting, runs: int) -> list[Operators]:
    """Time by kind of operator in one run of ``model``, the most expensive first.

    Args:
        model: In evaluation mode; it is folded unless the backend is ``eager``.
        example: Input (B, 3, H, W).
        setting: A backend of ``eager``, ``deploy``, ``onnxruntime`` or ``openvino``, on the CPU.
        runs: Runs that are averaged, after as many that are not.
    """
    profilers = {
        "eager": _torch,
        "deploy": _torch,
        "onnxruntime": _onnxruntime,
        "openvino": _openvino,
    }
    if setting.backend not in profilers:
        raise InputError(f"backend {setting.backend}: {', '.join(profilers)} have a profiler")
    model = model if setting.backend == "eager" else deploy(model)
    time, number = defaultdict(float), defaultdict(int)
    with torch.no_grad():
        for kind, us in profilers[setting.backend](model, example, setting, runs):
            time[kind] += us / runs / 1e3
            number[kind] += 1
    found = [Operators(kind, number[kind] // runs, ms) for kind, ms in time.items() if ms > 0]
    return sorted(found, key=lambda operators: -operators.ms)


def _torch(model: nn.Module, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    run = backends.prepare(model, example, replace(setting, backend="eager"))
    for _ in range(runs):
        run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(runs):
            run()
    for event in profiler.events():
        if event.name.startswith("aten::"):
            yield event.name, event.self_cpu_time_total


def _onnxruntime(model: nn.Module, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    with tempfile.TemporaryDirectory() as folder:
        options = backends.onnxruntime_options(setting)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = backends.onnxruntime_session(model, example, options)
        feed = {session.get_inputs()[0].name: example.numpy()}
        for _ in range(2 * runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    events = [event for event in events if event.get("args", {}).get("op_name")]
    for event in events[len(events) // 2 :]:
        yield event["args"]["op_name"], event["dur"]


def _openvino(model: nn.Module, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    request = backends.openvino_request(model, example, setting, {"PERF_COUNT": True})
    for number in range(2 * runs):
        request.infer()
        if number >= runs:
            for node in request.get_profiling_info():
                us = node.real_time.total_seconds() * 1e6
                yield f"{node.node_type} {node.exec_type}", us
