"""Set the layer scales of any backbone when its weights are initialised."""

from __future__ import annotations

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import nn

# Ends of the names that CARE, its peers and the models of timm give to layer scales.
NAMES = ("gamma", "layer_scale")


@WEIGHT_INITIALIZERS.register_module()
class LayerScale:
    """Give every layer scale the same value: ``init_cfg=dict(type='LayerScale', value=0.5)``.

    A layer scale is a parameter with one value for each channel that multiplies the branch of a
    residual block. Published models start it at 1e-5 or 1e-6, for long training. A model without
    layer scales is not changed.

    Args:
        value: The initial value.
    """

    def __init__(self, value: float = 0.5) -> None:
        self.value = value

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Set the layer scales of a module and of all its parts."""
        for name, parameter in module.named_parameters():
            if name.endswith(NAMES) and parameter.numel() == max(parameter.shape, default=1):
                parameter.fill_(self.value)
