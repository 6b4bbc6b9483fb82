"""A fused AdamW for the CPU and the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from mmengine.utils import digit_version

_NO_SETTINGS = {"params", "param_names"}
FUSES_ON_CPU = digit_version(torch.__version__) >= digit_version("2.4")


@OPTIMIZERS.register_module()
class FusedAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW(fused=True)``; plain AdamW before torch 2.4, which fuses on GPUs only.

    mmengine's ``paramwise_cfg`` makes a group of every parameter. Groups with equal settings take a
    step together, which saves hundreds of calls.

    Args:
        params: Parameters or parameter groups.
        **settings: Further arguments of AdamW.
    """

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        super().__init__(params, fused=FUSES_ON_CPU, **settings)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; see ``torch.optim.AdamW``."""
        groups, self.param_groups = self.param_groups, _merged(self.param_groups)
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def _merged(groups: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return new groups, one for all parameters with the same settings."""
    merged: dict[str, dict[str, Any]] = {}
    for group in groups:
        settings = repr([(key, group[key]) for key in sorted(group.keys() - _NO_SETTINGS)])
        first = merged.setdefault(settings, {**group, "params": []})
        first["params"] += group["params"]
    return list(merged.values())
