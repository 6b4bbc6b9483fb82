"""The base class of the runtimes that a model can be written for."""

from __future__ import annotations

import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from care_mm.export.graphs import Graph, in_precision, maps_of
from care_mm.export.one_stage import OneStageDetector
from care_mm.export.program import Program, needs
from care_mm.export.trace import Part, trace


@dataclass(frozen=True)
class Source:
    """Everything that a file is written from.

    Attributes:
        parts: The traced graph, from :func:`care_mm.export.trace.trace`.
        outputs: A name for each output of a graph that is not divided.
        about: The description that the file carries; see
            :func:`care_mm.export.graphs.read_metadata`.
        precision: One of the target's ``precisions``.
        samples: Images (1, 3, H, W), from which ``int8`` takes the ranges of activations.
        opset: One of the target's ``opsets``; ``None`` for the first.
    """

    parts: Mapping[str, Part]
    outputs: tuple[str, ...]
    about: str
    precision: str = "fp32"
    samples: Sequence[Tensor] = ()
    opset: int | None = None


class Target(ABC):
    """A runtime: what its files can hold, how they are written and how they are opened.

    A subclass imports the packages of its runtime inside its methods, because they are optional.

    Attributes:
        name: The value of ``--format``.
        suffix: Suffix of the file.
        companions: Suffixes of the files that are written next to it.
        packages: Packages that writing a file needs.
        precisions: Values of ``--precision``, of which ``fp32`` is the first.
        opsets: Values of ``--opset``, of which the first is the default; empty if there are none.
        casts: Precision to the dtype that the module is converted to before tracing.
        fixed_shape: Whether a file accepts a single input size only.
        whole_detector: Whether a file holds a detector up to its final boxes and masks. Otherwise
            the file of a one-stage detector holds its raw maps, and that of a two-stage detector
            its networks.
        program: The class of opened files; ``None`` if they cannot be run here.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    companions: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]]
    precisions: ClassVar[tuple[str, ...]] = ("fp32",)
    opsets: ClassVar[tuple[int, ...]] = ()
    casts: ClassVar[Mapping[str, torch.dtype]] = {}
    fixed_shape: ClassVar[bool] = False
    whole_detector: ClassVar[bool] = True
    program: ClassVar[type[Program] | None] = None

    def require(self) -> None:
        """Raise InputError if a package is not installed."""
        needs(*self.packages)

    def write(
        self,
        graph: Graph,
        path: Path,
        shape: tuple[int, int] | None = None,
        batch: int = 1,
        precision: str = "fp32",
        samples: Sequence[Tensor] = (),
        opset: int | None = None,
    ) -> list[str]:
        """Trace a graph and write it to a file.

        Args:
            graph: The graph to write.
            path: The new file, with the target's suffix.
            shape: Height and width of the only input size; ``None`` leaves them open.
            batch: Images of an input of fixed size. An open size has an open batch.
            precision: One of ``precisions``.
            samples: Images (1, 3, H, W), from which ``int8`` takes the ranges of activations.
            opset: One of ``opsets``; ``None`` for the first.

        Returns:
            Lines that describe the file.

        Raises:
            InputError: The graph cannot be traced with that shape, has operators that the runtime
                lacks, or a package is not installed.
        """
        if not self.whole_detector and isinstance(graph.module, OneStageDetector):
            graph = maps_of(graph)
        if precision in self.casts:
            graph = in_precision(graph, self.casts[precision])
        parts = trace(graph, shape, batch, divide=not self.whole_detector)
        batched = graph.batched and shape is None
        about = graph.metadata(shape=shape, batched=batched, precision=precision)
        source = Source(parts, graph.outputs, about, precision, samples, opset)
        return self.convert(source, path)

    @abstractmethod
    def convert(self, source: Source, path: Path) -> list[str]:
        """Write a traced graph; arguments, result and errors as in :meth:`write`."""

    def open(self, path: Path, **options: Any) -> Program | None:
        """Open a file in the runtime on the CPU; return ``None`` if it cannot be run here.

        Args:
            path: The file.
            options: Settings of the runtime, by its own names.

        Raises:
            InputError: The runtime is not installed, or the file is damaged or not ours.
        """
        return None if self.program is None else self.program(path, **options)


@contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Hide warnings, and messages below errors of the named loggers: converters log internals."""
    levels = {logger: logger.level for logger in map(logging.getLogger, loggers)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
