"""Export a model: fold, trace, write to a temporary folder, compare, and only then publish."""

from __future__ import annotations

import copy
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from care_mm.errors import InputError, refuse_existing
from care_mm.export import verify
from care_mm.export.compare import Finding
from care_mm.export.detector import RawMaps
from care_mm.export.graphs import Graph, detector_of, graph_of, maps_of
from care_mm.export.program import Program
from care_mm.export.runtimes import TARGETS
from care_mm.export.segformer_head import fold_segformer_head
from care_mm.export.stand_in import assembled, decoded, divided
from care_mm.export.target import Target
from care_mm.files import PARTIAL, write_bytes
from care_mm.models.fold import switch_to_deploy

# Sizes to verify files of open size with: not the traced one, not square, and one with sides that
# no stride divides.
_SHAPES = ((224, 320), (189, 163))
NOTHING_DETECTED = (
    "nothing is detected in the drawn images: the raw maps, which are the scores and boxes before "
    "any threshold, were compared instead of detections"
)


class VerificationError(RuntimeError):
    """The file differs from the model beyond the limits; nothing was written."""


@dataclass(frozen=True)
class ExportSettings:
    """The choices of one export.

    Args:
        format: A key of :data:`care_mm.export.runtimes.TARGETS`.
        out: The new file.
        shape: Height and width of the only input size; ``None`` leaves them open, which a target
            with ``fixed_shape`` cannot.
        what: One of :data:`care_mm.export.graphs.WHAT`.
        labels: Write the label of each pixel of a segmentor instead of logits.
        precision: ``'fp32'``, or another precision of the target.
        calibration: A folder of images, for ``'int8'``.
        opset: One of the target's ``opsets``; ``None`` for the first.
    """

    format: str
    out: Path
    shape: tuple[int, int] | None = None
    what: str = "model"
    labels: bool = False
    precision: str = "fp32"
    calibration: Path | None = None
    opset: int | None = None

    @property
    def target(self) -> Target:
        """The runtime to write for."""
        return TARGETS[self.format]

    def check(self) -> None:
        """Raise InputError for everything that can be checked before a model is built."""
        target = self.target
        if self.out.suffix != target.suffix:
            raise InputError(f"--out {self.out}: a name for {self.format} ends in {target.suffix}")
        if not self.out.parent.is_dir():
            raise InputError(f"--out {self.out}: there is no folder {self.out.parent}")
        for path in (self.out, *map(self.out.with_suffix, target.companions)):
            refuse_existing(path, "--out")
        if self.precision not in target.precisions:
            choices = ", ".join(target.precisions)
            raise InputError(f"--precision {self.precision}: for {self.format} there is {choices}")
        if (self.precision == "int8") != (self.calibration is not None):
            raise InputError("--precision int8 and --calibration FOLDER go together")
        if self.opset is not None and self.opset not in target.opsets:
            choices = ", ".join(map(str, target.opsets)) or "no choice"
            raise InputError(f"--opset {self.opset}: for {self.format} there is {choices}")
        target.require()

    def write(self, graph: Graph, path: Path, samples: Sequence[Tensor]) -> list[str]:
        """Write a graph to a file; see :meth:`care_mm.export.target.Target.write`."""
        return self.target.write(
            graph,
            path,
            shape=self.shape,
            precision=self.precision,
            samples=samples,
            opset=self.opset,
        )


def export(
    original: nn.Module,
    settings: ExportSettings,
    dataset_meta: Mapping[str, Any],
    samples: Sequence[Tensor] = (),
) -> list[str]:
    """Write a model for another runtime, and compare the file with the model.

    Args:
        original: The model, in evaluation mode on the CPU.
        settings: What to write, and where.
        dataset_meta: Classes and palette, kept in the file.
        samples: Normalised images (1, 3, H, W), for ``'int8'``.

    Returns:
        Lines that describe the file and its differences from the model.

    Raises:
        InputError: The model cannot be exported, or the file cannot be written or not be compared.
        VerificationError: The differences are beyond the limits. No file is left.
    """
    original.requires_grad_(False)
    model = fold_segformer_head(switch_to_deploy(copy.deepcopy(original)))
    graph = graph_of(model, settings.what, settings.labels, dataset_meta=dataset_meta)
    out, shape, precision = settings.out, settings.shape, settings.precision
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=PARTIAL, dir=out.parent))
    try:
        path = folder / out.name
        lines = settings.write(graph, path, samples)
        program = settings.target.open(path)
        reference = graph_of(original, settings.what, settings.labels)
        images = [
            verify.drawn_images(size, graph.about) for size in ([shape] if shape else _SHAPES)
        ]
        if settings.labels:
            images = [verify.with_two_classes(reference.module, batch) for batch in images]
        candidate = _candidate(model, graph, program)
        findings = verify.differences(original, reference, candidate, images, precision)
        if verify.nothing_detected(findings):
            lines.append(NOTHING_DETECTED)
            findings = _map_findings(settings, original, graph, program, images, samples)
        _refuse(out, findings)
        _publish(folder, out.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [*lines, *map(str, findings)]


def _candidate(model: nn.Module, graph: Graph, program: Program | None) -> verify.Run:
    """Return the opened file, or the folded model for a file that cannot be run here."""
    if program is not None:
        return assembled(model, program)
    folded = verify.Folded(graph)
    return decoded(folded, graph.about["decoding"]) if "decoding" in graph.about else folded


def _map_findings(
    settings: ExportSettings,
    original: nn.Module,
    graph: Graph,
    program: Program | None,
    images: Sequence[Tensor],
    samples: Sequence[Tensor],
) -> list[Finding]:
    """Compare the raw maps of a detector.

    A complete file does not have them as outputs. They are written into another file, for the same
    runtime and with the same settings.
    """
    detector = detector_of(original)
    maps = graph if isinstance(graph.module, RawMaps) else maps_of(graph)
    with tempfile.TemporaryDirectory() as folder:
        if program is not None and program.parts:
            run = verify.Folded(maps_of(replace(graph, module=divided(original, program))))
        elif program is not None and program.about["outputs"] != maps.outputs:
            path = Path(folder) / settings.out.name
            settings.write(maps, path, samples)
            run = settings.target.open(path)
        else:
            run = program or verify.Folded(maps)
        return verify.map_differences(detector, run, images, settings.precision)


def _refuse(out: Path, findings: Sequence[Finding]) -> None:
    """Raise an error unless all findings are ok.

    Raises:
        VerificationError: A difference is beyond its limit.
        InputError: There is none, but something could not be compared.
    """
    failed = [finding for finding in findings if not finding.ok]
    if not failed:
        return
    message = "; ".join(map(str, failed))
    if all(finding.obstacle for finding in failed):
        raise InputError(f"{out} was not written, because it could not be verified: {message}")
    raise VerificationError(f"{out} was not written, it differs from the model: {message}")


def _publish(source: Path, target: Path) -> None:
    """Move the items of a folder to another one; each appears complete or not at all.

    Raises:
        InputError: A name is taken, or an item cannot be written.
    """
    for item in sorted(source.iterdir()):
        if item.is_file():
            write_bytes(item.read_bytes(), target / item.name, overwrite=False)
            continue
        try:
            os.rename(item, target / item.name)
        except OSError as error:
            raise InputError(f"{target / item.name}: {error.strerror}") from error
