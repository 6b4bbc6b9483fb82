"""One of the two classification heads of the ImageNet model."""

from __future__ import annotations

from torch import Tensor, nn


class HeadBranch(nn.Module):
    """GELU -> LayerNorm -> Linear on pooled features."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.act = nn.GELU()
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.fc = nn.Linear(in_channels, num_classes)
        nn.init.trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels) -> (B, num_classes)."""
        return self.fc(self.norm(self.act(x)))
