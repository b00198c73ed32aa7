"""Instance norm that stays in channels-last memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["InstanceNorm"]


class InstanceNorm(nn.Module):
    """Norm over the spatial axes of each sample and channel, with the maths and state keys of `nn.InstanceNorm3d`.

    `F.instance_norm` copies channels-last tensors to contiguous memory and back. For one sample, instance norm is
    batch norm with that sample's own statistics, whose kernel reads either layout.

    Args:
        channels: of the input `(B, channels, *spatial)`.
        affine: whether weight and bias are learned.
    """

    def __init__(self, channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        super().__init__()
        self.channels, self.eps = channels, eps
        if affine:
            self.weight = nn.Parameter(torch.ones(channels))
            self.bias = nn.Parameter(torch.zeros(channels))
        else:
            self.register_parameter("weight", None)
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            y = F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        else:
            y = self.eager(x)
        return y

    @torch.jit.unused
    def eager(self, x: Tensor) -> Tensor:
        """One sample after the other where that keeps channels-last memory; exporters get a plain instance norm."""
        exporting = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if exporting or x.device.type != "cpu" or x.is_contiguous():
            return F.instance_norm(x, None, None, self.weight, self.bias, True, 0.0, self.eps)
        samples = [F.batch_norm(s, None, None, self.weight, self.bias, True, 0.0, self.eps) for s in x.split(1)]
        return samples[0] if len(samples) == 1 else torch.cat(samples)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}, affine={self.weight is not None}"
