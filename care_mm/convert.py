"""Convert files of the ImageNet classifier from the authors' key names to ours, or back."""

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
from care_mm.errors import InputError, refuse_existing
from care_mm.files import sha256_of, write_bytes
from care_mm.models.arch import ARCHS
from care_mm.models.backbone import CARETransformer
from care_mm.models.head import HeadBranch

# A tensor that every block has; its first dimension is the number of memory channels.
_LOCAL_BRANCH = re.compile(r"backbone\.stages\.(\d+)\.blocks\.(\d+)\.token_mixer\.local3\.weight")


@dataclass(frozen=True)
class Conversion:
    """The result of :func:`convert_file`.

    Attributes:
        arch: Detected size: ``'s0'``, ``'s1'`` or ``'s2'``.
        path: The written file.
        sha256: SHA-256 of the file, as 64 hex digits.
        num_keys: Number of tensors.
        num_parameters: Number of parameters, without the running statistics of the norms.
        num_classes: Number of classes of each head.
        others: Log suffix that names a second set of weights in the source, or empty.
    """

    arch: str
    path: Path
    sha256: str
    num_keys: int
    num_parameters: int
    num_classes: int
    others: str


def _check_target(source: Path, target: Path) -> None:
    """Raise InputError unless ``target`` is a folder, or a new file in an existing folder."""
    if target.is_dir():
        return
    if target.exists() and target.samefile(source):
        raise InputError(f"{target}: is the file to convert, choose another name")
    refuse_existing(target)
    if target.suffix not in (".pth", SAFETENSORS):
        raise InputError(
            f"{target}: is not a folder, and a file name has to end in .pth or {SAFETENSORS}"
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
    """Convert a complete ImageNet classifier from the authors' key names to ours, or back.

    Args:
        source: A file or URL of a classifier, in any form that :func:`state_dict_of` accepts.
        target: A new ``.pth`` or ``.safetensors`` file, or a folder. In a folder, the file is
            named by the size of the model and the first eight digits of its SHA-256.
        arch: Refuse any size but this one.
        ema: As in :func:`state_dict_of`.
        official: Convert from our names to the authors'.

    Raises:
        InputError: The source is damaged, holds code, is not a complete CARE classifier or has the
            requested names already, or the target exists or cannot be written.
    """
    file, target = local_file(source), Path(target).expanduser()
    _check_target(file, target)
    content = read_checkpoint(file)
    state = state_dict_of(content, source, ema)
    try:
        ours, detected = _read_classifier(state, official)
    except InputError as error:
        raise InputError(f"checkpoint {source}: {error}") from error
    if arch is not None and arch != detected:
        raise InputError(f"checkpoint {source}: holds the weights of {detected}, not {arch}")

    # torch.save writes the whole storage behind a view, so write copies.
    new = {k: v.detach().clone() for k, v in (to_official(ours) if official else ours).items()}
    num_classes = num_classes_of(ours)
    meta = dict(
        arch=detected,
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
        target /= f"care_{detected}_{'official' if official else 'in1k'}-{sha256[:8]}{suffix}"
    write_bytes(data, target, overwrite=False)
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    num_parameters = sum(v.numel() for k, v in new.items() if not k.endswith(statistics))
    return Conversion(
        detected, target, sha256, len(new), num_parameters, num_classes, other_weights(content, ema)
    )


def _read_classifier(state: Mapping[str, Tensor], official: bool) -> tuple[StateDict, str]:
    """Return the state dict under our names, and its size.

    Raises:
        InputError: The weights are not a complete CARE classifier, hold NaN or infinity, or have
            the requested names already.
    """
    has_official_names = is_official(state)
    if has_official_names and official:
        raise InputError("has the authors' names already")
    if is_ours(state) and not official:
        raise InputError("has our names already and loads as it is (--to-official converts back)")
    state = convert_official(state) if has_official_names else dict(state)
    arch = detect_arch(state)
    Match(len(state), not_finite=not_finite(state)).refuse("its weights hold NaN or infinity")
    return state, arch


def detect_arch(state_dict: Mapping[str, Tensor]) -> str:
    """Return the size (``'s0'``, ``'s1'`` or ``'s2'``) of a complete classifier.

    The published size with the most similar number and width of blocks is compared with the
    weights, key by key and shape by shape.

    Args:
        state_dict: Weights under our keys or the authors', with both heads, for any number of
            classes.

    Raises:
        InputError: Keys are missing or left over, shapes differ, or it is another model.
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
        f"not the weights of a complete CARE classifier ({arch} is the closest)"
    )
    return arch


def _blocks_of(arch: str) -> set[tuple[int, int, int]]:
    """Return (stage, block, memory channels) of each block."""
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
