"""Pixel decoder: back to the image's size through the shared skip connections."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.networks.layers.factories import Conv
from torch import Tensor, nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec, convolution
from mtl_med.networks.encoders import Encoder, Stage
from mtl_med.networks.option_types import in_unit
from mtl_med.networks.precision import full_precision
from mtl_med.networks.upsampling import resize_linear
from mtl_med.tasks import Task

__all__ = ["UPSAMPLINGS", "PixelDecoder", "PixelHead"]

UPSAMPLINGS = ("linear", "nearest", "deconv")


class Upsample(nn.Module):
    """Doubles the size: `(B, in_channels, *spatial) -> (B, out_channels, *2 spatial)`.

    `linear` and `nearest` keep the channels; `deconv` learns a transposed 2x2(x2) convolution to `channels`, which
    leaves the convolutions behind it less to do.
    """

    def __init__(self, spatial_dims: int, in_channels: int, channels: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.out_channels = channels if kind == "deconv" else in_channels
        self.deconv = (
            Conv[Conv.CONVTRANS, spatial_dims](in_channels, channels, kernel_size=2, stride=2)
            if kind == "deconv"
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "linear":
            return resize_linear(x, 2)
        if self.kind == "nearest":
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.deconv(x)


class UpBlock(nn.Module):
    """Double the size, join the skip connection, two convolutions."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        skip_channels: int,
        channels: int,
        upsample: str,
        norm: NormSpec,
        act: ActSpec,
    ) -> None:
        super().__init__()
        self.up = Upsample(spatial_dims, in_channels, channels, upsample)
        self.conv1 = ConvNormAct(spatial_dims, self.up.out_channels + skip_channels, channels, norm=norm, act=act)
        self.conv2 = ConvNormAct(spatial_dims, channels, channels, norm=norm, act=act)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv2(self.conv1(torch.cat([self.up(x), skip], 1)))


class PixelHead(nn.Module):
    """A 1x1 convolution to the task's channels, and a linear resize to the image.

    Args:
        encoder: gives the number of spatial axes.
        in_channels: of the task's features.
        stride: image voxels per position of the features.
        task: gives the number of output channels.
        prior: initial probability of each channel, for segmentation: sets the output bias to its logit, so that rare
            structures do not have to be unlearned first.
        output_scale: what the last map is multiplied by, so that a dose of 70 Gy is about 1 to the network.
    """

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int,
        stride: int,
        task: Task,
        prior: Sequence[float] | None = None,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if output_scale <= 0 or (output_scale != 1 and task.kind != "regression"):
            raise UsageError(
                f"{output_scale} for a {task.kind}",
                where=f"output_scales of task '{task.name}'",
                fix="Give only a regression a scale, and a positive one",
            )
        self.output_scale, self.stride = float(output_scale), stride
        self.out = convolution(encoder.spatial_dims, in_channels, task.channels, 1, bias=True)
        self.prior = logits_of(prior, task) if prior is not None else [0.0] * task.channels

    def read_out(self, x: Tensor, size: list[int]) -> Tensor:
        """`(B, in_channels, *spatial)` to `(B, channels, *size)`."""
        y = self.out(x) if torch.jit.is_scripting() else full_precision(self.out, x)
        if self.output_scale != 1.0:
            y = y * self.output_scale
        # Few channels are left: from here on the labels' memory order, channels first, is the faster one.
        return crop(resize_linear(y.contiguous(), self.stride), size)

    def forward(self, x: Tensor, stages: list[Stage], size: list[int]) -> list[Tensor]:
        return [self.read_out(x, size)]

    def initialise_output(self) -> None:
        """Begin with the prior (or zero) nearly everywhere: small weights, the prior's logit as bias."""
        nn.init.normal_(self.out.weight, std=0.01)
        self.out.bias = nn.Parameter(torch.tensor(self.prior))


