"""Replace the backbone of an mmdet or mmseg config by CARE or one of its peers."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmengine.config import Config, ConfigDict

from care_mm.errors import InputError
from care_mm.swap.adapt import add_import, drop_layer_decay, drop_old_weights, normalise
from care_mm.swap.choices import CARE, Choice, choose
from care_mm.swap.probe import Map, measure
from care_mm.swap.refusals import refuse_backbone, refuse_model
from care_mm.swap.wiring import Feed, rewire_decode_heads, rewire_detection_heads, rewire_neck

# Type of a backbone -> its arguments for SyncBN.
SYNCHRONISED = {
    "CARETransformer": {"norm_cfg": {"type": "SyncBN"}},
    "TimmBackbone": {"sync_bn": True},
}


@dataclass
class Swap:
    """A config with a new backbone.

    Attributes:
        config: The complete new config.
        changes: The content of a config file that has the old config as its ``_base_``.
        choice: The new backbone.
        out_indices: Its stages in use.
        checkpoint: The weights that it starts from, or ``None``.
        old_backbone: Type of the replaced backbone.
        old_maps: The feature maps of the replaced backbone.
        new_maps: The feature maps of the new one.
        remarks: Path in ``changes`` -> a remark for readers of the new config.
    """

    config: Config
    changes: dict[str, Any]
    choice: Choice
    out_indices: tuple[int, ...]
    checkpoint: str | None
    old_backbone: str
    old_maps: tuple[Map, ...]
    new_maps: tuple[Map, ...]
    remarks: dict[tuple, str] = field(default_factory=dict)


def swap_backbone(
    config: Config,
    arch: str | Mapping | None = None,
    checkpoint: str | None = None,
    backbone: str = CARE,
    again: bool = False,
) -> Swap:
    """Replace the backbone of a detector or segmentor by CARE or one of its peers.

    The old backbone, and the neck if there is one, are built and run once, to measure the widths
    and strides that the rest of the model expects. The stages of the new backbone with these
    strides replace the old maps.

    Args:
        config: An mmdet or mmseg config; it is not changed.
        arch: The size of the new backbone; ``None`` for its default, which is ``'s1'`` for CARE.
            For CARE, also a dict with the fields of :class:`care_mm.models.arch.Arch`.
        checkpoint: Weights of the backbone. Default: the path in our own configs, or a path of the
            same form for a peer, and random weights for a dict.
        backbone: A name of :data:`care_mm.swap.choices.NAMES`, or ``timm:NAME``.
        again: Accept a config that has a backbone of this system already.

    Raises:
        InputError: ``backbone`` or ``arch`` is unknown, the config is not one of mmdet or mmseg or
            has no backbone, or the new backbone does not fit into the model.
    """
    choice = choose(backbone, arch)
    scope, prefix = _find_backbone(config, choice.system)
    new = copy.deepcopy(config)
    remarks: dict[tuple, str] = {}
    drop_old_weights(new, prefix, remarks)
    holder = _holder(new, prefix)
    where = ".".join(("model", *prefix))
    old = holder.backbone
    refuse_model(holder, where, choice.system)
    refuse_backbone(old, f"{where}.backbone", None if again else choice.config["type"])

    measured = measure(old, scope, f"{where}.backbone {old.type}")
    stages = _stages(old, measured.maps, choice, scope, f"{where}.backbone {old.type}")
    out_indices = tuple(sorted({stage for group in stages for stage in group}))
    settings, synchronise = _norm_settings(old, holder, measured.norm_eval, choice, scope)
    holder.backbone = ConfigDict({**choice.config, "out_indices": out_indices, **settings})
    if synchronise:
        new.sync_bn = "torch"
        remarks[("sync_bn",)] = "The old backbone had SyncBN. This converts all batch norms."
    if checkpoint is None:
        checkpoint = choice.checkpoint
        if choice.weights:
            remarks[("model", *prefix, "backbone", "init_cfg")] = choice.weights
    if checkpoint is not None:
        holder.backbone.init_cfg = ConfigDict(type="Pretrained", checkpoint=checkpoint)
    maps = choice.maps(out_indices)
    feeds = [
        Feed(old_map, tuple(out_indices.index(stage) for stage in group))
        for old_map, group in zip(measured.maps, stages, strict=True)
    ]
    for path, remark in _rewire(holder, feeds, maps, scope, where, choice.system):
        remarks[("model", *prefix, *path)] = remark

    normalise(new, scope, choice.pixel_statistics())
    drop_layer_decay(new, remarks)
    add_import(new, choice.module)
    return Swap(
        config=new,
        changes=difference(config.to_dict(), new.to_dict()),
        choice=choice,
        out_indices=out_indices,
        checkpoint=checkpoint,
        old_backbone=str(old.type),
        old_maps=measured.maps,
        new_maps=maps,
        remarks=remarks,
    )


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a config file with base ``old`` contains to become ``new``.

    Dicts merge key by key. A dict that lost a key is replaced by ``_delete_=True``, and a list is
    always replaced. Top-level keys cannot be deleted, so ``new`` has all those of ``old``.
    """
    changes = {}
    for key, value in new.items():
        if key not in old:
            changes[key] = value
        elif not isinstance(value, Mapping):
            if repr(value) != repr(old[key]):  # == would miss 1 -> True
                changes[key] = value
        elif not isinstance(old[key], Mapping) or set(old[key]) - set(value):
            changes[key] = {"_delete_": True, **value}
        elif nested := difference(old[key], value):
            changes[key] = nested
    return changes


