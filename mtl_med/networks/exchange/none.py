"""No exchange: every task keeps its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["NoExchange"]


class NoExchange(nn.Module):
    """Identity with the signature of an exchange."""

    def __init__(self, spatial_dims: int, in_channels: int, tasks: Sequence[str], **_: Any) -> None:
        super().__init__()

    def out_channels(self, in_channels: int) -> int:
        """Channels of each task's result."""
        return in_channels

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return features
