"""Set ``in_channels`` and ``in_index`` of the necks and heads that read a backbone's maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from care_mm.errors import InputError
from care_mm.swap.probe import Map


@dataclass(frozen=True)
class Feed:
    """The replacement of one feature map.

    Attributes:
        old: The map that the readers had.
        new: Positions, among the new maps, of its replacement. Several positions run from the
            stride of the old map down to its depth; they are resized to one size and joined.
    """

    old: Map
    new: tuple[int, ...]


def rewire_neck(neck: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str) -> None:
    """Set ``in_channels`` of a neck that reads all maps, or the last one.

    Raises:
        InputError: The neck's ``in_channels`` are not those of the old maps.
    """
    widths = neck.get("in_channels")
    if isinstance(widths, int):
        feed = feeds[-1]
        if widths == feed.old.channels:
            neck["in_channels"] = new[feed.new[-1]].channels
            return
    elif isinstance(widths, list | tuple):
        # YOLOv3's neck lists them from the deepest up.
        for order in (1, -1):
            if list(widths) == _old_widths(feeds[::order]):
                neck["in_channels"] = type(widths)(_new_widths(feeds[::order], new))
                return
    raise InputError(
        f"{where} {neck.get('type')} has in_channels={widths}, but the old backbone returns "
        f"{_old_widths(feeds)}: how this neck reads it is not known"
    )


def _old_widths(feeds: Sequence[Feed]) -> list[int]:
    return [feed.old.channels for feed in feeds]


def _new_widths(feeds: Sequence[Feed], new: Sequence[Map]) -> list[int]:
    return [new[feed.new[-1]].channels for feed in feeds]


def rewire_decode_heads(
    model: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str
) -> Iterator[tuple[tuple, str]]:
    """Set the inputs of a segmentor's decode and auxiliary heads.

    Yields:
        Paths below ``model``, with a remark for readers of the new config.

    Raises:
        InputError: A head's ``in_channels`` are not those of the maps that it reads.
    """
    for role in ("decode_head", "auxiliary_head"):
        readers = list(_map_readers(model.get(role), (role,)))
        if role == "decode_head" and not readers:
            raise InputError(f"{where}.{role}: no part of it says which maps it reads")
        for head, path in readers:
            place = ".".join((where, *map(str, path)))
            # An auxiliary head supervises one stage, so it gets that stage alone.
            remark = _rewire_head(head, feeds, new, place, join=role == "decode_head")
            if remark:
                yield path, remark


def _map_readers(node: Any, path: tuple) -> Iterator[tuple[dict, tuple]]:
    """Yield heads, and parts of heads that select maps themselves (K-Net's generating head)."""
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
    _check_widths(widths, read, where)
    if "c1_in_channels" in head:  # DeepLabV3+ reads the first map in addition to that of in_index
        head["c1_in_channels"] = new[feeds[0].new[-1]].channels

    if not several and join and len(read[0].new) > 1:
        positions = list(read[0].new)
        head["in_channels"] = [new[i].channels for i in positions]
        head["in_index"] = positions
        head["input_transform"] = "resize_concat"
        stride = read[0].old.stride
        return (
            f"Reads strides {_listed(new[i].stride for i in positions)}, resized to {stride} and "
            f"concatenated, because the old backbone was dilated to stride {stride}."
        )
    positions = [feed.new[-1] for feed in read]
    channels = _new_widths(read, new)
    head["in_channels"] = type(widths)(channels) if several else channels[0]
    if positions != [i % len(new) for i in indices]:
        head["in_index"] = type(index)(positions) if several else positions[0]
    strides, old_strides = [new[i].stride for i in positions], [feed.old.stride for feed in read]
    if strides == old_strides:
        return None
    plural = "s" if len(strides) > 1 else ""
    return (
        f"Reads stride{plural} {_listed(strides)}, where the dilated old backbone gave "
        f"{_listed(old_strides)}."
    )


def _check_widths(widths: int | Sequence[int], read: Sequence[Feed], where: str) -> None:
    actual = list(widths) if isinstance(widths, list | tuple) else [widths]
    if actual != _old_widths(read):
        raise InputError(
            f"{where}: in_channels={widths}, but the maps that it reads have {_old_widths(read)}"
        )


def _listed(numbers: Iterable[int]) -> str:
    *most, last = map(str, numbers)
    return f"{', '.join(most)} and {last}" if most else last


def rewire_detection_heads(
    model: dict, feeds: Sequence[Feed], new: Sequence[Map], where: str
) -> None:
    """Set ``in_channels`` of the heads of a detector without a neck.

    Raises:
        InputError: No head has ``in_channels``, or a head cannot read other widths.
    """
    if "roi_head" in model:
        raise InputError(
            f"{where}.roi_head continues a ResNet (a C4 or DC5 model): use the FPN form of the "
            "model"
        )
    heads = [
        (key, part)
        for key, head in model.items()
        if isinstance(head, Mapping) and "in_channels" in head
        for part in (head, head.get("pixel_decoder") or {})
        if "in_channels" in part
    ]
    if not heads:
        raise InputError(f"{where}: no neck, and no head with in_channels to set")
    for key, part in heads:
        widths = part["in_channels"]
        _check_widths(widths, feeds, f"{where}.{key}")
        channels = _new_widths(feeds, new)
        several = isinstance(widths, list | tuple)
        part["in_channels"] = type(widths)(channels) if several else channels[0]
