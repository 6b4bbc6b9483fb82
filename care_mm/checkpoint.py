"""Checkpoints: the authors' names and ours, sizes by shapes, loading that says what matched."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from care_mm.errors import InputError
from care_mm.loading import StateDict, other_weights, read_checkpoint, state_dict_of
from care_mm.models.arch import ARCHS

if TYPE_CHECKING:
    from care_mm.models.backbone import CARETransformer

# Names

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
OUR_NAMES = {ours: official for official, ours in OFFICIAL_NAMES.items()}


def _keys_of(names: Iterable[str], stages: str) -> re.Pattern:
    return re.compile(
        rf"(?P<place>{re.escape(stages)}\.\d+\.(?:blocks\.\d+\.)?)?"
        rf"(?P<name>{'|'.join(map(re.escape, names))})"
        r"(?P<leaf>\.(?:weight|bias|running_mean|running_var|num_batches_tracked))?"
    )


_OFFICIAL_KEY = _keys_of(OFFICIAL_NAMES, "stages")
_OUR_KEY = _keys_of(OUR_NAMES, "backbone.stages")


def _mostly(pattern: re.Pattern, keys: Iterable[str]) -> bool:
    found = [pattern.fullmatch(key) is not None for key in keys]
    return 2 * sum(found) > len(found)


def is_official(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are the authors', most of them at least."""
    return _mostly(_OFFICIAL_KEY, state_dict)


