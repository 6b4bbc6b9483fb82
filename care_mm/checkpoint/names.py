"""Translate the keys of the authors' classifier to ours and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from care_mm.errors import InputError

StateDict = dict[str, Tensor]

# The authors' names of the layers of a block -> ours.
_BLOCK_NAMES = {
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
}
# The authors' names of all layers -> ours. ``{}`` stands for the number of a stage or a block.
OFFICIAL_NAMES = {
    "stem.0": "backbone.stem.conv",
    "stem.1": "backbone.stem.norm",
    "stages.{}.downsample.0": "backbone.stages.{}.downsample.norm",
    "stages.{}.downsample.1": "backbone.stages.{}.downsample.conv",
    **{
        "stages.{}.blocks.{}." + official: "backbone.stages.{}.blocks.{}." + ours
        for official, ours in _BLOCK_NAMES.items()
    },
    "head.norm": "head.label.norm",
    "head.fc": "head.label.fc",
    "dist_head.norm": "head.distill.norm",
    "dist_head.fc": "head.distill.fc",
}
OUR_NAMES = {ours: official for official, ours in OFFICIAL_NAMES.items()}
_LEAF = re.compile(r"\.(weight|bias|running_mean|running_var|num_batches_tracked)$")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def _rename_key(key: str, table: Mapping[str, str]) -> str | None:
    """Return the key under its other name, or ``None`` if the table does not have it."""
    leaf = _LEAF.search(key)
    name, end = (key[: leaf.start()], leaf[0]) if leaf else (key, "")
    # The number of "stem.0" stays in the template, because no dot follows it.
    template = _NUMBER.sub("{}", name)
    if template not in table:
        return None
    return table[template].format(*_NUMBER.findall(name)) + end


def _rename(state_dict: Mapping[str, Tensor], table: Mapping[str, str], unknown: str) -> StateDict:
    """Rename every key; ``unknown`` completes the error for a key that is not in the table."""
    renamed = {}
    for key, value in state_dict.items():
        new = _rename_key(key, table)
        if new is None:
            raise InputError(f"key {key!r} {unknown}")
        renamed[new] = value
    return renamed


def _most_are_in(table: Mapping[str, str], keys: Iterable[str]) -> bool:
    known = [_rename_key(key, table) is not None for key in keys]
    return 2 * sum(known) > len(known)


def is_official(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether most of the keys are the authors'."""
    return _most_are_in(OFFICIAL_NAMES, state_dict)


def is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether most of the keys are those of our classifier."""
    return _most_are_in(OUR_NAMES, state_dict)


def convert_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename the authors' keys to those of our classifier (``backbone.*``, ``head.*``).

    Raises:
        InputError: The name table does not have a key.
    """
    return _rename(state_dict, OFFICIAL_NAMES, "is not one of the authors' CARE model")


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """Rename the keys of our classifier to the authors': the inverse of :func:`convert_official`.

    Raises:
        InputError: The name table does not have a key.
    """
    return _rename(state_dict, OUR_NAMES, "has no name in the authors' CARE model")


def num_classes_of(state_dict: Mapping[str, Tensor]) -> int:
    """Return the number of classes of the label head under our keys; 1000 if it is damaged."""
    bias = state_dict.get("head.label.fc.bias")
    return len(bias) if bias is not None and bias.ndim == 1 else 1000
