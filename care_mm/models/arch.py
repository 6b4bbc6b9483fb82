"""The variants of CARE: hyperparameters, switches for the paper's ablations, and named sizes.

Source: CARE Transformer, CVPR 2025 (arXiv 2411.16170), and the authors' released models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

PER_STAGE = ("depths", "mem_dims", "interaction_ratios", "attn_head_dims")
# Name of a decoupling -> channels of the features in multiples of the memory channels.
DECOUPLINGS = {"asymmetrical": 3, "symmetrical": 2, "stacked": 3}
ATTENTIONS = ("linear", "focused", "simplified", "softmax")


@dataclass(frozen=True)
class Arch:
    """The hyperparameters of a CARE variant; every tuple has one entry per stage.

    A stage's tensor is ``[memory | features]`` with ``mem_dim`` and ``3 * mem_dim`` channels. The
    fields with a default are switches for the paper's ablations; the defaults give the published
    model.

    Attributes:
        depths: Number of blocks.
        mem_dims: Channels of the memory and of the global branch (the paper's d1).
        interaction_ratios: Expansion ratios ``(Inter1, Inter2)`` of the dual interaction.
        attn_head_dims: Channels of one attention head; ``None`` replaces linear attention by a
            pair of 11x1 and 1x11 depthwise convolutions.
        memory: ``False`` removes the memory: the stage's tensor is the features alone.
        inter1: ``False`` makes Inter1 the identity.
        inter2: ``False`` makes Inter2 the identity. The last block then has nothing to expand and
            is built like the others.
        decoupling: How the features are distributed over the branches. ``'asymmetrical'``:
            ``3 * mem_dim`` channels, a third for the global branch and a third for each local
            branch (d2 = 2 d1). ``'symmetrical'``: ``2 * mem_dim`` channels, a half for the global
            branch and a quarter for each local branch (d2 = d1). ``'stacked'``: ``3 * mem_dim``
            channels, half of them through each local branch, then all of them through the global
            branch.
        attention: The attention of the global branch, where ``attn_head_dims`` is not ``None``.
            ``'linear'`` is the paper's; ``'focused'`` is FLatten's, ``'simplified'`` SLAB's, and
            ``'softmax'`` has a quadratic cost. See :mod:`care_mm.models.attention`.

    Raises:
        ValueError: Tuples of unequal length, a number that is not positive, a head width that does
            not divide the width of the global branch, an odd width to halve, or an unknown value
            of a switch.
    """

    depths: tuple[int, ...]
    mem_dims: tuple[int, ...]
    interaction_ratios: tuple[tuple[int, int], ...]
    attn_head_dims: tuple[int | None, ...]
    memory: bool = True
    inter1: bool = True
    inter2: bool = True
    decoupling: str = "asymmetrical"
    attention: str = "linear"

    def __post_init__(self) -> None:
        lengths = {name: len(getattr(self, name)) for name in PER_STAGE}
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
        for name in ("memory", "inter1", "inter2"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"arch: {name}={getattr(self, name)!r} must be True or False")
        for name, choices in (("decoupling", DECOUPLINGS), ("attention", ATTENTIONS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"arch: {name}={getattr(self, name)!r} is unknown: choose one of "
                    f"{', '.join(choices)}"
                )
        self._check_widths()

    def _check_widths(self) -> None:
        stacked = self.decoupling == "stacked"
        for stage, (mem_dim, head_dim) in enumerate(
            zip(self.mem_dims, self.attn_head_dims, strict=True)
        ):
            if self.decoupling != "asymmetrical" and mem_dim % 2:
                raise ValueError(
                    f"arch: mem_dims[{stage}]={mem_dim} is odd: {self.decoupling} decoupling "
                    "halves it between the local branches"
                )
            width = self.feature_dims[stage] if stacked else mem_dim
            if head_dim is not None and (head_dim <= 0 or width % head_dim):
                raise ValueError(
                    f"arch: attn_head_dims[{stage}]={head_dim} does not divide the global "
                    f"branch's width {width} (mem_dims[{stage}]={mem_dim})"
                )

    @property
    def feature_dims(self) -> tuple[int, ...]:
        """Channels of the features, per stage."""
        return tuple(DECOUPLINGS[self.decoupling] * mem_dim for mem_dim in self.mem_dims)

    @property
    def embed_dims(self) -> tuple[int, ...]:
        """Channels of the stage's tensor (memory and features), per stage."""
        widths = zip(self.mem_dims, self.feature_dims, strict=True)
        return tuple(self.memory * mem_dim + feature_dim for mem_dim, feature_dim in widths)

    @classmethod
    def get(cls, arch: str | Mapping) -> Arch:
        """Return a named variant of ``ARCHS``, or build one from a dict with these fields.

        A dict with a ``base`` inherits all fields that it does not give:
        ``dict(base='s1', decoupling='stacked')``.

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
        values = dict(arch)
        if "base" in values:
            base = cls.get(values.pop("base"))
            values = {name: getattr(base, name) for name in names} | values
        unknown, missing = set(values) - set(names), set(PER_STAGE) - set(values)
        if unknown or missing:
            raise ValueError(
                f"arch dict: unknown keys {sorted(unknown)}, missing keys {sorted(missing)}; "
                f"the keys are {names}; with a base (one of {list(ARCHS)}), the rest is inherited"
            )
        values |= {name: tuple(values[name]) for name in PER_STAGE}
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
