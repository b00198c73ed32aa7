"""Cross-task attention bottleneck (CTAB): each task's features, re-read through the other task's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec
from mtl_med.networks.crossing import check_reduce, of_others
from mtl_med.networks.precision import wide

__all__ = ["CTAB", "SCALES", "cross_attend"]

SCALES = ("mean", "none")


def cross_attend(own: Tensor, other: Tensor, scale: str = "mean") -> Tensor:
    """E (E'^T E), in whichever grouping is cheaper.

    Without a softmax the product is associative: with N tokens and C channels, E (E'^T E) goes through a C x C matrix
    and (E E'^T) E through an N x N one. Either costs 2 N C min(N, C) multiply-adds when the smaller matrix is chosen.

    Args:
        own: E, key and value, `(B, C, *spatial)`.
        other: E' of the other task, the query, same shape.
        scale: `mean` multiplies by 1 / (N sqrt(C)), which makes the result independent of N; `none` is literal.

    Returns:
        Same shape and dtype as `own`; computed in fp32 at least, for the literal product leaves fp16's range.

    Source: arXiv 2309.03837, Eq. 2; the scale is ours.
    """
    if torch.jit.is_scripting():
        # TorchScript cannot switch autocast off; fp64 is the one type that autocast leaves alone.
        return product(own.double(), other.double(), scale).to(own.dtype)
    with torch.autocast(own.device.type, enabled=False):
        return product(wide(own), wide(other), scale).to(own.dtype)


def product(own: Tensor, other: Tensor, scale: str) -> Tensor:
    """E (E'^T E) in the cheaper grouping and in the memory layout of `own`."""
    e, q = own.flatten(2), other.flatten(2)  # (B, C, N)
    channels, tokens = e.shape[1], e.shape[2]
    factor = 1.0 / (tokens * channels**0.5) if scale == "mean" else 1.0
    if own.is_contiguous():  # channel-major: the transposed form
        return channel_major(e, q, factor).reshape(own.shape)
    return token_major(e.transpose(1, 2), q, factor).transpose(1, 2).reshape(own.shape)


def channel_major(e: Tensor, q: Tensor, factor: float) -> Tensor:
    """E^T and E'^T, `(B, C, N)`, to the result's transpose."""
    if e.shape[2] >= e.shape[1]:
        return torch.bmm(torch.bmm(e, q.transpose(1, 2)) * factor, e)  # (B, C, C) (B, C, N)
    return torch.bmm(e, torch.bmm(q.transpose(1, 2), e) * factor)  # (B, C, N) (B, N, N)


def token_major(e: Tensor, q: Tensor, factor: float) -> Tensor:
    """E `(B, N, C)` and E'^T `(B, C, N)` to the result: channels-last memory needs no copy of operands and result."""
    if e.shape[1] >= e.shape[2]:
        return torch.bmm(e, torch.bmm(q, e) * factor)  # (B, N, C) (B, C, C)
    return torch.bmm(torch.bmm(e, q) * factor, e)  # (B, N, N) (B, N, C)


class CTAB(nn.Module):
    """Cross-task attention bottleneck: `{task: (B, in_channels, *spatial)} -> {task: (B, C, *spatial)}`.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of each task's features.
        tasks: names of the tasks. With three and more, E' is the mean (or maximum) of the others' embeddings, which
            is exact for the mean: the product is linear in E'. One task alone is its own partner.
        bottleneck_channels: C, by default `in_channels / 4`.
        scale: `mean` or `none`, see `cross_attend`.
        reduce: `mean` or `max` over the other tasks.
        residual: add E to the result; without it value and gradient vanish where E = 0, since the form is cubic.

    Source: arXiv 2309.03837, Eq. 2 and Algorithm 1 lines 10-15.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        tasks: Sequence[str],
        bottleneck_channels: int | None = None,
        scale: str = "mean",
        reduce: str = "mean",
        residual: bool = False,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        if scale not in SCALES:
            raise UsageError(f"unknown scale '{scale}' of CTAB", fix=nearest(scale, SCALES))
        self.scale, self.reduce, self.residual = scale, check_reduce(reduce), residual
        self.width = bottleneck_channels or max(1, in_channels // 4)
        self.embed = nn.ModuleDict(
            {task: ConvNormAct(spatial_dims, in_channels, self.width, 1, norm=norm, act=act) for task in tasks}
        )

    def out_channels(self, in_channels: int) -> int:
        """Channels of each task's result."""
        return self.width

    @torch.jit.unused
    def attention(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """How strongly each position is re-read: the 2-norm of its row of the affinity E E'^T / (N sqrt(C)).

        Returns:
            Per task `(B, 1, *spatial)`. The N x N matrix is not needed: |e_i E'^T|^2 = e_i (E'^T E') e_i^T.
        """
        embedded = {task: wide(embed(features[task])) for task, embed in self.embed.items()}
        others = of_others(embedded, self.reduce)
        strengths = {}
        for task, own in embedded.items():
            with torch.autocast(own.device.type, enabled=False):
                e, q = own.flatten(2), others[task].flatten(2)  # (B, C, N)
                squares = (torch.bmm(torch.bmm(q, q.transpose(1, 2)), e) * e).sum(1, keepdim=True)
            factor = 1.0 / (e.shape[2] * e.shape[1] ** 0.5) if self.scale == "mean" else 1.0
            strengths[task] = (squares.clamp(min=0).sqrt() * factor).reshape(len(e), 1, *own.shape[2:])
        return strengths

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        embedded: dict[str, Tensor] = {}  # E_t
        for task, embed in self.embed.items():
            embedded[task] = embed(features[task])  # (B, C, *spatial)
        others = of_others(embedded, self.reduce)  # E_t'
        crossed: dict[str, Tensor] = {}
        for task, own in embedded.items():
            y = cross_attend(own, others[task], self.scale)
            crossed[task] = own + y if self.residual else y
        return crossed
