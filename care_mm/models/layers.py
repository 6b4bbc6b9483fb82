"""The layers of CARE, leaf to root: linear attention, token mixer, interaction, block.

Source: CARE Transformer, CVPR 2025 (arXiv 2411.16170). Tensors are (B, C, H, W) throughout. A
stage's tensor is the concatenation ``[memory | features]`` of ``mem_dim`` and ``3 * mem_dim``
channels, and the features are three groups ``[global | local-3 | local-7]`` of ``mem_dim`` each.
The switches of :class:`care_mm.models.arch.Arch` change this for the paper's ablations.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from care_mm.models.arch import DECOUPLINGS
from care_mm.models.attention import FocusedAttention, SimplifiedAttention, SoftmaxAttention
from care_mm.models.fold import fold_norm_after, fold_norm_before, fold_scale_after, is_foldable
from care_mm.models.layout import in_layout_of
from care_mm.models.precision import at_least_float32, without_autocast

NormLayer = Callable[[int], nn.Module]
ActLayer = Callable[[], nn.Module]


def depthwise(dim: int, kernel_size: int | tuple[int, int]) -> nn.Conv2d:
    """Return a depthwise convolution with an odd kernel that keeps the input's size."""
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return nn.Conv2d(
        dim, dim, (height, width), padding=(height // 2, width // 2), groups=dim, bias=True
    )


@torch.fx.wrap
def attend(qk: Tensor, x: Tensor, num_heads: int, head_dim: int, eps: float) -> Tensor:
    """Compute linear attention from queries and keys (B, 2 * C, H, W) and values (B, C, H, W).

    torch.fx keeps the call as one node, since the steps depend on device, dtype and autocast.
    TorchScript cannot switch autocast off, so a scripted model should not run under it.

    Returns:
        (B, C, H, W) in the dtype of ``x``; see :class:`LinearAttention`.
    """
    if torch.jit.is_scripting():
        return _attend(qk, x, num_heads, head_dim, eps)
    else:
        with without_autocast(x.device.type):
            return in_layout_of(_attend(qk, x, num_heads, head_dim, eps), x)


def _attend(qk: Tensor, x: Tensor, num_heads: int, head_dim: int, eps: float) -> Tensor:
    heads = (num_heads, head_dim)
    qk = F.elu(at_least_float32(qk).flatten(2)) + 1.0
    q, k = [t.unflatten(1, heads) for t in qk.chunk(2, dim=1)]
    v = at_least_float32(x).flatten(2).unflatten(1, heads)
    k = k / v.shape[-1]
    kv = v @ k.transpose(-1, -2)  # (B, heads, D, D)
    normaliser = k.sum(-1, keepdim=True).transpose(-1, -2) @ q + eps
    out = (kv @ q) / normaliser
    return out.reshape(x.shape).to(x.dtype)


class LinearAttention(nn.Module):
    r"""Linear attention without a value projection (global branch of stages 3 and 4).

    With :math:`\varphi = \mathrm{ELU} + 1` and :math:`N = HW` tokens, per head,
    :math:`\varphi(q)(\varphi(k)^T v / N) / (\varphi(q)\,\overline{\varphi(k)}^T + 10^{-6})`,
    at a cost linear in N. The code is channel first: the convolution returns keys, values and
    queries as (D, N), so they are never copied to transpose them.

    Half-precision input is computed in float32, with or without autocast, because the sum over N
    overflows float16 and the normaliser underflows it. k is divided by N before the product.

    Args:
        dim: Channels, a multiple of ``head_dim``.
        head_dim: Channels of one head, in channel order.
    """

    __constants__ = ("eps",)
    eps = 1e-6

    def __init__(self, dim: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.num_heads = dim // head_dim
        self.qk = nn.Conv2d(dim, 2 * dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return attend(self.qk(x), x, self.num_heads, self.head_dim, self.eps)


# Name of an attention of :class:`care_mm.models.arch.Arch` -> module.
ATTENTIONS = {
    "linear": LinearAttention,
    "focused": FocusedAttention,
    "simplified": SimplifiedAttention,
    "softmax": SoftmaxAttention,
}


class AxialConv(nn.Module):
    """Sum of an 11x1 and a 1x11 depthwise convolution (global branch of stages 1 and 2)."""

    def __init__(self, dim: int, kernel_size: int = 11) -> None:
        super().__init__()
        self.vertical = depthwise(dim, (kernel_size, 1))
        self.horizontal = depthwise(dim, (1, kernel_size))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W)."""
        return self.vertical(x) + self.horizontal(x)


class TokenMixer(nn.Module):
    """Asymmetrical decoupling of the features (paper: "asymmetrical feature decoupling").

    A third of the channels goes through the global branch, a third through a 3x3 and a third
    through a 7x7 depthwise convolution. In the paper's ablations, the global branch gets a half and
    each convolution a quarter, or all channels go through the convolutions and then through the
    global branch.

    Args:
        dim: Memory channels; the features have ``feature_dim`` channels, by default ``3 * dim``.
        head_dim: Width of an attention head, ``None`` for the convolutional global branch.
        decoupling: ``'asymmetrical'``, ``'symmetrical'`` or ``'stacked'``, see
            :class:`care_mm.models.arch.Arch`.
        attention: A name in ``ATTENTIONS``; unused without ``head_dim``.
    """

    def __init__(
        self,
        dim: int,
        head_dim: int | None,
        decoupling: str = "asymmetrical",
        attention: str = "linear",
    ) -> None:
        super().__init__()
        self.feature_dim = DECOUPLINGS[decoupling] * dim
        self.stacked = decoupling == "stacked"
        global_dim = self.feature_dim if self.stacked else dim
        local_dim = (self.feature_dim if self.stacked else self.feature_dim - dim) // 2
        self.split = (local_dim, local_dim) if self.stacked else (dim, local_dim, local_dim)
        self.global_branch = (
            AxialConv(global_dim)
            if head_dim is None
            else ATTENTIONS[attention](global_dim, head_dim)
        )
        self.local3 = depthwise(local_dim, 3)
        self.local7 = depthwise(local_dim, 7)

    def forward(self, x: Tensor) -> Tensor:
        """(B, feature_dim, H, W) -> (B, feature_dim, H, W)."""
        return self.mix(x.split(self.split, dim=1))

    def mix(self, groups: list[Tensor]) -> Tensor:
        """Mix groups of ``split`` channels: (B, split[i], H, W) each -> (B, feature_dim, H, W)."""
        if self.stacked:
            x_local3, x_local7 = groups
            return self.global_branch(
                torch.cat((self.local3(x_local3), self.local7(x_local7)), dim=1)
            )
        x_global, x_local3, x_local7 = groups
        return torch.cat(
            (self.global_branch(x_global), self.local3(x_local3), self.local7(x_local7)), dim=1
        )


class Interaction(nn.Module):
    """Inverted bottleneck that mixes groups of channels: one half of the dual interaction.

    norm -> 1x1 (expand) -> act -> depthwise 3x3 -> 1x1 (project), plus the input. There is no
    activation between the depthwise convolution and the projection.

    Args:
        dim: Input channels.
        ratio: Expansion of the hidden width.
        norm_layer: Builds the norm for a number of channels.
        act_layer: Builds the activation.
        project: ``False`` omits projection and residual, and returns ``ratio * dim`` channels
            (last block of the published stage 4).
    """

    def __init__(
        self,
        dim: int,
        ratio: int,
        norm_layer: NormLayer,
        act_layer: ActLayer,
        project: bool = True,
    ) -> None:
        super().__init__()
        self.norm = norm_layer(dim)
        self.fc1 = nn.Conv2d(dim, ratio * dim, 1)
        self.act = act_layer()
        self.dwconv = depthwise(ratio * dim, 3)
        self.fc2 = nn.Conv2d(ratio * dim, dim, 1) if project else None

    def expand(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, ratio * dim, H, W): everything before the projection."""
        return self.dwconv(self.act(self.fc1(self.norm(x))))

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, H, W) -> (B, dim, H, W), or (B, ratio * dim, H, W) without projection."""
        y = self.expand(x)
        return y if self.fc2 is None else self.fc2(y) + x

    def switch_to_deploy(self) -> None:
        """Fold the norm into fc1; a second call does nothing."""
        if is_foldable(self.norm):
            self.fc1 = fold_norm_before(self.norm, self.fc1)
            self.norm = nn.Identity()


class CAREBlock(nn.Module):
    """Token mixer on the features, then the dual interaction with the memory.

    ``f = Inter1(mixer(features))``, ``y = Inter2([memory | f])``,
    ``out = x + DropPath(gamma * y)`` (paper: "dual interaction").

    Args:
        mem_dim: Memory channels; the block has ``4 * mem_dim`` channels unless a switch below
            changes this.
        ratios: Expansion of Inter1 and Inter2.
        head_dim: Width of an attention head or ``None``, see :class:`TokenMixer`.
        norm_layer: Builds the norm for a number of channels.
        act_layer: Builds the activation.
        drop_path: Module that drops its input per sample, or ``None``.
        layer_scale_init_value: Initial gamma.
        expand: Return Inter2's hidden channels, without gamma and residual (last block of the
            published stage 4).
        memory: ``False`` builds a block on the features alone.
        inter1, inter2: ``False`` makes that interaction the identity.
        decoupling: See :class:`TokenMixer`.
        attention: See :class:`TokenMixer`.

    Raises:
        ValueError: ``expand`` without Inter2.
    """

    # torch.jit.script compiles only the branch that the block takes.
    __constants__ = ("gamma_folded", "with_memory")

    def __init__(
        self,
        mem_dim: int,
        ratios: tuple[int, int],
        head_dim: int | None,
        norm_layer: NormLayer,
        act_layer: ActLayer,
        drop_path: nn.Module | None = None,
        layer_scale_init_value: float = 1e-6,
        expand: bool = False,
        memory: bool = True,
        inter1: bool = True,
        inter2: bool = True,
        decoupling: str = "asymmetrical",
        attention: str = "linear",
    ) -> None:
        super().__init__()
        if expand and not inter2:
            raise ValueError("a block without Inter2 has no hidden channels to return")
        self.token_mixer = TokenMixer(mem_dim, head_dim, decoupling, attention)
        feature_dim = self.token_mixer.feature_dim
        self.with_memory = memory
        # One split for block and mixer: runtimes copy what they split.
        self.split = (mem_dim, *self.token_mixer.split) if memory else self.token_mixer.split
        dim = sum(self.split)
        self.out_channels = ratios[1] * dim if expand else dim
        self.inter1 = (
            Interaction(feature_dim, ratios[0], norm_layer, act_layer) if inter1 else nn.Identity()
        )
        self.inter2 = (
            Interaction(dim, ratios[1], norm_layer, act_layer, project=not expand)
            if inter2
            else nn.Identity()
        )
        gamma = None if expand else nn.Parameter(torch.full((dim,), float(layer_scale_init_value)))
        self.register_parameter("gamma", gamma)
        self.drop_path = nn.Identity() if drop_path is None or expand else drop_path
        self.deploy = False
        self.gamma_folded = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, sum(split), H, W) -> (B, out_channels, H, W)."""
        groups = x.split(self.split, dim=1)
        if self.with_memory:
            c = torch.cat((groups[0], self.inter1(self.token_mixer.mix(groups[1:]))), dim=1)
        else:
            c = self.inter1(self.token_mixer.mix(groups))
        if self.gamma is None:
            return self.inter2(c)
        gamma = self.gamma[:, None, None]
        if self.gamma_folded:
            return x + gamma * c + self.inter2.fc2(self.inter2.expand(c))
        return x + self.drop_path(gamma * self.inter2(c))

    def switch_to_deploy(self) -> None:
        """Fold the norms into the convolutions after them and gamma into Inter2's projection.

        A second call does nothing. A deployed block is for inference only: it has no drop path.
        """
        if self.deploy:
            return
        for interaction in (self.inter1, self.inter2):
            if isinstance(interaction, Interaction):
                interaction.switch_to_deploy()
        if self.gamma is not None and isinstance(self.inter2, Interaction):
            self.inter2.fc2 = fold_scale_after(self.inter2.fc2, self.gamma)
            self.gamma_folded = True
        self.drop_path = nn.Identity()
        self.deploy = True


