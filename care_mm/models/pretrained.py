"""Load ImageNet weights into a backbone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mmengine.logging import print_log

from care_mm.checkpoint.matching import Match, not_finite
from care_mm.checkpoint.reading import other_weights, read_checkpoint, state_dict_of
from care_mm.errors import InputError

if TYPE_CHECKING:
    from care_mm.models.staged import StagedBackbone


def load_pretrained(backbone: StagedBackbone, checkpoint: str, prefix: str | None = None) -> None:
    """Load one of our checkpoints or the authors' into a backbone, and log how much matched.

    The file must hold every tensor of the backbone, except those in ``backbone.fresh_keys``. Heads
    and stages that the backbone does not have are ignored. If the file also holds an EMA, the
    plain weights are used.

    Args:
        backbone: Loaded in place; untouched if the file is refused.
        checkpoint: A path or a URL.
        prefix: Prefix of the backbone's keys in the file; ``None`` detects ``backbone.``.

    Raises:
        InputError: Missing or unreadable file, or one that does not cover the backbone.
    """
    content = read_checkpoint(checkpoint)
    state = state_dict_of(content, checkpoint)
    if backbone.is_official(state):
        try:
            state = backbone.convert_official(state)
        except InputError as error:
            raise InputError(f"checkpoint {checkpoint}: {error}") from error
    if prefix is None and any(key.startswith("backbone.") for key in state):
        prefix = "backbone."
    if prefix:
        prefix = prefix.rstrip(".") + "."
        state = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}

    expected = backbone.state_dict()
    match = Match.compare(expected, state)
    shared = {key: state[key] for key in expected if key in state}
    replace(
        match,
        missing=tuple(key for key in match.missing if key not in backbone.fresh_keys),
        unexpected=tuple(key for key in match.unexpected if backbone.is_unexpected(key)),
        not_finite=not_finite(shared),
    ).refuse(
        f"checkpoint {checkpoint} does not fit this backbone (of another arch, or only one of the "
        "two is deployed?)"
    )
    backbone.load_state_dict(shared, strict=False)
    fresh = len(expected) - len(shared)
    print_log(
        f"{type(backbone).__name__}: {len(shared)} of {len(expected)} tensors loaded from "
        + checkpoint
        + other_weights(content)
        + (f", {fresh} start fresh" if fresh else ""),
        logger="current",
    )
