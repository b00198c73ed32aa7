"""Islands of full precision under autocast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["full_precision", "wide"]


@torch.jit.unused
def full_precision(layer: nn.Linear | nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """`layer(x)` in the dtype of the layer's weights, also under autocast; the result is contiguous.

    For the last layer of a decoder: bf16 would round a dose of 70 Gy to a quarter of a gray.

    Args:
        layer: a linear layer, or a 1x1(x1) convolution.
        x: `(B, C)` or `(B, C, *spatial)`.
    """
    weight, bias = layer.weight, layer.bias
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(weight.dtype)
        if isinstance(layer, nn.Linear) or bias is None or torch.jit.is_tracing() or torch.compiler.is_compiling():
            return layer(x)
        # A 1x1 convolution is a matrix product, which is faster in fp32. Each memory order has its own
        # form, so that the gradient comes back in the order of x.
        tokens, matrix = x.flatten(2), weight.flatten(1)  # (B, C, N), (out, C)
        if x.is_contiguous():
            y = torch.baddbmm(bias.view(1, -1, 1), matrix.expand(len(x), -1, -1), tokens)
        else:
            y = nn.functional.linear(tokens.transpose(1, 2), matrix, bias).transpose(1, 2)
        return y.reshape(len(x), len(weight), *x.shape[2:]).contiguous()


def wide(x: Tensor) -> Tensor:
    """fp16 and bf16 become fp32; fp32 and fp64 stay."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
