"""Progressive re-parameterised batch norm: a layer norm that becomes a batch norm in training.

Source: SLAB (arXiv 2405.11582, PRepBN), and the authors' released models.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from care_mm.models.fold import is_foldable
from care_mm.peers.layers import NormLayer


class RepBN(nn.Module):
    """``BN(x) + alpha * x`` with statistics per channel over batch and tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.bn = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return self.bn(x.flatten(0, -2)).reshape(x.shape) + self.alpha * x


class PRepBN(nn.Module):
    """A mixture ``lambda * LN(x) + (1 - lambda) * RepBN(x)``.

    In training, lambda falls linearly from 1 to 0 over ``total_step`` forward passes, after
    ``warm`` passes with the layer norm alone. In evaluation the norm is the RepBN alone, at any
    step.

    Args:
        dim: Channels, the last dimension of the input.
        eps: Epsilon of the layer norm; that of the batch norm is 1e-5.
        total_step: Forward passes until the layer norm has no effect.
    """

    def __init__(self, dim: int, eps: float, total_step: int) -> None:
        super().__init__()
        self.register_buffer("warm", torch.tensor(0))
        self.register_buffer("iter", torch.tensor(total_step))
        self.register_buffer("total_step", torch.tensor(total_step))
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.norm2 = RepBN(dim)

    @classmethod
    def layer(cls, eps: float, total_step: int) -> NormLayer:
        """Return a function that builds the norm for a number of channels."""
        return partial(cls, eps=eps, total_step=total_step)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        if not self.training:
            return self.norm2(x)
        if int(self.warm) > 0:
            self.warm -= 1
            return self.norm1(x)
        share = (self.iter / self.total_step).to(x.dtype)
        self.iter -= (self.iter > 0).to(self.iter.dtype)
        return share * self.norm1(x) + (1 - share) * self.norm2(x)

    @torch.no_grad()
    def batch_norm(self) -> nn.BatchNorm1d:
        """Return the batch norm that equals this norm in evaluation mode.

        Raises:
            ValueError: The batch norm has no running statistics.
        """
        bn, alpha = self.norm2.bn, self.norm2.alpha
        if not is_foldable(bn):
            raise ValueError("a RepBN without running statistics is no affine map")
        merged = nn.BatchNorm1d(bn.num_features, eps=bn.eps).to(bn.weight)
        merged.load_state_dict(bn.state_dict())
        merged.weight += alpha * (bn.running_var + bn.eps).sqrt()
        merged.bias += alpha * bn.running_mean
        return merged.train(bn.training)


@torch.no_grad()
def fold_into_linear(norm: PRepBN, linear: nn.Linear) -> nn.Linear:
    """Return one linear layer, with a bias, equal to ``linear(norm(x))`` in evaluation mode."""
    bn = norm.batch_norm()
    scale = bn.weight / (bn.running_var + bn.eps).sqrt()
    shift = bn.bias - scale * bn.running_mean
    folded = nn.Linear(linear.in_features, linear.out_features).to(linear.weight)
    folded.weight.copy_(linear.weight * scale)
    folded.bias.copy_(linear.weight @ shift)
    if linear.bias is not None:
        folded.bias += linear.bias
    return folded.requires_grad_(linear.weight.requires_grad)
