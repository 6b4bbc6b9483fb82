"""The most important settings of a run, from its config and logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from care_mm.config import find, is_pretrained, type_name
from care_mm.report.history import Run


def settings(run: Run) -> list[tuple[str, str]]:
    """Return names and values, without those that the config does not have."""
    config = run.config
    rows = [
        ("model", _model(config)),
        ("backbone", _backbone(config)),
        ("starts from", _weights(run.origin)),
        *(
            (f"{split} data", _data(config.get(f"{split}_dataloader") or {}))
            for split in ("train", "val")
        ),
        ("batch", _batch(run)),
        ("length", _length(run)),
        ("optimizer", _optimizer(config)),
        ("schedule", _schedule(config)),
        ("seed", run.environment.get("seed", "")),
        ("software", ", ".join(_software(run.environment))),
        ("device", _device(run.environment)),
        ("work dir", str(run.work_dir)),
    ]
    return [(name, value) for name, value in rows if value]


def _model(config: Config) -> str:
    model = config.get("model") or {}
    parts = [type_name(part) for part in (model, model.get("neck"), model.get("decode_head"))]
    return ", ".join(part for part in parts if part)


def _backbone(config: Config) -> str:
    backbone = (config.get("model") or {}).get("backbone") or {}
    rest = {k: v for k, v in backbone.items() if k not in ("type", "init_cfg")}
    return " ".join([type_name(backbone), *_pairs(rest)]).strip()


def _weights(config: Config) -> str:
    if config.get("load_from"):
        return str(config.load_from)
    files = [node["checkpoint"] for node in find(config.get("model") or {}, is_pretrained)]
    return ", ".join(map(str, files)) or "random weights"


def _data(loader: Mapping) -> str:
    """Return root and annotations or images of the first data set that names any."""
    for dataset in find(loader.get("dataset") or {}, lambda node: "type" in node):
        prefix = dataset.get("data_prefix") or {}
        folders = prefix.values() if isinstance(prefix, Mapping) else [prefix]
        names = [dataset.get("data_root"), dataset.get("ann_file") or next(iter(folders), None)]
        path = "/".join(str(name).rstrip("/") for name in names if name)
        if path:
            return path
    return ""


def _batch(run: Run) -> str:
    batch = (run.config.get("train_dataloader") or {}).get("batch_size")
    processes = run.environment.get("GPU number", "1")
    return f"{batch}" if processes == "1" or not batch else f"{batch} on each of {processes}"


def _length(run: Run) -> str:
    loop = run.config.get("train_cfg") or {}
    for key, unit in (("max_epochs", "epochs"), ("max_iters", "iterations")):
        if loop.get(key):
            return f"{loop[key]} {unit}"
    return ""


def _optimizer(config: Config) -> str:
    wrapper = config.get("optim_wrapper") or {}
    optimizer = dict(wrapper.get("optimizer") or {})
    parts = [type_name(optimizer)]
    parts += _pairs({key: value for key, value in optimizer.items() if key != "type"})
    if wrapper.get("clip_grad"):
        parts.append("clip " + " ".join(_pairs(wrapper["clip_grad"])))
    if wrapper.get("accumulative_counts", 1) > 1:
        parts.append(f"accumulated over {wrapper['accumulative_counts']}")
    if type_name(wrapper).startswith("Amp"):
        parts.append("mixed precision")
    return ", ".join(part for part in parts if part)


def _schedule(config: Config) -> str:
    schedule = config.get("param_scheduler") or []
    parts = schedule if isinstance(schedule, list | tuple) else [schedule]
    return ", ".join(type_name(part) for part in parts)


def _software(environment: Mapping[str, str]) -> Iterator[str]:
    for name in ("Python", "PyTorch", "MMEngine"):
        if name in environment:
            yield f"{name} {environment[name].split(' ')[0]}"


def _device(environment: Mapping[str, str]) -> str:
    devices = [value for name, value in environment.items() if name.startswith("GPU ")]
    devices = [value for value in devices if not value.isdigit()]  # "GPU number" counts processes
    return ", ".join(devices) or ("CPU" if environment else "")


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in values.items()
    ]
