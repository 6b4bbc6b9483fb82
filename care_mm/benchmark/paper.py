"""The figures of CARE and of the systems that the paper compares it with, a row at a time."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from care_mm.benchmark.backends import RUNTIMES, Setting
from care_mm.benchmark.measure import Result, measure
from care_mm.benchmark.models import PUBLISHED_TOP1, build
from care_mm.benchmark.worker import Job
from care_mm.errors import InputError, one_line
from care_mm.files import write_bytes
from care_mm.models.arch import ARCHS
from care_mm.peers.published import PUBLISHED
from care_mm.peers.systems import split

CLASSIFIER, PYRAMID = (224, 224), (512, 512)
REFERENCE = "care_s1"
# The sizes next to CARE's. The larger ones (mlla:s, mlla:b, flatten-swin:s, ...) can be added by
# --models.
MODELS = (
    *(f"care_{arch}" for arch in ARCHS),
    "mobilenetv2:100",
    "emo:1m",
    "emo:2m",
    "emo:5m",
    "efficientformer:l1",
    "efficientformerv2:s1",
    "mobilevig:ti",
    "mobilevig:s",
    "mobilevig:m",
    "flatten-pvt:t",
    "flatten-pvt:s",
    "slab-pvt:t",
    "mlla:t",
    "swin:t",
    "flatten-swin:t",
    "slab-swin:t",
    "convnext:t",
)
Row = dict[str, Any]


def check(names: Sequence[str]) -> None:
    """Raise InputError for a name that is neither CARE's nor ``NAME:SIZE``."""
    for name in names:
        if name.removeprefix("care_") not in ARCHS or not name.startswith("care_"):
            split(name)


def installed_runtimes() -> list[str]:
    """Return the backends that run exported files and whose packages are installed."""
    names = []
    for name, runtime in RUNTIMES.items():
        with suppress(InputError):
            runtime.target.require()
            names.append(name)
    return names


def published_top1(name: str) -> float | None:
    """Return the published accuracy on ImageNet-1K in percent, if there is one."""
    if name in PUBLISHED_TOP1:
        return PUBLISHED_TOP1[name]
    system, size = split(name)
    figures = PUBLISHED[system].get(size)
    return figures.top1 if figures else None


def counts(name: str) -> tuple[int, int]:
    """Return the parameters and the multiply-adds of a classifier with all heads at 224 x 224."""
    with torch.device("meta"), torch.no_grad():
        model: nn.Module = build(name, "model", CLASSIFIER)
        with FlopCounterMode(display=False) as counter:
            model(torch.zeros(1, 3, *CLASSIFIER))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return parameters, counter.get_total_flops() // 2


def jobs_of(name: str, settings: Sequence[Setting]) -> tuple[list[Job], list[Job]]:
    """Return the jobs of a row: classifier and feature pyramid in each setting."""
    return (
        [Job(name, "model", CLASSIFIER, 1, setting) for setting in settings],
        [Job(name, "backbone", PYRAMID, 1, setting) for setting in settings],
    )


def measure_row(name: str, settings: Sequence[Setting], rounds: int, folder: Path | None) -> Row:
    """Count and measure one model, in turns with the classifier of CARE-S1.

    Args:
        name: The model.
        settings: Runtimes and numbers of threads.
        rounds: Turns of each job.
        folder: As for :func:`care_mm.benchmark.measure.measure`.
    """
    row: Row = {"model": name, "top1": published_top1(name), "figures": {}, "errors": {}}
    try:
        row["parameters"], row["macs"] = counts(name)
    except Exception as error:  # costs the counts, not the row or the table
        row["errors"]["counts"] = f"{type(error).__name__}: {one_line(error)}"
    classifiers, pyramids = jobs_of(name, settings)
    references = [] if name == REFERENCE else jobs_of(REFERENCE, settings)[0]
    results = measure([*classifiers, *pyramids, *references], rounds, folder)
    number = len(settings)
    references = results[2 * number :] or results[:number]
    parts = zip(results[:number], results[number : 2 * number], references, strict=True)
    for setting, (classifier, pyramid, reference) in zip(settings, parts, strict=True):
        key = setting_key(setting)
        row["figures"][key] = _figures(classifier, pyramid, reference)
        for result in (classifier, pyramid):
            if result.error:
                row["errors"][f"{result.job.what} in {key}"] = result.error
    return row


def setting_key(setting: Setting) -> str:
    """Return the name of a setting in the figures of a row: ``openvino, threads 1``."""
    return f"{setting.backend}, threads {setting.threads}"


def _figures(classifier: Result, pyramid: Result, reference: Result) -> dict[str, float]:
    figures = {}
    if not classifier.error:
        figures["ms"] = classifier.milliseconds(0.0)
        if not reference.error:
            figures["ratio"] = classifier.ratio(reference)
    if not pyramid.error:
        figures["pyramid_ms"] = pyramid.milliseconds(0.0)
        figures["peak_mib"] = pyramid.peak_bytes / 2**20
    return figures


def measure_rows(
    names: Sequence[str],
    settings: Sequence[Setting],
    rounds: int,
    folder: Path | None,
    file: Path,
    host: dict[str, object],
) -> Iterator[list[Row]]:
    """Measure the rows that a file lacks or that failed, and yield all rows after each new one.

    Args:
        names: The models, in the order of the rows.
        settings: Runtimes and numbers of threads.
        rounds: Turns of each job.
        folder: As for :func:`care_mm.benchmark.measure.measure`.
        file: JSON with the rows so far. It is written after each row.
        host: The machine, which is written into the file.

    Raises:
        InputError: The file has rows of another machine or of other settings.
    """
    conditions = {
        "cpu": host["cpu"],
        "torch": host["torch"],
        "settings": [setting_key(setting) for setting in settings],
        "rounds": rounds,
    }
    rows: dict[str, Row] = {}
    if file.exists():
        try:
            content = json.loads(file.read_text())
            old, rows = content["conditions"], {row["model"]: row for row in content["rows"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"--out {file}: not a file of this table ({error})") from error
        if old != conditions:
            differing = ", ".join(key for key in conditions if old.get(key) != conditions[key])
            raise InputError(
                f"--out {file}: has rows of a run with another value of {differing}: name another "
                "file, or delete this one"
            )
    for name in tqdm(names, "rows", disable=None):
        if name not in rows or rows[name]["errors"]:
            rows[name] = measure_row(name, settings, rounds, folder)
            content = {"conditions": conditions, "machine": host, "rows": [*rows.values()]}
            write_bytes(json.dumps(content, indent=1).encode(), file)
        yield [rows[other] for other in names if other in rows]


def settings_of(backends: Sequence[str], threads: Sequence[int]) -> list[Setting]:
    """Return the settings of all pairs."""
    return [Setting(b, threads=t) for b, t in itertools.product(backends, threads)]
