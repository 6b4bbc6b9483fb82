"""The time of each operator in ncnn and LiteRT, whose Python packages have no profiler."""

from __future__ import annotations

import copy
import statistics
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from care_mm.benchmark.backends import Setting, open_file
from care_mm.export.graphs import INPUT
from care_mm.export.ncnn import NcnnProgram

Event = tuple[str, float]  # kind, microseconds


def _clock(setting: Setting) -> Callable[[], float]:
    """Return the time of the process for one thread, which other processes do not prolong."""
    return time.process_time if setting.threads == 1 else time.perf_counter


def ncnn_events(path: Path, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    """Yield the kind and time of each layer of each run.

    The outputs of all layers are requested one after the other, and each request runs one layer.
    The time of a second request, which only copies the output, is subtracted. Layers that compute
    attention have the suffix ``(attention)``.

    Args:
        path: The ``.param`` file.
        example: Input (1, 3, H, W).
        setting: The backend ``ncnn``.
        runs: Number of runs, after as many that warm up.
    """
    program = open_file(path, example, setting)
    attention, clock = _attention_layers(path), _clock(setting)
    for number in range(2 * runs):
        for event in _layer_times(program, example.numpy(), attention, clock):
            if number >= runs:
                yield event


def _attention_layers(path: Path) -> set[str]:
    """Return the names of layers that stay in float32, which are those of attention."""
    lines = map(str.split, path.read_text().splitlines()[2:])
    return {fields[1] for fields in lines if fields[-1] == "31=7"}


def _layer_times(
    program: NcnnProgram, images: np.ndarray, attention: set[str], clock: Callable[[], float]
) -> list[Event]:
    import ncnn

    extractor = program.net.create_extractor()
    extractor.input(INPUT, ncnn.Mat(images[0]))
    events = []
    for layer in program.net.layers():
        if layer.type == "Input":
            continue
        # Type 1 returns the output as it is in memory. The last output of a layer is the one that
        # the others come with.
        blob = layer.tops[-1]
        begin = clock()
        extractor.extract(blob, 1)
        middle = clock()
        extractor.extract(blob, 1)
        end = clock()
        kind = f"{layer.type} (attention)" if layer.name in attention else layer.type
        events.append((kind, max(0.0, 2 * middle - begin - end) * 1e6))
    return events


def litert_events(path: Path, example: Tensor, setting: Setting, runs: int) -> Iterator[Event]:
    """Yield the kind and time of each operator of each run.

    This is an ablation. A first file holds the most frequent kind of convolution alone, each
    further one another kind of operator too, up to all of them. The time of a kind is the
    difference that it makes, which can be negative for a cheap one. The files take turns.

    Args:
        path: The ``.tflite`` file.
        example: Input (B, 3, H, W).
        setting: The backend ``litert``.
        runs: Number of runs, after as many that warm up.
    """
    open_file(path, example, setting)  # refuses what does not fit
    steps = [
        (kind, number, _caller(content, setting.threads))
        for kind, number, content in ablations(path.read_bytes())
    ]
    clock = _clock(setting)
    differences: list[list[float]] = [[] for _ in steps]
    for turn in range(2 * runs):
        before = 0.0
        for (_, _, call), own in zip(steps, differences, strict=True):
            begin = clock()
            call()
            after = clock() - begin
            if turn >= runs:
                own.append(after - before)
            before = after
    for (kind, number, _), own in zip(steps, differences, strict=True):
        yield from [(kind, statistics.median(own) * 1e6 / number)] * (number * runs)


def ablations(content: bytes) -> list[tuple[str, int, bytes]]:
    """Return LiteRT files with more and more kinds of operators of a file, convolutions first.

    Args:
        content: A file with one signature.

    Returns:
        For each file, the kind that was added, the number of its operators, and the content.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name[0] != "_"}
    kinds = []
    for operator in model.subgraphs[0].operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kinds.append(names[max(code.builtinCode, code.deprecatedBuiltinCode)])
    numbers = Counter(kinds)
    order = sorted(numbers, key=lambda kind: ("CONV" not in kind, -numbers[kind]))
    return [
        (kind, numbers[kind], _with_kinds(model, kinds, order[: i + 1]))
        for i, kind in enumerate(order)
    ]


def _with_kinds(model: Any, kinds: Sequence[str], kept: Collection[str]) -> bytes:
    """Return a LiteRT file of the operators of some kinds.

    An operator whose input is gone reads the last tensor of the same shape, which is in the cache
    as its input would be, or else an input of the file.

    Args:
        model: The file.
        kinds: The kind of each operator.
        kept: The kinds that stay.
    """
    import flatbuffers

    model, graph = copy.copy(model), copy.copy(model.subgraphs[0])

    def form(index: int) -> tuple[object, ...]:
        tensor = graph.tensors[index]
        return (tensor.type, *(tensor.shape if tensor.shape is not None else ()))

    constant = {
        i for i, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data is not None
    }
    computed: set[int] = set()
    used: set[int] = set()
    inputs: dict[int, None] = {}
    last: dict[tuple[object, ...], int] = {}  # form -> tensor
    operators = []
    for operator, kind in zip(graph.operators, kinds, strict=True):
        if kind not in kept:
            continue
        operator = copy.copy(operator)
        operator.inputs = [int(i) for i in operator.inputs]
        for place, index in enumerate(operator.inputs):
            if index < 0 or index in constant:
                continue
            if index not in computed:
                index = last.setdefault(form(index), index)
                inputs.update({} if index in computed else {index: None})
                operator.inputs[place] = index
            used.add(index)
        for index in map(int, operator.outputs):
            computed.add(index)
            last[form(index)] = index
        operators.append(operator)
    graph.operators, graph.inputs = operators, [*inputs]
    graph.outputs = sorted(computed - used)
    model.subgraphs, model.signatureDefs = [graph], []
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _caller(content: bytes, threads: int) -> Callable[[], None]:
    """Return a call that runs a LiteRT file with inputs of random numbers."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=threads)
    interpreter.allocate_tensors()
    random = np.random.default_rng(0)
    for entry in interpreter.get_input_details():
        values = random.random(entry["shape"], dtype=np.float32)
        interpreter.set_tensor(entry["index"], values.astype(entry["dtype"]))
    return interpreter.invoke
