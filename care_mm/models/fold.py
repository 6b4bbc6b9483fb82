"""Exact folds for inference: norms, scales and the second head move into adjacent layers.

Every fold is an algebraic identity in evaluation mode, so outputs change by rounding only. The
``fold_*`` functions return a new layer and do not modify their arguments.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

# The names of torch's classes, and of the wrappers in mmcv and mmengine that do the same. Other
# subclasses may change the weights in every call, or include an activation.
_CONVOLUTION = "Conv2d"
_NORMS = ("BatchNorm2d", "SyncBatchNorm")


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


def fold_convolutions(model: nn.Module) -> None:
    """Fold batch norms into the convolutions right before them in an MM model, in place.

    Pairs are found in mmcv's ``ConvModule``, in the residual blocks and stems with ``conv1`` and
    ``norm1_name``, and in plain sequences. mmcv's ``fuse_conv_bn`` writes into the convolution,
    which is wrong for heads with one convolution for all levels and a norm for each (RTMDet).

    Args:
        model: In evaluation mode. Convolutions that several modules share are copied.
    """
    for module in list(model.modules()):
        for conv_name, norm_name in _pairs(module):
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            if _are_foldable(conv, norm):
                setattr(module, conv_name, fold_norm_after(conv, norm))
                setattr(module, norm_name, nn.Identity())


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of each convolution and the norm that is applied to its output."""
    if hasattr(module, "order") and hasattr(module, "with_norm"):  # mmcv's ConvModule
        follows = "conv norm" in " ".join(module.order)
        fused_on_call = getattr(module, "efficient_conv_bn_eval_forward", None) is not None
        if module.with_norm and follows and not fused_on_call:
            yield "conv", module.norm_name
    elif type(module).forward is nn.Sequential.forward:
        yield from pairwise(name for name, _ in module.named_children())
    else:
        for number in range(1, 4):
            names = f"conv{number}", getattr(module, f"norm{number}_name", "")
            if all(name in module._modules for name in names):
                yield names


def _are_foldable(conv: nn.Module, norm: nn.Module) -> bool:
    """Whether both are plain: no weight standardisation, spectral norm or built-in activation."""
    plain = type(conv).__name__ == _CONVOLUTION and isinstance(conv, nn.Conv2d)
    return (
        plain
        and not conv._forward_pre_hooks
        and type(norm).__name__ in _NORMS
        and is_foldable(norm)
    )


def switch_to_deploy(model: nn.Module) -> nn.Module:
    """Fold everything that can be folded in a model of any package, in place.

    Calls ``switch_to_deploy`` on every submodule that has it, as the MM packages name the method,
    timm's own function on models of timm, and :func:`fold_convolutions`.

    Returns:
        ``model``, in evaluation mode.
    """
    for module in list(model.modules()):
        if module is not model and hasattr(module, "switch_to_deploy"):
            module.switch_to_deploy()
    for timm_model in list(_timm_models(model)):
        from timm.utils.model import reparameterize_model

        reparameterize_model(timm_model, inplace=True)
    fold_convolutions(model)
    return model.eval()


def _timm_models(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules whose class is timm's."""
    if type(module).__module__.startswith("timm."):
        yield module
        return
    for child in module.children():
        yield from _timm_models(child)
