"""Exact folds for inference: norms, scales and the second head move into adjacent layers.

Every fold is an algebraic identity in evaluation mode, so outputs change by rounding only. The
``fold_*`` functions return a new layer and do not modify their arguments.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def is_foldable(norm: nn.Module) -> bool:
    """Whether ``norm`` is an affine map per channel in evaluation mode (BN, SyncBN)."""
    return isinstance(norm, _BatchNorm) and norm.track_running_stats


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Return the scale and shift, each (C,), that ``norm`` applies in evaluation mode."""
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
    """Return one convolution equal to ``norm(conv(x))``."""
    scale, shift = _affine(norm)
    return _replace(conv, conv.weight * scale[:, None, None, None], _bias(conv) * scale + shift)


@torch.no_grad()
def fold_norm_before(norm: _BatchNorm, conv: nn.Conv2d) -> nn.Conv2d:
    """Return one convolution equal to ``conv(norm(x))``.

    Raises:
        ValueError: The convolution is grouped, or it pads: the norm does not shift the zeros of
            the padding, so the fold would be wrong at the border.
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
    """Return one convolution equal to ``scale * conv(x)``, with ``scale`` of shape (C,)."""
    return _replace(conv, conv.weight * scale[:, None, None, None], _bias(conv) * scale)


@torch.no_grad()
def fold_mean_of_linears(*branches: tuple[nn.LayerNorm, nn.Linear]) -> nn.Linear:
    """Return one linear layer that maps normalised input to the mean of the branches' outputs.

    Args:
        branches: Pairs of a layer norm with weights and the linear layer after it. All norms must
            have the same input and the same ``eps``.
    """
    weights = [fc.weight * norm.weight for norm, fc in branches]
    biases = [fc.weight @ norm.bias + fc.bias for norm, fc in branches]
    merged = copy.deepcopy(branches[0][1])
    merged.weight.copy_(sum(weights) / len(branches))
    merged.bias.copy_(sum(biases) / len(branches))
    return merged


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """Fold everything that can be folded in a model of any package, in place.

    Calls ``switch_to_deploy`` on every submodule that has it, as the MM packages name the method,
    and timm's own function on models of timm.

    Returns:
        ``model``, in evaluation mode.
    """
    for module in list(model.modules()):
        if module is not model and hasattr(module, "switch_to_deploy"):
            module.switch_to_deploy()
    for timm_model in list(_timm_models(model)):
        from timm.utils.model import reparameterize_model

        reparameterize_model(timm_model, inplace=True)
    return model.eval()


def _timm_models(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules whose class is timm's."""
    if type(module).__module__.startswith("timm."):
        yield module
        return
    for child in module.children():
        yield from _timm_models(child)
