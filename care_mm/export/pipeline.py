"""An export from start to end: build, fold, trace, write aside, compare, and only then publish."""

from __future__ import annotations

import copy
import importlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from care_mm.errors import InputError
from care_mm.export import verify
from care_mm.export.graphs import deploy, graph_of, in_precision
from care_mm.export.stand_in import assembled
from care_mm.export.trace import trace
from care_mm.files import PARTIAL, write_bytes

FORMATS = ("onnx", "openvino", "executorch", "coreml")
# Of files that take any size: not what is traced with, nor square.
_SHAPES = ((224, 320), (192, 160))


class NotEqual(RuntimeError):
    """The file does not give what the model gives; nothing was written."""


@dataclass(frozen=True)
class Wish:
    """What is to be exported.

    Args:
        target: One of ``FORMATS``.
        out: The new file.
        shape: Height and width of the only input that the file will take; ``None`` leaves them
            open where the runtime can, and else takes the size that the task's figures are for.
        what: ``'model'`` or ``'backbone'``.
        labels: Of a segmentor, the best class instead of logits.
        precision: ``'fp32'``, or another that the target has.
        calibration: A folder of images, for ``'int8'``.
        allow_partial: Load what fits the model, and list what stays random.
    """

    target: str
    out: Path
    shape: tuple[int, int] | None = None
    what: str = "model"
    labels: bool = False
    precision: str = "fp32"
    calibration: Path | None = None
    allow_partial: bool = False

    def check(self) -> None:
        """Raise InputError for what shows before any work is done."""
        target = target_of(self.target)
        if self.out.suffix != target.SUFFIX:
            raise InputError(f"--out {self.out}: a name for {self.target} ends in {target.SUFFIX}")
        if not self.out.parent.is_dir():
            raise InputError(f"--out {self.out}: there is no folder {self.out.parent}")
        for path in (self.out, *(self.out.with_suffix(suffix) for suffix in target.BESIDE)):
            if os.path.lexists(path):
                raise InputError(f"--out: {path} exists already, choose another name")
        if self.precision not in target.PRECISIONS:
            has = ", ".join(target.PRECISIONS)
            raise InputError(f"--precision {self.precision}: for {self.target} there is {has}")
        if (self.precision == "int8") != (self.calibration is not None):
            raise InputError("--precision int8 and --calibration FOLDER go together")
        target.require()


def target_of(name: str) -> ModuleType:
    """Import the module that writes and runs files for a runtime, one of ``FORMATS``."""
    return importlib.import_module(f"care_mm.export.{name}")


def export(
    original: nn.Module,
    wish: Wish,
    dataset_meta: Mapping[str, Any],
    samples: Sequence[Tensor] = (),
) -> list[str]:
    """Write a file for another runtime that gives what the model gives.

    Args:
        original: The model, in evaluation mode on the CPU.
        wish: What to make of it.
        dataset_meta: Classes and palette, kept in the file.
        samples: Images (1, 3, H, W), normalised, for ``'int8'``.

    Returns:
        What was found in comparing and in the file, line by line.

    Raises:
        InputError: Files, packages, or a model that cannot be exported.
        NotEqual: The differences are beyond the limits. No file is left.
    """
    target = target_of(wish.target)
    original.requires_grad_(False)
    shape = wish.shape
    model = copy.deepcopy(original)
    deploy(model)
    about = {"dataset_meta": dataset_meta, "precision": wish.precision}
    graph = graph_of(model, wish.what, wish.labels, **about)
    if wish.precision in target.CAST:
        graph = in_precision(graph, target.CAST[wish.precision])
    parts = trace(graph, shape, divide=not target.WHOLE_DETECTOR)
    about = graph.metadata(shape=shape, batched=graph.batched and shape is None)
    folder = Path(
        tempfile.mkdtemp(prefix=f".{wish.out.name}.", suffix=PARTIAL, dir=wish.out.parent)
    )
    try:
        path = Path(folder) / wish.out.name
        lines = target.write(graph, parts, path, about, wish.precision, samples)
        program = target.open_program(path)
        program = assembled(model, program) if program else verify.Folded(graph)
        reference = graph_of(original, wish.what, wish.labels)
        images = [verify.pictures(size, graph.about) for size in ([shape] if shape else _SHAPES)]
        findings = verify.differences(original, reference, program, images, wish.precision)
        if not all(finding.ok for finding in findings):
            said = "; ".join(str(finding) for finding in findings if not finding.ok)
            raise NotEqual(f"{wish.out} was not written, it differs from the model: {said}")
        publish(Path(folder), wish.out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [*lines, *map(str, findings)]


def publish(folder: Path, target: Path) -> None:
    """Give what is in a folder its names in another, the whole of each or nothing.

    Raises:
        InputError: A name is taken, or the file cannot be written.
    """
    for item in sorted(folder.iterdir()):
        if item.is_file():
            write_bytes(item.read_bytes(), target / item.name, overwrite=False)
            continue
        try:
            os.rename(item, target / item.name)
        except OSError as error:
            raise InputError(f"{target / item.name}: {error.strerror}") from error