class PixelDecoder(PixelHead):
    """From the task's features up to the image: one up block for each stage above them, then `PixelHead`.

    Args:
        encoder: whose stages come in as skip connections.
        in_channels: of the task's features.
        stride: image voxels per position of the features.
        task: gives the number of output channels.
        decoder_channels: widths of the up blocks, deepest first; by default the encoder's own proposal. Features that
            start above the bottleneck need fewer blocks, which take the last widths.
        upsample: `linear` (as published), `nearest`, or `deconv`, which makes a 3D training step a tenth faster.
        dropout: probability of dropping a channel before the last convolution.
        deep_supervision: in training, an output from each coarser up block too, finest first, for the loss.
        prior, output_scale: as in `PixelHead`.

    Source: arXiv 2309.03837, Sect. 2.1, "Encoder and Decoder".
    """

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int,
        stride: int,
        task: Task,
        decoder_channels: Sequence[int] | None = None,
        upsample: str = "linear",
        prior: Sequence[float] | None = None,
        output_scale: float = 1.0,
        dropout: float = 0.0,
        deep_supervision: bool = False,
    ) -> None:
        skips = [j for j, scale in enumerate(encoder.strides) if scale < stride][::-1]
        widths = tuple(decoder_channels or encoder.decoder_channels)
        wanted = len(encoder.decoder_channels)
        if len(widths) != wanted:
            raise UsageError(
                f"decoder_channels has {len(widths)} widths", fix=f"Give {wanted}, one per skip connection"
            )
        if upsample not in UPSAMPLINGS:
            raise UsageError(f"unknown upsample '{upsample}'", fix=nearest(upsample, UPSAMPLINGS))
        widths = widths[wanted - len(skips) :]
        super().__init__(encoder, widths[-1], encoder.strides[0], task, prior, output_scale)
        dims = encoder.spatial_dims
        self.skips = skips
        self.blocks = nn.ModuleList()
        for j, width in zip(skips, widths, strict=True):
            self.blocks.append(
                UpBlock(dims, in_channels, encoder.channels[j], width, upsample, encoder.norm, encoder.act)
            )
            in_channels = width
        dropping = nn.Dropout2d if dims == 2 else nn.Dropout3d
        self.dropout = dropping(in_unit(dropout, "dropout")) if dropout else nn.Identity()
        self.deep = nn.ModuleList()
        for j, width in list(zip(skips, widths, strict=True))[:-1] if deep_supervision else []:
            self.deep.append(PixelHead(encoder, width, encoder.strides[j], task, prior, output_scale))

    def forward(self, x: Tensor, stages: list[Stage], size: list[int]) -> list[Tensor]:
        scales: list[Tensor] = []
        for i, block in enumerate(self.blocks):
            x = block(x, stages[self.skips[i]].shared)  # (B, decoder_channels[i], *spatial_j)
            scales.append(x)
        outputs = [self.read_out(self.dropout(x), size)]  # (B, channels, *size)
        if self.training:
            for i, head in enumerate(self.deep):
                outputs.insert(1, head.read_out(scales[i], size))
        return outputs

    def initialise_output(self) -> None:
        """As `PixelHead.initialise_output`, at every scale."""
        super().initialise_output()
        for head in self.deep:
            head.initialise_output()


def crop(y: Tensor, size: list[int]) -> Tensor:
    """The first `size` positions along each spatial axis: takes off what padding added at the ends."""
    for axis, length in enumerate(size):
        if y.shape[axis + 2] != length:
            y = y.narrow(axis + 2, 0, length)
    return y


def logits_of(prior: Sequence[float], task: Task) -> list[float]:
    """log(p / (1 - p)) of each channel's initial probability.

    Raises:
        UsageError: not one number in (0, 1) per channel, or not a segmentation.
    """
    where = f"priors of task '{task.name}'"
    if task.kind != "segmentation":
        raise UsageError(f"a {task.kind} task has no initial probability", where=where, fix="Leave its prior out")
    if len(prior) != task.channels:
        raise UsageError(f"{len(prior)} values for {task.channels} channels", where=where, fix="Give one per channel")
    for p in prior:
        if not 0.0 < p < 1.0:
            raise UsageError(f"{p} is no probability in (0, 1)", where=where, fix="Use the channel's voxel fraction")
    return [math.log(p / (1.0 - p)) for p in prior]
