"""What every encoder gives: two maps per stage, and the facts that the parts behind it need."""

# No `from __future__ import annotations`: TorchScript reads the fields' types of a NamedTuple at run time.
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from mtl_med.networks.blocks import ActSpec, Bottleneck, NormSpec, PooledBottleneck, convolution

__all__ = ["Encoder", "Stage", "refine_and_pool"]


class Stage(NamedTuple):
    """One encoder stage.

    Args:
        shared: U^j `(B, C_j, *spatial_j)`, what masks are made from and decoders get as skip connection.
        deep: P^j, same shape, what masks are laid over and the next stage starts from.
    """

    shared: Tensor
    deep: Tensor


class Encoder(nn.Module):
    """Base of the encoders.

    Attributes:
        spatial_dims, norm, act: what its blocks are built with; the parts behind it follow.
        channels: C_j of each stage.
        strides: input size over the size of each stage.
        bottleneck_channels: channels of a stream behind the last stage.
        bottleneck_stride: input size over the size there; the input is padded to a multiple of it.
        decoder_channels: widths that suit the pixel decoder, deepest first, one for each stage above the bottleneck.
    """

    if TYPE_CHECKING:  # TorchScript would read these, and knows no unions and no tuples of open length
        spatial_dims: int
        norm: NormSpec
        act: ActSpec
        channels: tuple[int, ...]
        strides: tuple[int, ...]
        bottleneck_channels: int
        bottleneck_stride: int
        decoder_channels: tuple[int, ...]

    def pooling_block(self, stage: int, in_channels: int) -> nn.Module:
        """The block `Pool` of Eq. 1 behind `stage`: takes a gated map to width and size of the next stage."""
        raise NotImplementedError


def refine_and_pool(encoder: Encoder, stage: int, in_channels: int) -> nn.Module:
    """The pooling block of encoders whose last stage is the bottleneck, as MTAN has it.

    Bottleneck block to the next stage's width, then max pool. Behind the last stage nothing, or a 1x1 convolution where
    what comes in has another width than the stage.
    """
    channels = encoder.channels
    if stage == len(channels) - 1:
        if in_channels == channels[-1]:
            return nn.Identity()
        return convolution(encoder.spatial_dims, in_channels, channels[-1], 1, bias=True)
    width = channels[stage + 1] // Bottleneck.expansion
    return PooledBottleneck(encoder.spatial_dims, in_channels, width, encoder.norm, encoder.act)
