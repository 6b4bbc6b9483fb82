"""Read the history of a run from its work dir: config, curves and times, over all resumptions."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from importlib import import_module
from math import isfinite
from pathlib import Path

from mmengine.config import Config

from care_mm.config import find, type_name
from care_mm.errors import InputError, one_line

Curve = list[tuple[int, float]]  # steps, increasing, and values
# Metrics to compare checkpoints by, in order of preference, unless the config names one.
MAIN_METRICS = ("coco/bbox_mAP", "coco/segm_mAP", "mIoU", "accuracy/top1", "pascal_voc/mAP")
NOT_METRICS = ("time", "data_time", "step", "epoch", "iter")
ENVIRONMENT = ("Python", "PyTorch", "TorchVision", "MMEngine", "GPU number", "seed", "sys.platform")
LOG_TIME = "%Y/%m/%d %H:%M:%S"  # mmengine's
ABSENT = -1  # COCO's value of a metric for which there are no objects


@dataclass
class Run:
    """One training run, over all its resumptions.

    Attributes:
        work_dir: The folder it was read from.
        config: The config of the last resumption.
        origin: The config of the first start, which names the initial weights.
        train: Curves logged while training, by name; steps are iterations.
        val: Curves of the validation metrics, by name; steps are epochs or iterations.
        by_epoch: Whether the steps of ``val`` are epochs.
        environment: Versions and devices, as logged by mmengine.
        started, ended: First and last time in the logs.
        busy: Time in training, without the time between an interruption and its resumption.
    """

    work_dir: Path
    config: Config
    origin: Config
    train: dict[str, Curve] = field(default_factory=dict)
    val: dict[str, Curve] = field(default_factory=dict)
    by_epoch: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None
    busy: timedelta = timedelta()

    @property
    def unit(self) -> str:
        """The unit of the validation steps."""
        return "epoch" if self.by_epoch else "iteration"

    @property
    def main_metric(self) -> str | None:
        """The metric by which checkpoints are compared."""
        return main_metric(self.config, self.val)

    def best(self, name: str) -> tuple[int, float]:
        """Return the step and value at which a metric was best; the first of equal ones."""
        sign = 1 if "loss" in name else -1
        finite = [point for point in self.val[name] if isfinite(point[1])]
        return min(finite or self.val[name], key=lambda point: sign * point[1])

    def checkpoint(self, step: int) -> Path | None:
        """Return the file with the weights of a step, if it was kept."""
        kind = "epoch" if self.by_epoch else "iter"
        best = sorted(self.work_dir.glob(f"best_*_{kind}_{step}.pth"))
        files = [*best, self.work_dir / f"{kind}_{step}.pth"]
        return next((file for file in files if file.is_file()), None)


def main_metric(config: Config, metrics: Iterable[str]) -> str | None:
    """Return the metric by which checkpoints are compared: ``save_best`` or a usual one."""
    metrics = list(metrics)
    hook = (config.get("default_hooks") or {}).get("checkpoint") or {}
    wanted = hook.get("save_best") or ()
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return next((name for name in (*wanted, *MAIN_METRICS, *metrics) if name in metrics), None)


def is_by_size(metric: str) -> bool:
    """Whether the metric is COCO's for small, medium or large objects only."""
    return metric.endswith(("_s", "_m", "_l"))


def read_run(work_dir: str | Path) -> Run:
    """Read a work dir that mmengine's ``LocalVisBackend`` has written to.

    Raises:
        InputError: The folder does not exist, or no training was logged in it.
    """
    work_dir = Path(work_dir)
    if not work_dir.is_dir():
        raise InputError(f"work dir {work_dir}: no such folder")
    # One folder per start or resumption, named by its time.
    sessions = sorted(file.parents[1] for file in work_dir.glob("*/vis_data/scalars.json"))
    if not sessions:
        raise InputError(f"work dir {work_dir}: holds no run: no */vis_data/scalars.json")
    run = Run(work_dir, _first_config(work_dir, sessions[::-1]), _first_config(work_dir, sessions))
    loop = run.config.get("train_cfg") or {}
    run.by_epoch = bool(loop.get("by_epoch", "Iter" not in type_name(loop)))
    for session in sessions:
        entries = list(_entries(session / "vis_data" / "scalars.json"))
        _extend(run.train, [entry for entry in entries if "iter" in entry])
        _extend(run.val, [entry for entry in entries if "iter" not in entry])
        _read_log(run, session)
    if not run.train:
        raise InputError(f"work dir {work_dir}: no training was logged")
    return run


def _first_config(work_dir: Path, sessions: Sequence[Path]) -> Config:
    """Return the config of the first session that has one."""
    for session in sessions:
        file = session / "vis_data" / "config.py"
        if file.is_file():
            try:
                return _read_config(file)
            except Exception as error:
                raise InputError(f"config {file}: {one_line(error)}") from error
    raise InputError(f"work dir {work_dir}: holds no */vis_data/config.py")


class _Quoted(ast.NodeTransformer):
    """Replace each dotted name by a text."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.Constant:
        """Return the name as a text."""
        return ast.Constant(ast.unparse(node))


def _read_config(file: Path) -> Config:
    """Read a config that mmengine has dumped.

    mmengine writes a class as ``type=mmdet.models.FPN``, a name that it does not import. Its own
    way from such a name to the class fails where a function hides the module of the same name.
    """
    try:
        config = Config.fromfile(file)
    except NameError:
        text = ast.unparse(_Quoted().visit(ast.parse(file.read_text())))
        config = Config(Config.fromstring(text, ".py").to_dict(), filename=str(file))
    for node in find(dict(config.items()), lambda node: isinstance(node.get("type"), str)):
        module, _, name = node.type.rpartition(".")
        if module:
            with suppress(ImportError, AttributeError):  # a scope, as in mmdet.FPN
                node.type = getattr(import_module(module), name)
    return config


def _entries(file: Path) -> Iterator[dict]:
    """Yield the entries of the file, without a line that a kill cut off."""
    for line in file.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            yield entry


def _extend(curves: dict[str, Curve], entries: Sequence[Mapping]) -> None:
    """Append entries; steps that a resumed run repeats replace those of the interrupted one."""
    if not entries:
        return
    first = entries[0]["step"]
    for name, curve in curves.items():
        curves[name] = [point for point in curve if point[0] < first]
    for entry in entries:
        for name, value in entry.items():
            if name not in NOT_METRICS and isinstance(value, int | float) and value != ABSENT:
                curves.setdefault(name, []).append((int(entry["step"]), float(value)))


def _read_log(run: Run, session: Path) -> None:
    """Read times, and the environment that mmengine logs at the start."""
    times = []
    for file in sorted(session.glob("*.log")):
        for line in file.read_text(errors="replace").splitlines():
            try:
                times.append(datetime.strptime(line[:19], LOG_TIME))
            except ValueError:
                name, separator, value = line.strip().partition(": ")
                wanted = name in ENVIRONMENT or name.startswith("GPU ")
                if separator and wanted and len(times) <= 1:
                    run.environment[name] = value
    if times:
        run.started = run.started or times[0]
        run.ended = times[-1]
        run.busy += times[-1] - times[0]