class ConvNorm(nn.Sequential):
    """A convolution without padding and a norm, in either order.

    The stem is a 4x4 convolution of stride 4, then the norm. The downsampling before stages 2 to 4
    is the norm, then a 2x2 convolution of stride 2, over memory and features together. A side that
    the stride does not divide is rounded down.

    Args:
        in_dim: Input channels.
        out_dim: Output channels.
        stride: Stride and kernel size of the convolution.
        norm_layer: Builds the norm for a number of channels.
        norm_first: Apply the norm before the convolution.
    """

    def __init__(
        self, in_dim: int, out_dim: int, stride: int, norm_layer: NormLayer, norm_first: bool
    ) -> None:
        conv = nn.Conv2d(in_dim, out_dim, stride, stride)
        super().__init__()
        if norm_first:
            self.norm = norm_layer(in_dim)
            self.conv = conv
        else:
            self.conv = conv
            self.norm = norm_layer(out_dim)
        self.norm_first = norm_first

    def switch_to_deploy(self) -> None:
        """Fold the norm into the convolution; a second call does nothing."""
        if is_foldable(self.norm):
            self.conv = (
                fold_norm_before(self.norm, self.conv)
                if self.norm_first
                else fold_norm_after(self.conv, self.norm)
            )
            self.norm = nn.Identity()
