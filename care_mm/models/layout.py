"""The memory layout in which a CPU is fastest: channels_last, with the same numbers.

torch's convolutions on the CPU (oneDNN) reorder their tensors unless channels come last. In NCHW
and with one thread, torch even computes 1x1 convolutions of small batches without oneDNN.
"""

from __future__ import annotations

import torch
from torch import Tensor

# torch 2.1 may lack the function; a compiled graph then converts the layout, which is harmless.
_is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)


def prefers_channels_last(x: Tensor) -> bool:
    """Whether eager torch computes faster if this input has channels_last layout.

    Code that is compiled, exported or traced keeps the layout it is given.
    """
    return x.device.type == "cpu" and x.dtype == torch.float32 and _is_eager()


def in_layout_of(out: Tensor, x: Tensor) -> Tensor:
    """Return ``out`` in channels_last layout if ``x`` has it, also as a slice of channels.

    ``torch.cat`` returns NCHW as soon as one of its inputs is in NCHW.
    """
    if _is_eager() and x.stride(1) == 1 and x.stride(3) != 1:
        return out.contiguous(memory_format=torch.channels_last)
    return out


def _is_eager() -> bool:
    return not (_is_compiling() or torch.jit.is_tracing())
