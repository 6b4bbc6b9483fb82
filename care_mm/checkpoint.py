"""Checkpoints: safe reading, the authors' names and ours, and loading that says what matched."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor, nn

from care_mm.errors import InputError

if TYPE_CHECKING:
    from care_mm.models.backbone import CARETransformer

StateDict = dict[str, Tensor]
URL_SCHEMES = ("http://", "https://")

# The authors' name of a module (below its stage or block) -> ours.
OFFICIAL_NAMES = {
    "stem.0": "backbone.stem.conv",
    "stem.1": "backbone.stem.norm",
    "downsample.0": "downsample.norm",
    "downsample.1": "downsample.conv",
    "gamma": "gamma",
    "token_mixer.dwconvatt_1": "token_mixer.global_branch.vertical",
    "token_mixer.dwconvatt_2": "token_mixer.global_branch.horizontal",
    "token_mixer.qk": "token_mixer.global_branch.qk",
    "token_mixer.dwconv1": "token_mixer.local3",
    "token_mixer.dwconv2": "token_mixer.local7",
    "inter_layer.inter1_norm": "inter1.norm",
    "inter_layer.inter1_fc1": "inter1.fc1",
    "inter_layer.inter1_conv": "inter1.dwconv",
    "inter_layer.inter1_fc2": "inter1.fc2",
    "inter_layer.inter2_norm": "inter2.norm",
    "inter_layer.inter2_fc1": "inter2.fc1",
    "inter_layer.inter2_conv": "inter2.dwconv",
    "inter_layer.inter2_fc2": "inter2.fc2",
    "head.norm": "head.label.norm",
    "head.fc": "head.label.fc",
    "dist_head.norm": "head.distill.norm",
    "dist_head.fc": "head.distill.fc",
}
_OFFICIAL_KEY = re.compile(
    r"(?P<place>stages\.\d+\.(?:blocks\.\d+\.)?)?"
    rf"(?P<name>{'|'.join(re.escape(name) for name in OFFICIAL_NAMES)})"
    r"(?P<leaf>\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?"
)


def is_official(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are the authors'."""
    return "stem.0.weight" in state_dict and any(".inter_layer." in key for key in state_dict)


def convert_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """The authors' state dict under the keys of our classifier (``backbone.*``, ``head.*``).

    Raises:
        InputError: A key that the name table does not know.
    """
    converted = {}
    for key, value in state_dict.items():
        match = _OFFICIAL_KEY.fullmatch(key)
        if match is None:
            raise InputError(f"key {key!r} is not one of the authors' CARE model")
        place, name, leaf = (match[group] or "" for group in ("place", "name", "leaf"))
        prefix = f"backbone.{place}" if place else ""
        converted[prefix + OFFICIAL_NAMES[name] + leaf] = value
    return converted


def _history_buffer_method(owner: type, name: str) -> object:
    """What mmengine's log buffers need of ``getattr``, and nothing more."""
    if owner is HistoryBuffer and name in ("min", "max", "current", "mean"):
        return getattr(owner, name)
    raise UnpicklingError(f"getattr({owner!r}, {name!r}) is not allowed in a checkpoint")


def _allowed_globals() -> list:
    """Harmless classes that mmengine's and timm's checkpoints hold beside tensors."""
    multiarray = np._core.multiarray if hasattr(np, "_core") else np.core.multiarray
    dtypes = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    return [
        argparse.Namespace,
        HistoryBuffer,
        slice,
        np.ndarray,
        np.dtype,
        *sorted(dtypes, key=lambda dtype: dtype.__name__),
        multiarray._reconstruct,
        multiarray.scalar,
        *(
            (multiarray._reconstruct, f"numpy.{m}.multiarray._reconstruct")
            for m in ("core", "_core")
        ),
        *((multiarray.scalar, f"numpy.{m}.multiarray.scalar") for m in ("core", "_core")),
        (_history_buffer_method, "builtins.getattr"),
        (_history_buffer_method, "__builtin__.getattr"),
    ]


def _reason(error: Exception) -> str:
    """The error in one line, without torch's advice to read the file unsafely."""
    if isinstance(error.__context__, UnpicklingError):
        error = error.__context__
    lines = str(error).strip().splitlines()
    return (
        re.split(r" (?:Please use|In PyTorch 2\.6)", lines[0])[0] if lines else type(error).__name__
    )


