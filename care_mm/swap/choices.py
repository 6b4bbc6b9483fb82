"""The backbones that ``--backbone`` names: CARE, its peers, and the models of timm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import MODELS

import care_mm.peers  # noqa: F401  registers
from care_mm.errors import InputError, did_you_mean
from care_mm.models.arch import ARCHS, Arch
from care_mm.models.staged import StagedBackbone
from care_mm.peers.published import PUBLISHED
from care_mm.peers.systems import PEERS, TIMM_MODELS
from care_mm.swap.probe import Map

CARE = "care"
TIMM = "timm:"  # prefix of any model of timm
NAMES = (CARE, *PEERS, *TIMM_MODELS)
# Name -> sizes.
SIZES = {
    CARE: tuple(ARCHS),
    **{name: tuple(peer.archs) for name, (peer, _) in PEERS.items()},
    **{name: tuple(models) for name, models in TIMM_MODELS.items()},
}
# As in our own configs, which tests/swap/test_adapt.py compares. No entry: no drop path.
DROP_PATH = {"s2": 0.1}


@dataclass(frozen=True)
class Choice:
    """A backbone to put into a config.

    Attributes:
        label: How comments and messages call it, such as ``'EMO-2M'``.
        system: The name without the size, such as ``'EMO'``.
        config: ``type`` and ``arch`` of the backbone.
        drop_path_rate: The rate of our own configs or of the authors' training.
        checkpoint: The default place of its weights; ``None`` for an arch without published ones.
        weights: How to get the weights, as a sentence; empty for CARE.
        module: What ``custom_imports`` has to name.
    """

    label: str
    system: str
    config: Mapping[str, Any]
    drop_path_rate: float
    checkpoint: str | None
    weights: str
    module: str = "care_mm.peers"

    @property
    def num_stages(self) -> int:
        """Number of stages, which have strides 4, 8, 16, ..."""
        return len(Arch.get(self.config["arch"]).depths) if self.module == "care_mm" else 4

    def build(self, out_indices: Iterable[int], device: str = "meta") -> StagedBackbone:
        """Build the backbone with random weights."""
        with torch.device(device):
            return MODELS.build({**self.config, "out_indices": tuple(out_indices)})

    def maps(self, out_indices: Iterable[int]) -> tuple[Map, ...]:
        """Return the feature maps of some stages."""
        backbone = self.build(out_indices)
        return tuple(map(Map, backbone.out_channels, backbone.out_strides))

    def pixel_statistics(self) -> tuple[list[float], list[float]] | None:
        """Return the mean and deviation that timm states; ``None`` for ImageNet's."""
        if self.config["type"] != "TimmBackbone":
            return None
        import timm

        cfg = timm.get_pretrained_cfg(self.config["arch"])
        if cfg is None:
            return None
        return tuple([round(255 * value, 3) for value in values] for values in (cfg.mean, cfg.std))


def choose(backbone: str = CARE, arch: str | Mapping | None = None) -> Choice:
    """Return the backbone of a name and a size.

    Args:
        backbone: One of ``NAMES``, or ``timm:`` and the name of a model in timm.
        arch: The size; ``None`` for the default. CARE also accepts a dict with the fields of
            :class:`care_mm.models.arch.Arch`.

    Raises:
        InputError: Unknown name or size, or a model of timm without maps of strides 4 to 32.
    """
    if backbone == CARE:
        return _care("s1" if arch is None else arch)
    if backbone.startswith(TIMM):
        if arch is not None:
            raise InputError(f"--backbone {backbone} names the size already: leave out --arch")
        return _timm(backbone.removeprefix(TIMM), backbone.removeprefix(TIMM), 0.0)
    if backbone not in NAMES:
        hint = did_you_mean(backbone, NAMES)
        raise InputError(
            f"--backbone {backbone!r} is unknown{hint or ':'} The names are {', '.join(NAMES)}, "
            f"and {TIMM}NAME for any other model of timm"
        )
    sizes = SIZES[backbone]
    default = sizes[0] if backbone in TIMM_MODELS else PEERS[backbone][1]
    size = default if arch is None else arch.lower() if isinstance(arch, str) else arch
    if size not in sizes:
        raise InputError(f"--arch {arch!r} is unknown: {backbone} has {', '.join(sizes)}")
    figures = PUBLISHED[backbone].get(size)
    rate = figures.drop_path if figures else 0.0
    if backbone in TIMM_MODELS:
        return _timm(TIMM_MODELS[backbone][size], f"{backbone}-{size}", rate)
    system = PEERS[backbone][0].__name__
    return Choice(
        label=f"{system}-{size.upper()}",
        system=system,
        config={"type": system, "arch": size},
        drop_path_rate=rate,
        checkpoint=f"checkpoints/{backbone}_{size}_in1k.pth",
        weights="Save the authors' ImageNet checkpoint here.",
    )


def _care(arch: str | Mapping) -> Choice:
    try:
        Arch.get(arch)
    except ValueError as error:
        raise InputError(str(error)) from error
    named = isinstance(arch, str)
    return Choice(
        label=f"CARE-{arch.upper()}" if named else "CARE",
        system="CARE",
        config={"type": "CARETransformer", "arch": arch},
        drop_path_rate=DROP_PATH.get(arch.lower(), 0.0) if named else 0.0,
        checkpoint=f"checkpoints/care_{arch.lower()}_in1k.pth" if named else None,
        weights="",
        module="care_mm",
    )


def _timm(name: str, label: str, drop_path_rate: float) -> Choice:
    """Return a model of timm, which is built once to see whether its maps fit."""
    path = f"checkpoints/{name}.pth"
    choice = Choice(
        label=label,
        system=label,
        config={"type": "TimmBackbone", "arch": name},
        drop_path_rate=drop_path_rate,
        checkpoint=path,
        weights="To save timm's weights here: "
        f"torch.save(timm.create_model('{name}', pretrained=True).state_dict(), '{path}')",
    )
    try:
        choice.build((0, 1, 2, 3))
    except (ValueError, ImportError) as error:
        raise InputError(str(error)) from error
    return choice
