"""A fused AdamW for the CPU and the GPU."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.registry import OPTIMIZERS
from mmengine.utils import digit_version

FUSES_ON_CPU = digit_version(torch.__version__) >= digit_version("2.4")


@OPTIMIZERS.register_module()
class FusedAdamW(torch.optim.AdamW):
    """``torch.optim.AdamW(fused=True)``; plain AdamW before torch 2.4, which fuses on GPUs only.

    Args:
        params: Parameters or parameter groups.
        **settings: Further arguments of AdamW.
    """

    def __init__(self, params: Iterable[Any], **settings: Any) -> None:
        super().__init__(params, fused=FUSES_ON_CPU, **settings)
