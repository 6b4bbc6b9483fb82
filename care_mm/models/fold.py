"""Exact folds for inference: norms, scales and the second head go into the layers beside them.

All of them are algebraic identities of the evaluation-mode model; they differ from the unfolded
one by rounding only. They return a new layer and leave their arguments alone.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_foldable(norm: nn.Module) -> bool:
    """Whether ``norm`` is an affine function per channel in evaluation mode (BN, SyncBN)."""
    return isinstance(norm, _BatchNorm) and norm.track_running_stats


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift, each (C,), that evaluation-mode ``norm`` applies."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    return scale.detach(), shift.detach()


def _replace(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> nn.Conv2d:
    conv = copy.deepcopy(conv)
    conv.weight = nn.Parameter(weight.detach().to(conv.weight.dtype), conv.weight.requires_grad)
    conv.bias = nn.Parameter(bias.detach().to(conv.weight.dtype), conv.weight.requires_grad)
    return conv


def _bias(conv: nn.Conv2d) -> Tensor:
    return conv.weight.new_zeros(conv.out_channels) if conv.bias is None else conv.bias


@torch.no_grad()
def fold_norm_after(conv: nn.Conv2d, norm: _BatchNorm) -> nn.Conv2d:
    """One convolution equal to ``norm(conv(x))``."""
    scale, shift = _affine(norm)
    return _replace(conv, conv.weight * scale[:, None, None, None], _bias(conv) * scale + shift)


@torch.no_grad()
def fold_norm_before(norm: _BatchNorm, conv: nn.Conv2d) -> nn.Conv2d:
    """One convolution equal to ``conv(norm(x))``.

    Raises:
        ValueError: The convolution pads (padding zeros are not shifted by the norm, so that the
            fold would be wrong at the border) or is grouped.
    """
    if any(conv.padding) or conv.groups != 1:
        raise ValueError(
            "a norm folds into the convolution after it only without padding and groups"
        )
    scale, shift = _affine(norm)
    bias = _bias(conv) + conv.weight.sum((2, 3)) @ shift
    return _replace(conv, conv.weight * scale[None, :, None, None], bias)


@torch.no_grad()
def fold_scale_after(conv: nn.Conv2d, scale: Tensor) -> nn.Conv2d:
    """One convolution equal to ``scale * conv(x)`` with one factor per channel."""
    return _replace(conv, conv.weight * scale[:, None, None, None], _bias(conv) * scale)


@torch.no_grad()
def fold_mean_of_linears(*branches: tuple[nn.LayerNorm, nn.Linear]) -> nn.Linear:
    """One linear layer whose output on normalised input is the mean of the branches' outputs.

    Args:
        branches: Layer norms with weights, each with the linear layer after it. What they
            normalise has to be the same, and so their ``eps``.
    """
    weights = [fc.weight * norm.weight for norm, fc in branches]
    biases = [fc.weight @ norm.bias + fc.bias for norm, fc in branches]
    merged = copy.deepcopy(branches[0][1])
    merged.weight.copy_(sum(weights) / len(branches))
    merged.bias.copy_(sum(biases) / len(branches))
    return merged


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """Deploy every part of ``model`` that can be, in place: ours inside anybody's model too.

    Calls the ``switch_to_deploy`` of each submodule that has one, as MM's models do.

    Returns:
        ``model``, in evaluation mode.
    """
    for module in list(model.modules()):
        if module is not model and hasattr(module, "switch_to_deploy"):
            module.switch_to_deploy()
    return model.eval()
