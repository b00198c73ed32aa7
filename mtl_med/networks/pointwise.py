"""Convolutions of one position, done as the matrix products that they are: on a CPU the faster, the smaller the map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["PointwiseConv2d", "PointwiseConv3d", "pointwise"]


class PointwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` of one position and stride 1, with the same parameters and state keys."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


class PointwiseConv3d(nn.Conv3d):
    """`nn.Conv3d` of one position and stride 1, with the same parameters and state keys."""

    def forward(self, x: Tensor) -> Tensor:
        return pointwise(x, self.weight, self.bias)


def pointwise(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolution of one position.

    Args:
        x: `(B, C, *spatial)` in 2D or 3D.
        weight: `(C', C, 1, 1)`, or with one axis more.
        bias: `(C')`.

    Returns:
        `(B, C', *spatial)`.
    """
    if torch.jit.is_scripting():
        y = F.conv2d(x, weight, bias) if x.dim() == 4 else F.conv3d(x, weight, bias)
    elif is_matrix(x):  # the result lies in channels-last memory, too
        y = F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
    else:
        y = F.conv2d(x, weight, bias) if x.dim() == 4 else F.conv3d(x, weight, bias)
    return y


def is_matrix(x: Tensor) -> bool:
    """Whether `(positions, C)` is how the map lies in a CPU's memory; exporters get a plain convolution."""
    exporting = torch.jit.is_tracing() or torch.compiler.is_compiling()
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    return not exporting and x.device.type == "cpu" and x.is_contiguous(memory_format=layout)
