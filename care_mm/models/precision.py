"""The precision of sums that half precision would overflow or underflow."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

try:
    torch.is_autocast_enabled("cpu")
    _is_autocast_enabled = torch.is_autocast_enabled
except TypeError:  # torch < 2.4 has one function per device

    def _is_autocast_enabled(device_type: str) -> bool:
        cpu = device_type == "cpu"
        return torch.is_autocast_cpu_enabled() if cpu else torch.is_autocast_enabled()


def without_autocast(device_type: str) -> AbstractContextManager:
    """Return a context in which matrix products keep the dtype of their operands."""
    if device_type == "meta":  # shapes only, of which torch's autocast knows nothing
        return nullcontext()
    enabled = _is_autocast_enabled(device_type)
    return torch.autocast(device_type, enabled=False) if enabled else nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """Return half-precision input in float32, and any other input unchanged."""
    # torch.jit.script cannot search a tuple of dtypes.
    return x.float() if x.dtype == torch.float16 or x.dtype == torch.bfloat16 else x
