"""An exact fold of SegFormer's head: its fusion runs at the resolution of each feature map.

mmseg's ``SegformerHead`` resizes all maps to the finest one, concatenates them, and fuses them with
a 1 x 1 convolution. That convolution is linear in the channels and resizing is linear in the
positions, so the order does not matter::

    fusion(concat(resize(x_i))) = sum_i resize(W_i x_i) + b,  W = (W_1, ..., W_n)

The folded form has no concatenated map, and the coarse maps are fused before they are enlarged.
With four maps at strides 4 to 32, the fusion has a third of its multiply-adds.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FoldedSegformerHead(nn.Module):
    """SegFormer's head for inference, with one fusion convolution for each map.

    Args:
        head: mmseg's ``SegformerHead`` for which :func:`is_foldable_head` holds. The norm of its
            fusion may be folded into the convolution already. The head is not modified.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        self.threshold = getattr(head, "threshold", None)
        self.fusions = _slices(self.head.fusion_conv.conv, [head.channels] * len(head.convs))
        self.head.fusion_conv.conv = nn.Identity()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return logits (B, classes, H, W) of the finest map for maps (B, C, H, W) of a pyramid."""
        head = self.head
        maps = head._transform_inputs(inputs)
        size = maps[0].shape[2:]
        projected = [conv(x) for conv, x in zip(head.convs, maps, strict=True)]
        total, *coarse = (fuse(x) for fuse, x in zip(self.fusions, projected, strict=True))
        for x in coarse:
            total = total + F.interpolate(
                x, size, mode=head.interpolate_mode, align_corners=head.align_corners
            )
        return head.cls_seg(head.fusion_conv(total))


@torch.no_grad()
def _slices(conv: nn.Conv2d, widths: Sequence[int]) -> nn.ModuleList:
    """Return one convolution for each group of input channels; their sum equals ``conv``."""
    slices = nn.ModuleList()
    for weight in conv.weight.split(list(widths), 1):
        has_bias = not slices and conv.bias is not None
        part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=has_bias)
        part.weight = nn.Parameter(weight.clone(), conv.weight.requires_grad)
        if part.bias is not None:
            part.bias = nn.Parameter(conv.bias.clone(), conv.weight.requires_grad)
        slices.append(part.to(conv.weight))
    return slices


def is_foldable_head(head: nn.Module) -> bool:
    """Whether a decode head is mmseg's ``SegformerHead`` with a plain 1 x 1 fusion convolution."""
    if type(head).__name__ != "SegformerHead" or not hasattr(head, "fusion_conv"):
        return False
    fusion = head.fusion_conv
    conv = fusion.conv
    return (
        type(conv).__name__ == "Conv2d"
        and not conv._forward_pre_hooks  # spectral or weight normalisation
        and getattr(fusion, "efficient_conv_bn_eval_forward", None) is None
        and tuple(fusion.order) == ("conv", "norm", "act")
        and (conv.kernel_size, conv.stride, conv.groups) == ((1, 1), (1, 1), 1)
        and conv.padding == (0, 0)
    )


def fold_segformer_head(model: nn.Module) -> nn.Module:
    """Replace a segmentor's head by its folded form, in place, if it is a ``SegformerHead``.

    Args:
        model: A model of any task, in evaluation mode. Other models are left as they are.

    Returns:
        ``model``.
    """
    head = getattr(model, "decode_head", None)
    if isinstance(head, nn.Module) and is_foldable_head(head):
        model.decode_head = FoldedSegformerHead(head).eval()
    return model
