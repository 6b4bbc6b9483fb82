"""Every variant of CARE that the tests build: sizes, ablations, and small models."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

from mmengine.config import Config

CONFIGS = sorted((Path(__file__).parents[1] / "configs" / "ablation").glob("*.py"))
TINY = dict(
    depths=(1, 1, 2),
    mem_dims=(4, 8, 12),
    interaction_ratios=((2, 1), (2, 2), (2, 3)),
    attn_head_dims=(None, 4, 6),
)
SWITCHES = [
    dict(memory=memory, inter1=inter1, inter2=inter2, decoupling=decoupling)
    for memory, inter1, inter2, decoupling in product(
        (True, False), (True, False), (True, False), ("asymmetrical", "symmetrical", "stacked")
    )
]
SWITCHES.append({**SWITCHES[0], "attn_head_dims": (2, 4, 6)})  # attention in every stage
SWITCHES += [{**SWITCHES[0], "attention": name} for name in ("focused", "simplified", "softmax")]


def name_of(switches: dict) -> str:
    """Return a readable name of a combination of switches."""
    return "-".join(map(str, switches.values()))


def ablation(path: Path) -> dict[str, Any]:
    """Return the arch of a config with fewer blocks, since all blocks of a stage are equal."""
    return {**Config.fromfile(path).model.backbone.arch, "depths": (1, 1, 1, 2)}


# Name -> arguments of the backbone.
VARIANTS: dict[str, dict[str, Any]] = {
    **{arch: dict(arch=arch) for arch in ("s0", "s1", "s2")},
    **{path.stem: dict(arch=ablation(path)) for path in CONFIGS},
    **{
        f"tiny-{name_of(switches)}": dict(arch={**TINY, **switches}, out_indices=(0, 1, 2))
        for switches in SWITCHES
    },
}
