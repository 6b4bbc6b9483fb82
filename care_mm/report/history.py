"""What a work dir tells about its run: settings, curves, times; also of one that was resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from mmengine.config import Config

from care_mm.errors import InputError

Curve = list[tuple[int, float]]  # steps, increasing, and values
# Of several metrics the first one here is the one that matters, unless the config says.
MAIN_METRICS = ("coco/bbox_mAP", "coco/segm_mAP", "mIoU", "accuracy/top1", "pascal_voc/mAP")
NOT_METRICS = ("time", "data_time", "step", "epoch", "iter")
LOG_TIME = "%Y/%m/%d %H:%M:%S"  # mmengine's


@dataclass
class Run:
    """One training, over all its resumptions.

    Attributes:
        work_dir: Where it was read from.
        config: Of the last resumption.
        origin: Of the first start, which says what weights the run began with.
        train: By name, what was logged while training; steps are iterations.
        val: By name, the metrics of the validations; steps are epochs or iterations.
        by_epoch: Which of them.
        environment: Versions and devices, as the log names them.
        started, ended: By the log.
        busy: Time in training, without that between an interruption and its resumption.
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
        """What the steps of the validations count."""
        return "epoch" if self.by_epoch else "iteration"

    @property
    def main_metric(self) -> str | None:
        """The metric by which checkpoints are compared."""
        hook = (self.config.get("default_hooks") or {}).get("checkpoint") or {}
        wanted = hook.get("save_best")
        wanted = [wanted] if isinstance(wanted, str) else list(wanted or ())
        names = [name for name in (*wanted, *MAIN_METRICS) if name in self.val]
        return (names or list(self.val) or [None])[0]

    def best(self, name: str) -> tuple[int, float]:
        """The step and value where a metric was best; the first one of equals."""
        less = "loss" in name
        return min(self.val[name], key=lambda point: point[1] if less else -point[1])

    def checkpoint(self, step: int) -> Path | None:
        """The file with the weights of a step, if it was kept."""
        kind = "epoch" if self.by_epoch else "iter"
        best = sorted(self.work_dir.glob(f"best_*_{kind}_{step}.pth"))
        files = [*best, self.work_dir / f"{kind}_{step}.pth"]
        return next((file for file in files if file.is_file()), None)


def read_run(work_dir: str | Path) -> Run:
    """Read a work dir that mmengine's ``LocalVisBackend`` has written to.

    Raises:
        InputError: There is none, or nothing was trained there.
    """
    work_dir = Path(work_dir)
    lives = sorted(file.parents[1] for file in work_dir.glob("*/vis_data/scalars.json"))
    if not lives:
        reason = "no such folder" if not work_dir.is_dir() else "holds no run: no */vis_data/"
        raise InputError(
            f"work dir {work_dir}: {reason}{'' if not work_dir.is_dir() else 'scalars.json'}"
        )
    run = Run(work_dir, _config_of(work_dir, lives[::-1]), _config_of(work_dir, lives))
    loop = run.config.get("train_cfg") or {}
    run.by_epoch = bool(loop.get("by_epoch", "Iter" not in str(loop.get("type", "Epoch"))))
    for life in lives:
        entries = list(_entries(life / "vis_data" / "scalars.json"))
        _continue(run.train, [entry for entry in entries if "iter" in entry])
        _continue(run.val, [entry for entry in entries if "iter" not in entry])
        _read_log(run, life)
    if not run.train:
        raise InputError(f"work dir {work_dir}: nothing was logged of a training")
    return run


def _config_of(work_dir: Path, lives: Sequence[Path]) -> Config:
    """The first one that is there."""
    for life in lives:
        file = life / "vis_data" / "config.py"
        if file.is_file():
            try:
                return Config.fromfile(file)
            except Exception as error:
                raise InputError(f"config {file}: {' '.join(str(error).split())}") from error
    raise InputError(f"work dir {work_dir}: holds no */vis_data/config.py")


def _entries(file: Path) -> Iterator[dict]:
    """The lines of the file but for one that a kill cut off."""
    for line in file.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            yield entry


def _continue(curves: dict[str, Curve], entries: Sequence[Mapping]) -> None:
    """Append; what a resumed run does again replaces what the first one did."""
    if not entries:
        return
    first = entries[0]["step"]
    for name, curve in curves.items():
        curves[name] = [point for point in curve if point[0] < first]
    for entry in entries:
        for name, value in entry.items():
            absent = value == -1  # COCO's: there are no such objects
            if name not in NOT_METRICS and isinstance(value, int | float) and not absent:
                curves.setdefault(name, []).append((int(entry["step"]), float(value)))


def _read_log(run: Run, life: Path) -> None:
    """Times, and the environment that mmengine logs at the start."""
    times = []
    for file in sorted(life.glob("*.log")):
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


ENVIRONMENT = ("Python", "PyTorch", "TorchVision", "MMEngine", "GPU number", "seed", "sys.platform")
