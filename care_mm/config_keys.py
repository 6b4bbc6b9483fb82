"""Refuse config keys and command-line options that nothing reads."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TASK_UTILS,
    TRANSFORMS,
    VISBACKENDS,
    VISUALIZERS,
    DefaultScope,
)
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from care_mm.errors import InputError, did_you_mean

# Names that the Runner or our commands read, although no argument of the Runner has them.
_READ_BESIDES = {
    *("runner_type", "model_wrapper_cfg", "find_unused_parameters", "compile", "strategy"),
    *("custom_imports", "tta_model", "tta_pipeline", "classes", "metainfo"),
}
_DEFAULT_HOOKS = {
    *("runtime_info", "timer", "sampler_seed", "logger", "param_scheduler", "checkpoint"),
    *("visualization", "finite", "data", "randomness", "weights", "resume", "interrupt", "drawing"),
}
# Dicts without a type: name -> keys that are read. Any key is read from ``custom_keys``.
_UNTYPED = {
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "mp_cfg": {"mp_start_method", "opencv_num_threads"},
    "auto_scale_lr": {"enable", "base_batch_size"},
    "filter_cfg": {"filter_empty_gt", "min_size"},
    "paramwise_cfg": {
        *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult"),
        *("flat_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate", "force_default_settings"),
        *("layer_decay_rate", "decay_rate", "decay_type", "num_layers"),
    },
}
_OPEN = ("filter_cfg", "paramwise_cfg")  # data sets and constructors of others read more
# Keys that a builder takes out of a dict before it calls the class, by the name of the dict.
_TAKEN_OUT = {
    "optim_wrapper": {"constructor", "optimizer", "paramwise_cfg", "clip_grad"},
    "param_scheduler": {"convert_to_iter_based", "by_epoch", "begin", "end"},
}
_REGISTRIES = (
    *(MODELS, TASK_UTILS, DATASETS, TRANSFORMS, DATA_SAMPLERS, HOOKS, LOOPS, LOG_PROCESSORS),
    *(OPTIMIZERS, OPTIM_WRAPPERS, PARAM_SCHEDULERS, METRICS, EVALUATOR, VISUALIZERS, VISBACKENDS),
)
_LOOPS = {"train_cfg": (EpochBasedTrainLoop, IterBasedTrainLoop)}


def top_level_keys() -> set[str]:
    """Return the names at the top of a config that a run reads."""
    return {*inspect.signature(Runner.__init__).parameters, *_READ_BESIDES} - {"self", "cfg"}


def refuse_unread_options(
    config: Mapping[str, Any], options: Mapping[str, Any], path: str | Path
) -> None:
    """Refuse ``--cfg-options`` without an effect, before they are merged into the config.

    Args:
        config: The config as its file describes it.
        options: Dotted key -> value.
        path: The config file, for the message.

    Raises:
        InputError: Nothing reads the key, the key is a variable that was used up when the file was
            read, or text would replace a number.
    """
    for key, value in options.items():
        parts = key.split(".")
        if parts[0] not in top_level_keys():
            raise InputError(f"--cfg-options {key}: {_variable(config, parts[0], path)}")
        node, depth = _descend(config, parts)
        if depth == len(parts):
            if _is_number(node) and isinstance(value, str):
                raise InputError(f"--cfg-options {key}={value}: is text in place of {node!r}")
            continue
        if depth == 0:  # an argument of the Runner that the config leaves out
            node, depth = {}, 1
        is_new_hook = parts[0] == "default_hooks" and (
            len(parts) <= 2 or f"default_hooks.{parts[1]}.type" in options
        )
        if not isinstance(node, Mapping) or is_new_hook:
            continue  # merging refuses what is wrong
        for end in range(depth, len(parts)):
            _refuse_unread(config, node, parts[: end + 1], key)
            node = {}


def _refuse_unread(
    config: Mapping[str, Any], node: Mapping[str, Any], parts: list[str], key: str
) -> None:
    """Raise InputError if nothing reads the last of the parts from a dict."""
    *place, unknown = parts
    if place[-1] == "custom_keys":
        return
    known, is_complete = _known_keys(config, node, place)
    if unknown not in known and (is_complete or not _is_mentioned(config, unknown)):
        hint = did_you_mean(unknown, known)
        raise InputError(f"--cfg-options {key}: {'.'.join(place)} has no {unknown!r}{hint}")


def refuse_misspelt_names(names: Iterable[str], path: str | Path) -> None:
    """Refuse a config file with a top-level name that is nearly one which a run reads.

    Raises:
        InputError: Such a name, with the name that was probably meant.
    """
    # Variables are called test_pipeline and the like: only the Runner's arguments are compared.
    known = top_level_keys() - _READ_BESIDES
    for name in names:
        swapped = [key for key in known if sorted(key) == sorted(name) and key != name]
        is_variant = name in known or any(name == f"{key}s" for key in known)
        hint = did_you_mean(name, swapped or known, cutoff=0.7 if swapped else 0.9)
        if hint and not is_variant:
            raise InputError(f"config {path}: nothing reads {name!r}{hint}")


def _variable(config: Mapping[str, Any], name: str, path: str | Path) -> str:
    """Return why an option for a top-level name has no effect, with what to set instead."""
    places = [place for place in _places_of(name, config) if place != name]
    hint = f"; did you mean {places[0]}?" if places else did_you_mean(name, top_level_keys())
    if name in config:
        return f"is a variable of {path}, which was used when the file was read{hint}"
    return f"{path} has no {name!r}{hint}"


def _places_of(name: str, node: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted places below ``node`` whose last key is ``name``."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            place = f"{prefix}{key}"
            if key == name:
                yield place
            if prefix or key in top_level_keys():
                yield from _places_of(name, value, f"{place}.")


def _descend(config: Mapping[str, Any], parts: list[str]) -> tuple[Any, int]:
    """Follow a dotted key as far as it exists; return the node and how many parts led there."""
    node: Any = config
    for depth, part in enumerate(parts):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list | tuple) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            return node, depth
    return node, len(parts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _known_keys(
    config: Mapping[str, Any], node: Mapping[str, Any], parts: list[str]
) -> tuple[set[str], bool]:
    """Return the keys that are read from a dict, and whether these are all."""
    names = [part for part in parts if not part.isdigit()]
    name, present = names[-1], {str(key) for key in node}
    if name in _UNTYPED and "type" not in node:
        return _UNTYPED[name] | present, name not in _OPEN
    if names == ["default_hooks"]:
        return _DEFAULT_HOOKS | present, True
    if len(parts) == 1 and name.endswith("_dataloader"):
        keys, _ = _parameters(DataLoader)
        return keys | present | {"sampler", "num_batch_per_epoch"}, True
    if len(parts) == 1 and name in _LOOPS and "type" not in node:
        loops = set().union(*(_parameters(loop)[0] for loop in _LOOPS[name]))
        return loops | present | {"type", "by_epoch"}, True
    found = _classes(config, node.get("type"))
    if not found:
        return present, False
    keys, complete = {"type", "_scope_", "priority"} | _TAKEN_OUT.get(name, set()), True
    for cls in found:
        parameters, is_complete = _parameters(cls)
        keys |= parameters
        complete = complete and is_complete
    return keys | present, complete


def _classes(config: Mapping[str, Any], kind: Any) -> list[Callable]:
    """Return the classes that a ``type`` may mean, from every registry that has the name."""
    if not isinstance(kind, str):
        return [kind] if callable(kind) else []
    classes = []
    scope = config.get("default_scope") or "mmengine"
    with DefaultScope.overwrite_default_scope(scope):
        for registry in _REGISTRIES:
            with registry.switch_scope_and_registry(None) as current:
                cls = current.get(kind)
            if cls is not None and cls not in classes:
                classes.append(cls)
    return classes


def _parameters(cls: Callable) -> tuple[set[str], bool]:
    """Return the arguments of a class or function, and whether these are all.

    A constructor with ``**kwargs`` hands them on to the next class in the order of inheritance.
    """
    calls = [vars(base).get("__init__") for base in cls.__mro__] if inspect.isclass(cls) else [cls]
    names: set[str] = set()
    for call in filter(None, calls):
        parameters = inspect.signature(call).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return names - {"self"}, True
    return names - {"self"}, False


def _is_mentioned(config: Mapping[str, Any], key: str) -> bool:
    """Whether the source of a package that the config uses has the key as a word."""
    imports = (config.get("custom_imports") or {}).get("imports") or []
    packages = {"mmengine", "care_mm", str(config.get("default_scope")), "mmcv"}
    packages |= {
        name.split(".")[0] for name in ([imports] if isinstance(imports, str) else imports)
    }
    word = re.compile(rf"\b{re.escape(key)}\b")
    return any(word.search(text) for package in sorted(packages) for text in _sources(package))


@cache
def _sources(package: str) -> tuple[str, ...]:
    """Return the text of every Python file of a package or module."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return ()
    origin = Path(spec.origin)
    files = origin.parent.rglob("*.py") if origin.name == "__init__.py" else [origin]
    return tuple(file.read_text(encoding="utf-8", errors="replace") for file in files)
