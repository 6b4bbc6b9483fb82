"""CARE in place of the backbone of somebody's detector or segmentor."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict

from care_mm.errors import InputError
from care_mm.models.arch import Arch
from care_mm.models.backbone import CARETransformer
from care_mm.swap.difference import difference
from care_mm.swap.probe import Map, measure
from care_mm.swap.refusals import refuse_backbone, refuse_model
from care_mm.swap.surroundings import add_import, drop_old_weights, normalise, settle_optimizer
from care_mm.swap.wiring import Feed, rewire_decode_heads, rewire_detection_heads, rewire_neck

DROP_PATH = {"s2": 0.1}  # as in our own configs


@dataclass
class Swap:
    """A config with CARE in it.

    Args:
        config: The whole config.
        changes: What a config with the old one as its ``_base_`` has to say.
        arch: As given.
        out_indices: CARE's stages in use.
        checkpoint: The weights that it starts from, or ``None``.
        old_backbone: Type of the backbone that was there.
        old_maps: What that gave.
        new_maps: What CARE gives.
        remarks: Path in ``changes`` -> a remark for whoever reads it.
    """

    config: Config
    changes: dict[str, Any]
    arch: str | Mapping
    out_indices: tuple[int, ...]
    checkpoint: str | None
    old_backbone: str
    old_maps: tuple[Map, ...]
    new_maps: tuple[Map, ...]
    remarks: dict[tuple, str] = field(default_factory=dict)


def swap_backbone(
    config: Config, arch: str | Mapping = "s1", checkpoint: str | None = None
) -> Swap:
    """Put CARE in place of the backbone of a detector or segmentor.

    The old backbone, and the neck if there is one, are built and run once, to see which widths
    and strides the rest of the model is made for. CARE's stages of those strides take their
    place.

    Args:
        config: An mmdet or mmseg config; it is left as it is.
        arch: ``'s0'``, ``'s1'``, ``'s2'``, or a dict with the fields of
            :class:`care_mm.models.arch.Arch`.
        checkpoint: Weights of the backbone. Default: where our own configs have those of a named
            ``arch``; a dict starts from random weights.

    Raises:
        InputError: ``arch`` is unknown, the config is neither mmdet's nor mmseg's or has no
            backbone, or the model is one that CARE does not fit into; the reason is named.
    """
    try:
        num_stages = len(Arch.get(arch).depths)
    except ValueError as error:
        raise InputError(str(error)) from error
    scope, prefix = _find_backbone(config)
    new = copy.deepcopy(config)
    remarks: dict[tuple, str] = {}
    drop_old_weights(new, prefix, remarks)
    holder = _holder(new, prefix)
    where = ".".join(("model", *prefix))
    old = holder.backbone
    refuse_model(holder, where)
    refuse_backbone(old, f"{where}.backbone")

    measured = measure(old, scope, f"{where}.backbone {old.type}")
    stages = _stages(old, measured.maps, num_stages, scope, f"{where}.backbone {old.type}")
    out_indices = tuple(sorted({stage for group in stages for stage in group}))
    holder.backbone = ConfigDict(_care(old, holder, measured.norm_eval, arch, out_indices, scope))
    if checkpoint is None and isinstance(arch, str):
        checkpoint = f"checkpoints/care_{arch.lower()}_in1k.pth"
    if checkpoint is not None:
        holder.backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=checkpoint)
    built = CARETransformer(arch, out_indices=out_indices)
    maps = tuple(map(Map, built.out_channels, built.out_strides))
    feeds = [
        Feed(old_map, tuple(out_indices.index(stage) for stage in group))
        for old_map, group in zip(measured.maps, stages, strict=True)
    ]
    for path, remark in _rewire(holder, feeds, maps, scope, where):
        remarks[("model", *prefix, *path)] = remark

    normalise(new, scope)
    settle_optimizer(new, remarks)
    add_import(new)
    return Swap(
        config=new,
        changes=difference(config.to_dict(), new.to_dict()),
        arch=arch,
        out_indices=out_indices,
        checkpoint=checkpoint,
        old_backbone=str(old.type),
        old_maps=measured.maps,
        new_maps=maps,
        remarks=remarks,
    )


def _find_backbone(config: Config) -> tuple[str, tuple[str, ...]]:
    """The scope, and the path from ``model`` to the dict that has the backbone."""
    scope, model = config.get("default_scope"), config.get("model")
    if not isinstance(model, Mapping):
        raise InputError("the config has no model: give one that describes a whole training")
    found = list(_holders(model, ()))
    if not found:
        raise InputError(f"model {model.get('type')} has no backbone to put CARE in place of")
    if len(found) > 1:
        places = ", ".join(".".join(("model", *path, "backbone")) for path in found)
        raise InputError(f"the config has {len(found)} backbones ({places}): which one is meant?")
    if scope not in ("mmdet", "mmseg"):
        raise InputError(f"default_scope is {scope!r}: only mmdet's and mmseg's configs are known")
    if not isinstance(_holder(config, found[0]).backbone.get("type"), str):
        raise InputError(
            "the config is written in the pure Python style (read_base), which a _base_ cannot "
            "name: give the same model's config in the text style"
        )
    return scope, found[0]


def _holder(config: Config, path: tuple[str, ...]) -> ConfigDict:
    """The dict at ``path`` below ``model``."""
    node = config.model
    for key in path:
        node = node[key]
    return node


def _holders(node: Mapping, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    if isinstance(node.get("backbone"), Mapping):
        yield path
        return
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _holders(value, (*path, key))


def _stages(
    old: Mapping, maps: Sequence[Map], num_stages: int, scope: str, where: str
) -> list[tuple[int, ...]]:
    """For each old map, CARE's stages that take its place.

    That is the stage of the same stride; or, for a map that a segmentor's backbone keeps large by
    dilation, the stages from the same stride down to the same depth.

    Raises:
        InputError: The maps are no pyramid, or CARE has no such stride.
    """
    strides = [4 * 2**i for i in range(num_stages)]
    shape = f"gives maps of strides {[m.stride for m in maps]} and widths " + str(
        [m.channels for m in maps]
    )
    unknown = sorted({m.stride for m in maps} - set(strides))
    if unknown:
        raise InputError(f"{where} {shape}: CARE has strides {strides}, not {unknown}")
    pairs = list(itertools.pairwise(maps))
    dilated = any(d > 1 for d in old.get("dilations") or ())
    if all(a.stride < b.stride for a, b in pairs) and not (dilated and scope == "mmseg"):
        return [(strides.index(m.stride),) for m in maps]
    if any(a.stride > b.stride or a.channels >= b.channels for a, b in pairs):
        raise InputError(f"{where} {shape}: that is no pyramid, and nothing in CARE is like it")
    if scope != "mmseg":
        raise InputError(
            f"{where} {shape}: it is dilated, CARE is not, and a detector's anchors and boxes "
            "depend on the strides"
        )
    if len(maps) > num_stages:
        raise InputError(f"{where} {shape}: CARE has {num_stages} stages")
    depths = range(num_stages - len(maps), num_stages)
    return [
        tuple(range(min(strides.index(m.stride), depth), depth + 1))
        for m, depth in zip(maps, depths, strict=True)
    ]


def _care(
    old: Mapping,
    holder: Mapping,
    norm_eval: bool | None,
    arch: str | Mapping,
    out_indices: tuple[int, ...],
    scope: str,
) -> dict[str, Any]:
    """The new backbone, without its weights."""
    care = {"type": "CARETransformer", "arch": arch, "out_indices": out_indices}
    if isinstance(arch, str) and arch.lower() in DROP_PATH:
        care["drop_path_rate"] = DROP_PATH[arch.lower()]
    if norm_eval is None:  # no batch norm there: small batches per GPU are a detector's habit
        norm_eval = scope == "mmdet"
    if norm_eval:
        care["norm_eval"] = True
    elif "SyncBN" in _norm_types(old, holder):
        care["norm_cfg"] = {"type": "SyncBN"}
    return care


def _norm_types(old: Mapping, holder: Mapping) -> Iterator[str | None]:
    """Norm of the old backbone, or of a segmentor's head if that backbone had no batch norm."""
    heads = holder.get("decode_head")
    parts = [old, *(heads if isinstance(heads, list | tuple) else [heads])]
    kinds = [((part or {}).get("norm_cfg") or {}).get("type") for part in parts]
    if kinds[0] in ("BN", "SyncBN", "MMSyncBN"):
        kinds = kinds[:1]
    for kind in kinds:
        yield "SyncBN" if kind == "MMSyncBN" else kind


def _rewire(
    holder: dict, feeds: Sequence[Feed], maps: Sequence[Map], scope: str, where: str
) -> Iterator[tuple[tuple, str]]:
    """Set the inputs of whatever reads the backbone; yields paths with remarks."""
    neck = holder.get("neck")
    if neck is not None:
        if any(len(feed.new) > 1 for feed in feeds):
            raise InputError(f"{where}.neck reads a dilated backbone, and CARE has no such form")
        kept = copy.deepcopy(neck)
        first = neck[0] if isinstance(neck, list | tuple) else neck
        rewire_neck(first, feeds, maps, f"{where}.neck")
        before = measure(kept, scope, f"{where}.neck", [feed.old for feed in feeds]).maps
        inputs = [maps[feed.new[0]] for feed in feeds]
        after = measure(neck, scope, f"{where}.neck on CARE", inputs).maps
        if before == after:
            return
        # Some necks hand maps of the backbone on beside their own.
        feeds, maps = [Feed(m, (i,)) for i, m in enumerate(before)], after
    if "decode_head" in holder:
        yield from rewire_decode_heads(holder, feeds, maps, where)
    else:
        rewire_detection_heads(holder, feeds, maps, where)
