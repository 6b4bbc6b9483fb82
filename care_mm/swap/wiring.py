"""Necks and heads that read a backbone's maps: their ``in_channels`` and ``in_index``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from care_mm.errors import InputError
from care_mm.swap.probe import Map


@dataclass(frozen=True)
class Feed:
    """What takes the place of one map.

    Args:
        old: The map that readers got.
        new: Positions, among the new maps, of what they get; where there are several, those from
            the stride of the old map down to its depth, to be resized to one size and joined.
    """

    old: Map
    new: tuple[int, ...]


def rewire_neck(neck: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str) -> None:
    """Set ``in_channels`` of a neck that reads all maps, or the last one.

    Raises:
        InputError: The neck's ``in_channels`` are not those of the maps.
    """
    kind, widths = neck.get("type"), neck.get("in_channels")
    if isinstance(widths, int):
        feed = feeds[-1]
        if widths == feed.old.channels:
            neck["in_channels"] = new[feed.new[-1]].channels
            return
    elif isinstance(widths, list | tuple):
        # YOLOv3's neck lists them from the deepest up.
        for order in (1, -1):
            if list(widths) == [feed.old.channels for feed in feeds[::order]]:
                channels = [new[feed.new[-1]].channels for feed in feeds[::order]]
                neck["in_channels"] = type(widths)(channels)
                return
    given = [feed.old.channels for feed in feeds]
    raise InputError(
        f"{where} {kind} has in_channels={widths}, but the old backbone gives {given}: how this "
        "neck reads it is not known"
    )


def rewire_decode_heads(
    model: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str
) -> Iterator[tuple[tuple, str]]:
    """Set the inputs of a segmentor's decode and auxiliary heads.

    Yields:
        Paths below ``model`` with a remark for whoever reads the new config.

    Raises:
        InputError: A head whose ``in_channels`` are not those of the maps it reads.
    """
    for role in ("decode_head", "auxiliary_head"):
        found = list(_map_readers(model.get(role), (role,)))
        if role == "decode_head" and not found:
            raise InputError(f"{where}.{role}: no part of it says which maps it reads")
        for head, path in found:
            # An auxiliary head is there to supervise one stage: it gets that one.
            remark = _rewire_head(
                head, feeds, new, ".".join((where, *map(str, path))), join=role == "decode_head"
            )
            if remark:
                yield path, remark


def _map_readers(node: Any, path: tuple) -> Iterator[tuple[dict, tuple]]:
    """Heads, and parts of heads that choose maps themselves (K-Net's generating head)."""
    if isinstance(node, list | tuple):
        for i, item in enumerate(node):
            yield from _map_readers(item, (*path, i))
    elif isinstance(node, Mapping):
        is_head = len(path) == 1 or (isinstance(path[-1], int) and len(path) == 2)
        if "in_channels" in node and (is_head or "in_index" in node):
            yield node, path
        for key, value in node.items():
            if isinstance(value, Mapping | list | tuple):
                yield from _map_readers(value, (*path, key))


def _rewire_head(
    head: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str, join: bool
) -> str | None:
    widths = head["in_channels"]
    several = isinstance(widths, list | tuple)
    index = head.get("in_index", range(len(feeds)) if several else -1)
    indices = list(index) if several else [index]
    if any(not -len(feeds) <= i < len(feeds) for i in indices):
        raise InputError(f"{where}: in_index={index}, but there are {len(feeds)} maps")
    read = [feeds[i] for i in indices]
    if (list(widths) if several else [widths]) != [feed.old.channels for feed in read]:
        given = [feed.old.channels for feed in read]
        raise InputError(f"{where}: in_channels={widths}, but the maps it reads have {given}")
    if "c1_in_channels" in head:  # DeepLabV3+ takes the first map beside the one of in_index
        head["c1_in_channels"] = new[feeds[0].new[-1]].channels

    if not several and join and len(read[0].new) > 1:
        positions = list(read[0].new)
        head["in_channels"] = [new[i].channels for i in positions]
        head["in_index"] = positions
        head["input_transform"] = "resize_concat"
        stride = read[0].old.stride
        return (
            f"Strides {_listed(new[i].stride for i in positions)}, resized to {stride} and joined: "
            f"the old backbone was dilated to stride {stride}."
        )
    positions = [feed.new[-1] for feed in read]
    channels = [new[i].channels for i in positions]
    head["in_channels"] = type(widths)(channels) if several else channels[0]
    if positions != [i % len(new) for i in indices]:
        head["in_index"] = type(index)(positions) if several else positions[0]
    strides, before = [new[i].stride for i in positions], [feed.old.stride for feed in read]
    if strides == before:
        return None
    many = "s" if len(strides) > 1 else ""
    return (
        f"Stride{many} {_listed(strides)}: the old backbone was dilated and gave {_listed(before)}."
    )


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def rewire_detection_heads(
    model: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str
) -> None:
    """Set ``in_channels`` of heads that read the maps with no neck between.

    Raises:
        InputError: There are none, or some that cannot take other widths.
    """
    if "roi_head" in model:
        raise InputError(
            f"{where}.roi_head reads the backbone without a neck (a C4 or DC5 model), and its "
            "layers continue those of a ResNet: take the FPN form of the same model"
        )
    found = False
    for key, head in model.items():
        if not isinstance(head, Mapping) or "in_channels" not in head:
            continue
        for part in (head, head.get("pixel_decoder") or {}):
            if "in_channels" not in part:
                continue
            widths = part["in_channels"]
            several = isinstance(widths, list | tuple)
            if (list(widths) if several else [widths]) != [feed.old.channels for feed in feeds]:
                given = [feed.old.channels for feed in feeds]
                raise InputError(
                    f"{where}.{key}: in_channels={widths}, but the maps that it gets have {given}"
                )
            channels = [new[feed.new[-1]].channels for feed in feeds]
            part["in_channels"] = type(widths)(channels) if several else channels[0]
            found = True
    if not found:
        raise InputError(f"{where}: no neck, and no head with in_channels to set")