def _local_path(checkpoint: str) -> Path:
    """The file itself, or where torch's hub cache keeps the download of a URL."""
    if not checkpoint.startswith(URL_SCHEMES):
        return Path(checkpoint).expanduser()
    path = Path(torch.hub.get_dir()) / "checkpoints" / checkpoint.rsplit("/", 1)[-1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(checkpoint, str(path))
    return path


def read_checkpoint(path: str | Path, map_location: str | None = "cpu") -> dict:
    """Read a checkpoint without running any code that it may hold.

    ``.safetensors``, or whatever ``torch.save`` wrote, read with ``weights_only=True`` and a
    narrow allow-list. There is no fallback.

    Args:
        path: A file, or the URL of one, which is downloaded once.
        map_location: As in ``torch.load``.

    Raises:
        InputError: The file is missing, is no checkpoint, or holds something that is not allowed.
    """
    try:
        path = _local_path(str(path))
    except OSError as error:
        raise InputError(f"checkpoint {path}: could not be downloaded ({error})") from error
    if not path.is_file():
        raise InputError(f"checkpoint {path}: no such file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return {"state_dict": load_file(path, device=str(map_location or "cpu"))}
        if digit_version(torch.__version__) >= digit_version("2.6"):
            with torch.serialization.safe_globals(_allowed_globals()):
                content = torch.load(path, map_location=map_location, weights_only=True)
        else:  # older ones take no (object, name) pairs: their own list only
            content = torch.load(path, map_location=map_location, weights_only=True)
    except ImportError:
        raise InputError(f"checkpoint {path}: reading it needs `pip install safetensors`") from None
    except Exception as error:
        raise InputError(
            f"checkpoint {path}: refused, it is damaged or holds more than weights "
            f"({_reason(error)})"
        ) from error
    if not isinstance(content, Mapping):
        raise InputError(f"checkpoint {path}: holds a {type(content).__name__}, not weights")
    return content


def state_dict_of(content: Mapping, path: str | Path) -> StateDict:
    """The weights in a checkpoint: nested or bare, without DataParallel's ``module.``.

    Raises:
        InputError: There are none.
    """
    for key in ("state_dict", "model", "state_dict_ema"):
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    tensors = {str(k).removeprefix("module."): v for k, v in content.items() if torch.is_tensor(v)}
    if not tensors:
        raise InputError(f"checkpoint {path}: no weights in it (keys: {list(content)[:5]})")
    return tensors


def load_pretrained(backbone: CARETransformer, checkpoint: str, prefix: str | None = None) -> None:
    """Load a checkpoint of ours or the authors' into a backbone, and log how much matched.

    Tensors of stages that the backbone does not have, of heads, and those in
    ``backbone.fresh_keys`` need no partner; everything else does.

    Args:
        backbone: Loaded in place; untouched when the file is refused.
        checkpoint: A path or a URL.
        prefix: Where the backbone is in the file; found out when not given.

    Raises:
        InputError: Missing or unreadable file, or one that does not cover the backbone.
    """
    state = state_dict_of(read_checkpoint(checkpoint), checkpoint)
    if is_official(state):
        state = convert_official(state)
    if prefix is None and any(key.startswith("backbone.") for key in state):
        prefix = "backbone."
    if prefix:
        prefix = prefix.rstrip(".") + "."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    expected = backbone.state_dict()
    missing = [k for k in expected if k not in state and k not in backbone.fresh_keys]
    shared = [k for k in expected if k in state]
    problems = {
        "missing": missing,
        "of another shape": [k for k in shared if state[k].shape != expected[k].shape],
        "not finite": [k for k in shared if not torch.isfinite(state[k]).all()],
        "left over": list(_left_over(backbone, state)),
    }
    refuse_misfits(
        f"checkpoint {checkpoint} does not fit this backbone (of another arch, or only one of the "
        "two is deployed?)",
        len(expected),
        problems,
    )
    backbone.load_state_dict({k: state[k] for k in shared}, strict=False)
    fresh = len(expected) - len(shared)
    print_log(
        f"CARETransformer: {len(shared)} of {len(expected)} tensors loaded from {checkpoint}"
        + (f", {fresh} start fresh" if fresh else ""),
        logger="current",
    )


def refuse_misfits(message: str, total: int, problems: Mapping[str, list[str]]) -> None:
    """Raise InputError with the first kind of problem that has any keys."""
    for what, keys in problems.items():
        if keys:
            raise InputError(
                f"{message}: {len(keys)} tensors {what} (the model has {total}), "
                f"the first is {keys[0]!r}"
            )


def _left_over(backbone: CARETransformer, state: Mapping[str, Tensor]) -> Iterator[str]:
    """Keys in the parts that the backbone has, which it has no use for."""
    expected = backbone.state_dict()
    num_stages = len(backbone.stages)
    last_block = f"stages.{num_stages - 1}.blocks.{len(backbone.stages[-1].blocks) - 1}."
    for key in state:
        stage = re.match(r"stages\.(\d+)\.", key)
        of_ours = key.startswith("stem.") or (stage and int(stage[1]) < num_stages)
        # A file made with expand_last=False has a projection that the published form leaves out.
        dropped = key.startswith((last_block + "inter2.fc2.", last_block + "gamma"))
        if of_ours and key not in expected and not dropped:
            yield key


@contextmanager
def safe_loading() -> Iterator[None]:
    """Within this context mmengine reads checkpoints (load_from, resume) with
    :func:`read_checkpoint`, in place of a loader that falls back to running pickled code.
    """
    schemes = dict(CheckpointLoader._schemes)
    CheckpointLoader.register_scheme(["", *URL_SCHEMES], read_checkpoint, force=True)
    try:
        yield
    finally:
        CheckpointLoader._schemes.clear()
        CheckpointLoader._schemes.update(schemes)


def load_model(model: nn.Module, path: str | Path, name: str = "the config's model") -> dict:
    """Load a whole model from a checkpoint that training wrote; every tensor has to match.

    Args:
        model: Loaded in place.
        path: A file or URL.
        name: What an error calls the model.

    Returns:
        The checkpoint's ``meta`` (classes, config, iteration), empty when it has none.

    Raises:
        InputError: Missing or unreadable file, or one that does not fit the model.
    """
    content = read_checkpoint(path)
    state = state_dict_of(content, path)
    expected = model.state_dict()
    refuse_misfits(
        f"checkpoint {path} does not fit {name}",
        len(expected),
        {
            "missing": [k for k in expected if k not in state],
            "left over": [k for k in state if k not in expected],
            "of another shape": [
                k for k in expected if k in state and state[k].shape != expected[k].shape
            ],
        },
    )
    model.load_state_dict(state)
    return content.get("meta") or {}