def is_ours(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether the keys are those of our classifier, most of them at least."""
    return _mostly(_OUR_KEY, state_dict)


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


def to_official(state_dict: Mapping[str, Tensor]) -> StateDict:
    """The state dict of our classifier under the authors' keys: undoes :func:`convert_official`.

    Raises:
        InputError: A key that the name table does not know.
    """
    converted = {}
    for key, value in state_dict.items():
        match = _OUR_KEY.fullmatch(key)
        if match is None:
            raise InputError(f"key {key!r} has no name in the authors' CARE model")
        place, name, leaf = (match[group] or "" for group in ("place", "name", "leaf"))
        converted[place.removeprefix("backbone.") + OUR_NAMES[name] + leaf] = value
    return converted


# Comparison


def refuse_misfits(message: str, total: int, problems: Mapping[str, list[str]]) -> None:
    """Raise InputError with the first kind of problem that has any keys."""
    for what, keys in problems.items():
        if keys:
            raise InputError(
                f"{message}: {len(keys)} tensors {what} (the model has {total}), "
                f"the first is {keys[0]!r}"
            )


def misfits(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Problems by kind, for :func:`refuse_misfits`."""
    return {
        "missing": [key for key in expected if key not in state],
        "left over": [key for key in state if key not in expected],
        "of another shape or kind": [
            key for key in expected if key in state and not _alike(expected[key], state[key])
        ],
    }


def _alike(first: Tensor, second: Tensor) -> bool:
    """Whether ``second`` can be loaded into ``first``: half precision can, and norms' counters that
    became floating-point numbers with the rest.
    """
    number = second.is_floating_point() or not (first.is_floating_point() or second.is_complex())
    return first.shape == second.shape and number


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Keys of tensors with NaN or infinity."""
    return [key for key, value in state.items() if not torch.isfinite(value).all()]


# Loading


def load_pretrained(backbone: CARETransformer, checkpoint: str, prefix: str | None = None) -> None:
    """Load a checkpoint of ours or the authors' into a backbone, and log how much matched.

    Tensors of stages that the backbone does not have, of heads, and those in
    ``backbone.fresh_keys`` need no partner; everything else does. Of a file that holds a moving
    average beside its weights, the weights are taken.

    Args:
        backbone: Loaded in place; untouched when the file is refused.
        checkpoint: A path or a URL.
        prefix: Where the backbone is in the file; found out when not given.

    Raises:
        InputError: Missing or unreadable file, or one that does not cover the backbone.
    """
    content = read_checkpoint(checkpoint)
    state = state_dict_of(content, checkpoint)
    if is_official(state):
        try:
            state = convert_official(state)
        except InputError as error:
            raise InputError(f"checkpoint {checkpoint}: {error}") from error
    if prefix is None and any(key.startswith("backbone.") for key in state):
        prefix = "backbone."
    if prefix:
        prefix = prefix.rstrip(".") + "."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    expected = backbone.state_dict()
    problems = misfits(expected, state)
    problems["missing"] = [k for k in problems["missing"] if k not in backbone.fresh_keys]
    problems["left over"] = list(_left_over(backbone, state))
    shared = {key: state[key] for key in expected if key in state}
    if not any(problems.values()):
        problems["not finite"] = not_finite(shared)
    refuse_misfits(
        f"checkpoint {checkpoint} does not fit this backbone (of another arch, or only one of the "
        "two is deployed?)",
        len(expected),
        problems,
    )
    backbone.load_state_dict(shared, strict=False)
    fresh = len(expected) - len(shared)
    print_log(
        f"CARETransformer: {len(shared)} of {len(expected)} tensors loaded from {checkpoint}"
        + other_weights(content)
        + (f", {fresh} start fresh" if fresh else ""),
        logger="current",
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


def report_partial(path: str | Path, problems: Mapping[str, list[str]], total: int) -> None:
    """Log what a checkpoint leaves as it is in a model, and what of it finds no place.

    Args:
        path: The checkpoint.
        problems: From :func:`misfits`.
        total: Tensors in the model.
    """
    random = [*problems["missing"], *problems["of another shape or kind"]]
    lines = [f"--allow-partial: {total - len(random)} of {total} tensors loaded from {path}"]
    if random:
        lines.append(f"  random stay {len(random)}: {', '.join(random)}")
    if problems["left over"]:
        lines.append(
            f"  not used are {len(problems['left over'])}: {', '.join(problems['left over'])}"
        )
    print_log("\n".join(lines), logger="current", level=logging.WARNING)


def load_model(
    model: nn.Module,
    path: str | Path,
    name: str = "the config's model",
    allow_partial: bool = False,
) -> dict:
    """Load a whole model from a checkpoint that training wrote; every tensor has to match.

    Args:
        model: Loaded in place.
        path: A file or URL.
        name: What an error calls the model.
        allow_partial: Load what fits, and log what stays random.

    Returns:
        The checkpoint's ``meta`` (classes, config, iteration), empty when it has none.

    Raises:
        InputError: Missing or unreadable file, or one that does not fit the model; of which
            nothing fits, with ``allow_partial``.
    """
    content = read_checkpoint(path)
    state = state_dict_of(content, path)
    expected = model.state_dict()
    problems = misfits(expected, state)
    unfit = {*problems["left over"], *problems["of another shape or kind"]}
    if allow_partial and len(unfit) < len(state):
        report_partial(path, problems, len(expected))
        state = {key: value for key, value in state.items() if key not in unfit}
    else:
        refuse_misfits(f"checkpoint {path} does not fit {name}", len(expected), problems)
    model.load_state_dict(state, strict=not allow_partial)
    return content.get("meta") or {}


# Sizes


@cache
def _backbone_layout(arch: str) -> tuple[StateDict, int]:
    """Keys and shapes (meta tensors) of a published backbone, and the channels that it returns."""
    from care_mm.models.backbone import CARETransformer  # which imports this module

    with torch.random.fork_rng(devices=[]):  # its initialisation draws
        backbone = CARETransformer(arch)
    layout = {f"backbone.{k}": v.to("meta") for k, v in backbone.state_dict().items()}
    return layout, backbone.out_channels[-1]


def _classifier_layout(arch: str, num_classes: int) -> StateDict:
    """Keys and shapes (meta tensors) of the published classifier, under our names."""
    layout, channels = _backbone_layout(arch)
    shapes = {
        "norm.weight": (channels,),
        "norm.bias": (channels,),
        "fc.weight": (num_classes, channels),
        "fc.bias": (num_classes,),
    }
    heads = {
        f"head.{head}.{leaf}": torch.empty(shape, device="meta")
        for head in ("label", "distill")
        for leaf, shape in shapes.items()
    }
    return layout | heads


def num_classes_of(state_dict: Mapping[str, Tensor]) -> int:
    """Classes of the label head, under our keys; 1000 when that head is damaged."""
    bias = state_dict.get("head.label.fc.bias")
    return len(bias) if bias is not None and bias.ndim == 1 else 1000


def detect_arch(state_dict: Mapping[str, Tensor]) -> str:
    """The size (``'s0'``, ``'s1'`` or ``'s2'``) of a whole classifier, by keys and shapes.

    Args:
        state_dict: Under our keys or the authors', with both heads, for any number of classes.

    Raises:
        InputError: Keys left over or missing, other shapes, or another model altogether.
    """
    if is_official(state_dict):
        state_dict = convert_official(state_dict)
    layouts = {arch: _classifier_layout(arch, num_classes_of(state_dict)) for arch in ARCHS}

    def matching(arch: str) -> int:
        layout = layouts[arch].items()
        return sum(key in state_dict and _alike(value, state_dict[key]) for key, value in layout)

    arch = max(layouts, key=matching)
    if not matching(arch):
        raise InputError(f"not the weights of a CARE classifier (keys: {list(state_dict)[:3]})")
    refuse_misfits(
        f"not the weights of a whole CARE classifier, of which {arch} is the closest",
        len(layouts[arch]),
        misfits(layouts[arch], state_dict),
    )
    return arch
