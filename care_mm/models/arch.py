"""The sizes of CARE: a table of named variants, and the checks for a custom one.

Source: CARE Transformer, CVPR 2025 (arXiv 2411.16170), Table 1 and the released models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Arch:
    """What tells one CARE from another; every tuple has one entry per stage.

    A stage's tensor is ``[memory | features]`` with ``mem_dim`` and ``3 * mem_dim`` channels.

    Args:
        depths: Number of blocks.
        mem_dims: Memory channels.
        interaction_ratios: Expansion ratios ``(Inter1, Inter2)`` of the dual interaction.
        attn_head_dims: Channels of one attention head; ``None`` puts the pair of 11x1 and 1x11
            depthwise convolutions in place of linear attention.

    Raises:
        ValueError: Entries of unequal length, a non-positive number, or a head width that does
            not divide the memory width.
    """

    depths: tuple[int, ...]
    mem_dims: tuple[int, ...]
    interaction_ratios: tuple[tuple[int, int], ...]
    attn_head_dims: tuple[int | None, ...]

    def __post_init__(self) -> None:
        lengths = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            raise ValueError(f"arch: every entry needs one item per stage, got {lengths}")
        if any(len(pair) != 2 for pair in self.interaction_ratios):
            raise ValueError(
                f"arch: interaction_ratios needs a pair per stage, got {self.interaction_ratios}"
            )
        ratios = [ratio for pair in self.interaction_ratios for ratio in pair]
        numbers = [*self.depths, *self.mem_dims, *ratios]
        if not all(isinstance(n, int) and n > 0 for n in numbers):
            raise ValueError(
                "arch: depths, mem_dims and interaction_ratios must be positive integers, got "
                f"{self.depths}, {self.mem_dims}, {self.interaction_ratios}"
            )
        for stage, (mem_dim, head_dim) in enumerate(
            zip(self.mem_dims, self.attn_head_dims, strict=True)
        ):
            if head_dim is not None and (head_dim <= 0 or mem_dim % head_dim):
                raise ValueError(
                    f"arch: attn_head_dims[{stage}]={head_dim} does not divide "
                    f"mem_dims[{stage}]={mem_dim}"
                )

    @classmethod
    def get(cls, arch: str | Mapping) -> Arch:
        """Look a name up in ``ARCHS``, or check a dict with the fields of this class.

        Raises:
            ValueError: Unknown name, unknown or missing key, or inconsistent values.
        """
        if isinstance(arch, str):
            if arch.lower() not in ARCHS:
                raise ValueError(
                    f"arch {arch!r} is unknown: choose one of {', '.join(ARCHS)}, or give a dict"
                )
            return ARCHS[arch.lower()]
        names = [field.name for field in fields(cls)]
        unknown, missing = set(arch) - set(names), set(names) - set(arch)
        if unknown or missing:
            raise ValueError(
                f"arch dict: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; "
                f"it takes {names}"
            )
        values = {name: tuple(arch[name]) for name in names}
        values["interaction_ratios"] = tuple(tuple(pair) for pair in values["interaction_ratios"])
        return cls(**values)


ARCHS = {
    "s0": Arch(
        depths=(2, 4, 8, 4),
        mem_dims=(8, 16, 32, 64),
        interaction_ratios=((2, 2), (2, 4), (4, 4), (4, 4)),
        attn_head_dims=(None, None, 16, 32),
    ),
    "s1": Arch(
        depths=(3, 6, 10, 6),
        mem_dims=(8, 16, 32, 64),
        interaction_ratios=((2, 4), (2, 4), (4, 4), (4, 4)),
        attn_head_dims=(None, None, 16, 32),
    ),
    "s2": Arch(
        depths=(3, 6, 10, 6),
        mem_dims=(8, 16, 48, 96),
        interaction_ratios=((4, 4), (4, 4), (4, 4), (4, 4)),
        attn_head_dims=(None, None, 16, 32),
    ),
}