def _find_backbone(config: Config, system: str) -> tuple[str, tuple[str, ...]]:
    """Return the scope, and the path from ``model`` to the dict that holds the backbone."""
    scope, model = config.get("default_scope"), config.get("model")
    if not isinstance(model, Mapping):
        raise InputError("the config has no model: give one that describes a complete training")
    paths = list(_holders(model, ()))
    if not paths:
        raise InputError(f"model {model.get('type')} has no backbone that {system} could replace")
    if len(paths) > 1:
        places = ", ".join(".".join(("model", *path, "backbone")) for path in paths)
        raise InputError(
            f"the config has {len(paths)} backbones ({places}): swap in the config of one model"
        )
    if scope not in ("mmdet", "mmseg"):
        raise InputError(f"default_scope is {scope!r}: only configs of mmdet and mmseg are known")
    if not isinstance(_holder(config, paths[0]).backbone.get("type"), str):
        raise InputError(
            "the config is written in the pure Python style (read_base), which a _base_ cannot "
            "name: give the same model's config in the text style"
        )
    return scope, paths[0]


def _holder(config: Config, path: tuple[str, ...]) -> ConfigDict:
    """Return the dict at ``path`` below ``model``."""
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
    old: Mapping, maps: Sequence[Map], choice: Choice, scope: str, where: str
) -> list[tuple[int, ...]]:
    """Return, for each old map, the stages of the new backbone that replace it.

    That is the stage of the same stride. For a map that a segmentor's backbone keeps large by
    dilation, it is all stages from the same stride down to the same depth.

    Raises:
        InputError: The maps are not a pyramid, or the new backbone has no such stride.
    """
    num_stages, system = choice.num_stages, choice.system
    strides = [4 * 2**i for i in range(num_stages)]
    old_strides, old_widths = [m.stride for m in maps], [m.channels for m in maps]
    shape = f"returns maps of strides {old_strides} and widths {old_widths}"
    unknown = sorted(set(old_strides) - set(strides))
    if unknown:
        raise InputError(f"{where} {shape}: {system} has strides {strides}, not {unknown}")
    pairs = list(itertools.pairwise(maps))
    dilated = any(d > 1 for d in old.get("dilations") or ())
    if all(a.stride < b.stride for a, b in pairs) and not (dilated and scope == "mmseg"):
        return [(strides.index(m.stride),) for m in maps]
    if any(a.stride > b.stride or a.channels >= b.channels for a, b in pairs):
        raise InputError(f"{where} {shape}: that is not a pyramid, but {system} returns one")
    if scope != "mmseg":
        raise InputError(
            f"{where} {shape}: it is dilated, {system} is not, and a detector's anchors and boxes "
            "depend on the strides"
        )
    if len(maps) > num_stages:
        raise InputError(f"{where} {shape}: {system} has {num_stages} stages")
    depths = range(num_stages - len(maps), num_stages)
    return [
        tuple(range(min(strides.index(m.stride), depth), depth + 1))
        for m, depth in zip(maps, depths, strict=True)
    ]


def _norm_settings(
    old: Mapping, holder: Mapping, norm_eval: bool | None, choice: Choice, scope: str
) -> tuple[dict[str, Any], bool]:
    """Return the drop path and the norms of the new backbone, and whether the run converts norms.

    CARE and models of timm have an argument for it. For the other peers, mmengine converts the
    batch norms of the whole model.
    """
    settings: dict[str, Any] = {}
    if choice.drop_path_rate:
        settings["drop_path_rate"] = choice.drop_path_rate
    if norm_eval is None:  # the old backbone has no batch norm; detectors have small batches
        norm_eval = scope == "mmdet"
    if norm_eval:
        return settings | {"norm_eval": True}, False
    synchronise = "SyncBN" in _norm_types(old, holder)
    if synchronise and choice.config["type"] in SYNCHRONISED:
        return settings | SYNCHRONISED[choice.config["type"]], False
    return settings, synchronise


def _norm_types(old: Mapping, holder: Mapping) -> Iterator[str | None]:
    """Yield the norm of the old backbone, or of the head if that backbone has no batch norm."""
    heads = holder.get("decode_head")
    parts = [old, *(heads if isinstance(heads, list | tuple) else [heads])]
    kinds = [((part or {}).get("norm_cfg") or {}).get("type") for part in parts]
    if kinds[0] in ("BN", "SyncBN", "MMSyncBN"):
        kinds = kinds[:1]
    for kind in kinds:
        yield "SyncBN" if kind == "MMSyncBN" else kind


def _rewire(
    holder: dict, feeds: Sequence[Feed], maps: Sequence[Map], scope: str, where: str, system: str
) -> Iterator[tuple[tuple, str]]:
    """Set the inputs of all readers of the backbone, and yield paths with remarks."""
    neck = holder.get("neck")
    if neck is not None:
        if any(len(feed.new) > 1 for feed in feeds):
            raise InputError(
                f"{where}.neck reads a dilated backbone, and {system} cannot be dilated"
            )
        old_neck = copy.deepcopy(neck)
        first = neck[0] if isinstance(neck, list | tuple) else neck
        rewire_neck(first, feeds, maps, f"{where}.neck")
        before = measure(old_neck, scope, f"{where}.neck", [feed.old for feed in feeds]).maps
        inputs = [maps[feed.new[0]] for feed in feeds]
        after = measure(neck, scope, f"{where}.neck on {system}", inputs).maps
        if before == after:
            return
        # Some necks pass on maps of the backbone in addition to their own.
        feeds, maps = [Feed(m, (i,)) for i, m in enumerate(before)], after
    if "decode_head" in holder:
        yield from rewire_decode_heads(holder, feeds, maps, where)
    else:
        rewire_detection_heads(holder, feeds, maps, where)
