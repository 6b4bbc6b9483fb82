"""Conversion of files: the authors' ImageNet classifier under our names, or ours under theirs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from care_mm.checkpoint.matching import Match, not_finite
from care_mm.checkpoint.names import (
    StateDict,
    convert_official,
    is_official,
    is_ours,
    num_classes_of,
    to_official,
)
from care_mm.checkpoint.reading import local_file, other_weights, read_checkpoint, state_dict_of
from care_mm.checkpoint.writing import SAFETENSORS, serialise
from care_mm.environment import __version__
from care_mm.errors import InputError
from care_mm.files import sha256_of, write_bytes
from care_mm.models.arch import ARCHS
from care_mm.models.backbone import CARETransformer
from care_mm.models.head import HeadBranch

# A tensor that every block has; its length is the width of the block's memory.
_LOCAL_BRANCH = re.compile(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.token_mixer\.local3\.weight")


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert_file` did.

    Args:
        arch: The size that was found.
        path: The file written.
        sha256: Of that file, 64 hex digits.
        num_keys: Tensors in it.
        num_parameters: Their numbers without the norms' running statistics.
        num_classes: Of each head.
        others: Names a second set of weights in the source; empty when there is none.
    """

    arch: str
    path: Path
    sha256: str
    num_keys: int
    num_parameters: int
    num_classes: int
    others: str


def _check_target(source: Path, target: Path) -> None:
    """Raises InputError unless ``target`` is a folder, or a new file in one."""
    if target.is_dir():
        return
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: is the file to convert, choose another name")
    if target.exists():
        raise InputError(f"{target}: exists already, choose another name")
    if target.suffix not in (".pth", SAFETENSORS):
        raise InputError(
            f"{target}: is no folder, and the name of a file has to end in .pth or {SAFETENSORS}"
        )
    if not target.parent.is_dir():
        raise InputError(f"{target}: the folder {target.parent} does not exist")


def convert_file(
    source: str | Path,
    target: str | Path,
    arch: str | None = None,
    ema: bool = False,
    official: bool = False,
) -> Conversion:
    """Convert the authors' ImageNet classifier to our names, or ours to theirs.

    Args:
        source: A file or URL of one of them, in any form that :func:`state_dict_of` takes.
        target: A new ``.pth`` or ``.safetensors`` file, or a folder, in which the file gets a name
            with its size and the first eight digits of its SHA-256.
        arch: Refuse another size than this.
        ema: As in :func:`state_dict_of`.
        official: From our names to the authors'.

    Raises:
        InputError: A source that is damaged, holds code, is not the weights of a whole CARE
            classifier or has them in the wanted form already; a target that exists or cannot be
            written.
    """
    file, target = local_file(source), Path(target).expanduser()
    _check_target(file, target)
    content = read_checkpoint(file)
    state = state_dict_of(content, source, ema)
    try:
        ours, found = _named_and_sized(state, official)
    except InputError as error:
        raise InputError(f"checkpoint {source}: {error}") from error
    if arch is not None and arch != found:
        raise InputError(f"checkpoint {source}: holds the weights of {found}, not {arch}")

    # Copies: a tensor that is a view would bring along all that it views.
    new = {k: v.detach().clone() for k, v in (to_official(ours) if official else ours).items()}
    num_classes = num_classes_of(ours)
    meta = dict(
        arch=found,
        source=file.name,
        source_sha256=sha256_of(file),
        num_keys=len(new),
        num_classes=num_classes,
        care_mm_version=__version__,
    )
    suffix = ".pth" if target.is_dir() else target.suffix
    data = serialise(dict(state_dict=new, meta=meta), suffix)
    sha256 = hashlib.sha256(data).hexdigest()
    if target.is_dir():
        target /= f"care_{found}_{'official' if official else 'in1k'}-{sha256[:8]}{suffix}"
    write_bytes(data, target, overwrite=False)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    num_parameters = sum(v.numel() for k, v in new.items() if not k.endswith(statistics))
    return Conversion(
        found, target, sha256, len(new), num_parameters, num_classes, other_weights(content, ema)
    )


def _named_and_sized(state: Mapping[str, Tensor], official: bool) -> tuple[StateDict, str]:
    """The state dict to convert under our names, and its size.

    Raises:
        InputError: Not a whole CARE classifier, one with NaN in it, or nothing to convert.
    """
    theirs = is_official(state)
    if theirs and official:
        raise InputError("has the authors' names already")
    if is_ours(state) and not official:
        raise InputError("has our names already and loads as it is (--to-official gives theirs)")
    state = convert_official(state) if theirs else dict(state)
    arch = detect_arch(state)
    Match(len(state), not_finite=not_finite(state)).refuse("its weights hold NaN or infinity")
    return state, arch


def detect_arch(state_dict: Mapping[str, Tensor]) -> str:
    """Return the size (``'s0'``, ``'s1'`` or ``'s2'``) of a complete classifier.

    The number and width of the blocks tell the size; all keys and shapes are then compared with
    the published model of that size.

    Args:
        state_dict: Under our keys or the authors', with both heads, for any number of classes.

    Raises:
        InputError: Keys left over or missing, other shapes, or another model altogether.
    """
    if is_official(state_dict):
        state_dict = convert_official(state_dict)
    blocks = {
        (int(match[1]), int(match[2]), len(value))
        for key, value in state_dict.items()
        if (match := _LOCAL_BRANCH.fullmatch(key)) and value.ndim
    }
    if not blocks:
        raise InputError(f"not the weights of a CARE classifier (keys: {list(state_dict)[:3]})")
    arch = min(ARCHS, key=lambda name: len(_blocks_of(name) ^ blocks))
    Match.compare(_classifier_layout(arch, num_classes_of(state_dict)), state_dict).refuse(
        f"not the weights of a whole CARE classifier, of which {arch} is the closest"
    )
    return arch


def _blocks_of(arch: str) -> set[tuple[int, int, int]]:
    """Return (stage, block, width of the memory) of each block."""
    stages = enumerate(zip(ARCHS[arch].depths, ARCHS[arch].mem_dims, strict=True))
    return {(stage, block, dim) for stage, (depth, dim) in stages for block in range(depth)}


@cache
def _classifier_layout(arch: str, num_classes: int) -> StateDict:
    """Return the keys and shapes of the published classifier, as meta tensors under our names."""
    with torch.device("meta"):
        backbone = CARETransformer(arch)
        head = HeadBranch(backbone.out_channels[-1], num_classes)
    layout = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    for name in ("label", "distill"):
        layout |= {f"head.{name}.{key}": value for key, value in head.state_dict().items()}
    return layout
