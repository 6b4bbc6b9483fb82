"""The peers with linear attention under golden weights, drawn by key as for the golden figures."""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

import golden
import numpy as np
import torch
from mmpretrain.registry import MODELS
from peers import compact_golden
from torch import Tensor, nn

from care_mm.peers import MLLA, SLABPVT, FLattenPVT, FLattenSwin, SLABSwin
from care_mm.peers.base import PeerBackbone
from care_mm.peers.prep_bn import PRepBN

COUNTERS = ("warm", "iter", "total_step")
COMPUTED = ("rotations", "relative_position_index", "attn_mask")


@dataclass(frozen=True)
class Peer:
    """A system with the facts about its smallest size.

    Attributes:
        cls: The backbone.
        channels: Channels of stage 4.
        backbone_parameters: Without the head, which has the final norm.
        parameters: With the head for 1000 classes.
        gmacs: At 224 x 224, convolutions and products alone.
        size: Side and width of the golden input; learned positions are for the side.
    """

    cls: type[PeerBackbone]
    channels: int
    backbone_parameters: int
    parameters: int
    gmacs: float
    size: tuple[int, int] = (64, 64)

    @property
    def has_img_size(self) -> bool:
        return self.cls is not MLLA

    def backbone(self, arch: str = "t", img_size: int = 224, **options) -> PeerBackbone:
        return self.cls(arch, **options, **({"img_size": img_size} if self.has_img_size else {}))

    def classifier(self, arch: str = "t", img_size: int = 224, **options) -> nn.Module:
        system = self.cls.__name__
        options |= {"img_size": img_size} if self.has_img_size else {}
        head = dict(type=f"{system}Head", num_classes=1000, in_channels=self.channels)
        backbone = dict(type=system, arch=arch, **options)
        return MODELS.build(dict(type="ImageClassifier", backbone=backbone, head=head))


# The authors count the norm that FLatten-PVT never uses, and the final norm of the Swins, to the
# backbone: 11,637,504, 28,423,384 and 28,447,605.
PEERS = {
    "mlla_t": Peer(MLLA, 512, 23_878_176, 24_392_200, 4.1314, (64, 96)),
    "flatten_pvt_t": Peer(FLattenPVT, 512, 11_637_504 - 1024, 12_150_504, 2.0374),
    "flatten_swin_t": Peer(FLattenSwin, 768, 28_423_384 - 1536, 29_192_384, 4.4833),
    "slab_pvt_t": Peer(SLABPVT, 512, 11_644_692, 12_157_692, 2.0359),
    "slab_swin_t": Peer(SLABSwin, 768, 28_447_605 - 3073, 29_216_605, 4.4833),
}


def draw(key: str, shape: list[int]) -> np.ndarray:
    """Draw as :func:`golden.draw`, with the rules for names that only these systems have."""
    rng = np.random.default_rng([0, zlib.crc32(key.encode())])
    normal = rng.standard_normal(shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "running_var" and key.endswith("norm2.bn.running_var"):
        return 100 * (0.5 + rng.random(shape))
    if leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
        is_scaled = key.endswith(("cpe1.weight", "cpe2.weight"))
        return 0.1 * normal if is_scaled else golden.draw(key, shape)
    return 0.1 * normal


def figures(name: str) -> compact_golden.Golden:
    return compact_golden.load(name)


def shapes(name: str, img_size: int = 224) -> dict[str, list[int]]:
    """Return the shapes of the drawn tensors under the authors' keys, for images of 224 or 64."""
    every = dict(figures(name).shapes)
    if img_size != 224:
        with np.load(golden.FOLDER / f"{name}.npz") as file:
            every |= json.loads(file["json"].tobytes()).get("small", {})
    return {k: v for k, v in every.items() if k.rsplit(".", 1)[-1] not in (*COUNTERS, *COMPUTED)}


def load(model: nn.Module, name: str, img_size: int = 224) -> nn.Module:
    """Draw the weights of a classifier or a backbone; every tensor but the counters is needed."""
    drawn, own = shapes(name, img_size), model.state_dict()
    prefix = "backbone." if isinstance(model, PeerBackbone) else ""
    names = PEERS[name].cls.convert_official({key: key for key in drawn})
    state = {key: value for key, value in own.items() if key.rsplit(".", 1)[-1] in COUNTERS}
    for ours, key in names.items():
        target = own.get(ours.removeprefix(prefix))
        if target is not None:
            value = torch.as_tensor(draw(key, drawn[key])).to(target.dtype)
            state[ours.removeprefix(prefix)] = value
        else:
            assert prefix, ours  # only a backbone may have less than the authors' model
    model.load_state_dict(state)
    return model


def quarter_way(model: nn.Module) -> nn.Module:
    """Set every PRepBN to a share of a quarter for its layer norm."""
    for norm in model.modules():
        if isinstance(norm, PRepBN):
            norm.iter.fill_(int(norm.total_step) // 4)
    return model


def image(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([0, seed]).standard_normal(shape))
