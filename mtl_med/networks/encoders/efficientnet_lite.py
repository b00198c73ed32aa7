"""EfficientNet-Lite0 in 2D, its stages cut into U and P: 2.4 million parameters, with published ImageNet weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import ActSpec, NormSpec, activation, norm_layer
from mtl_med.networks.encoders.stage import Encoder, Stage, refine_and_pool
from mtl_med.networks.pointwise import pointwise

__all__ = ["EfficientNetLite", "InvertedResidual", "SameConv", "efficientnet_lite0"]

TRAINED_EPS = 1e-3  # of the published batch norms; with torch's 1e-5 the published features would differ


class Group(NamedTuple):
    """Blocks of one width; the first of them has the stride."""

    blocks: int
    kernel: int
    stride: int
    expand: int
    channels: int


# The last block of the published network, of 320 channels, is left out: see `EfficientNetLite`.
LITE0 = (
    Group(1, 3, 1, 1, 16),
    Group(2, 3, 2, 6, 24),
    Group(2, 5, 2, 6, 40),
    Group(3, 3, 2, 6, 80),
    Group(3, 5, 1, 6, 112),
    Group(4, 5, 2, 6, 192),
)


class SameConv(nn.Conv2d):
    """A convolution that pads as TensorFlow's `same`: `ceil(size / stride)` positions per axis.

    The odd zero goes to the far end, so that with stride 2 an even size is padded on that side more than on the other;
    weights that were trained so give other features with torch's symmetric padding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel, stride, padding=0, groups=groups, bias=False)
        self.side, self.step = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.side == self.step == 1:
            return pointwise(x, self.weight)
        amounts: list[int] = []
        for axis in (3, 2):  # F.pad counts from the last axis
            size = x.shape[axis]
            total = max((-(-size // self.step) - 1) * self.step + self.side - size, 0)
            amounts += [total // 2, total - total // 2]
        padded = F.pad(x, amounts) if max(amounts) > 0 else x
        if self.groups > 1 and x.dtype == torch.bfloat16 and not torch.jit.is_scripting():
            return self.wide_on_cpu(padded)
        return self._conv_forward(padded, self.weight, self.bias)

    @torch.jit.unused
    def wide_on_cpu(self, x: Tensor) -> Tensor:
        """A depthwise convolution in fp32 on CPUs: its backward pass in bf16 takes three to eight times as long."""
        if x.device.type != "cpu":
            return self._conv_forward(x, self.weight, self.bias)
        with torch.autocast("cpu", enabled=False):
            return self._conv_forward(x.float(), self.weight.float(), self.bias).to(x.dtype)


class InvertedResidual(nn.Module):
    """1x1 convolution to `expand` times the width, depthwise convolution, 1x1 convolution back without activation.

    The input is added where size and width stay. Source: Sandler et al. 2018, "MobileNetV2", Fig. 4; without the
    squeeze-and-excitation of the EfficientNets, which Lite leaves out.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int,
        expand: int,
        norm: NormSpec = None,
        act: ActSpec = "relu6",
    ) -> None:
        super().__init__()
        width = in_channels * expand
        self.expands, self.adds = expand > 1, stride == 1 and in_channels == out_channels
        self.expand_conv = SameConv(in_channels, width, 1) if self.expands else nn.Identity()
        self.bn0 = trained_norm(norm, width) if self.expands else nn.Identity()
        self.depthwise_conv = SameConv(width, width, kernel, stride, groups=width)
        self.bn1 = trained_norm(norm, width)
        self.project_conv = SameConv(width, out_channels, 1)
        self.bn2 = trained_norm(norm, out_channels)
        self.act = activation(act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn0(self.expand_conv(x))) if self.expands else x
        y = self.act(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite(Encoder):
    """An EfficientNet-Lite whose stages at /4, /8, /16 and /32 give U (the stage without its last block) and P.

    This is MTAN's cut, as of the ResNets here. The published network goes on with one block of 320 channels and a 1x1
    convolution to 1280, which are left out: the block has no input of its own width, so that no U of the shape of its P
    exists, and both serve the 1000 classes more than they serve a decoder. At /2 there is one block only, which cannot
    be cut; pixel decoders end at /4 as with the ResNets, and resize linearly.

    Args:
        spatial_dims: 2; there is no EfficientNet-Lite in 3D.
        in_channels: of the image `(B, in_channels, H, W)`.
        groups: blocks by width.
        stem_stride: 2 gives the published /32 network; 1 a /16 one, four times as dear, for small pictures.
        norm: batch norm by default, with the epsilon it was trained with; torch's momentum (the published training
            averaged over 100 steps, too slowly for short trainings).
        act: ReLU6, as it was trained; the parts behind the encoder follow.

    Raises:
        UsageError: in 3D, or an unknown stem_stride.

    Source: Tan and Le 2019, "EfficientNet", Table 1, in the Lite form (no squeeze-and-excitation, ReLU6).
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        groups: Sequence[Group],
        stem_stride: int | None = None,
        norm: NormSpec = None,
        act: ActSpec = "relu6",
    ) -> None:
        super().__init__()
        stem_stride = 2 if stem_stride is None else stem_stride
        if spatial_dims != 2:
            raise UsageError(
                f"encoder 'efficientnet_lite0' has {spatial_dims} spatial axes, and exists in 2D only",
                fix="Use encoder 'plain', 'resnet18' or 'resnet50' for volumes",
            )
        if stem_stride not in (1, 2):
            raise UsageError(f"stem_stride is {stem_stride}", fix="Use 2 (as published) or 1")
        self.spatial_dims, self.norm, self.act = spatial_dims, norm, act
        self.conv_stem = SameConv(in_channels, 32, 3, stem_stride)
        self.bn0 = trained_norm(norm, 32)
        self.activation = activation(act)
        self.blocks = nn.ModuleList()
        previous, widths, strides = 32, [], []
        for group in groups:
            for i in range(group.blocks):
                stride = group.stride if i == 0 else 1
                self.blocks.append(
                    InvertedResidual(previous, group.channels, group.kernel, stride, group.expand, norm, act)
                )
                previous = group.channels
                widths.append(previous)
                strides.append(stride)
        # P of a stage is what stands before the next stride, U the output of the block before.
        self.ends = [i for i in range(1, len(strides)) if [*strides, 2][i + 1] == 2 and strides[i] == 1]
        self.channels = tuple(widths[end] for end in self.ends)
        self.strides = tuple(2 * stem_stride * 2**j for j in range(len(self.ends)))
        self.bottleneck_channels, self.bottleneck_stride = self.channels[-1], self.strides[-1]
        self.decoder_channels = (128, 64, 32)  # half of each stage, as in the ResNets, would be too thin here

    def forward(self, image: Tensor) -> list[Stage]:
        s = self.activation(self.bn0(self.conv_stem(image)))  # (B, 32, H / 2, W / 2)
        stages: list[Stage] = []
        u = s
        for i, block in enumerate(self.blocks):
            s = block(s)
            if i in self.ends:
                stages.append(Stage(u, s))
            u = s
        return stages

    def pooling_block(self, stage: int, in_channels: int) -> nn.Module:
        """Bottleneck block to the next stage's width, then max pool; nothing behind the last stage."""
        return refine_and_pool(self, stage, in_channels)


def trained_norm(norm: NormSpec, channels: int) -> nn.Module:
    """The norm of a spec in 2D; batch norm has the published epsilon unless the spec names another."""
    layer = norm_layer(norm, 2, channels)
    options = norm[1] if isinstance(norm, Sequence) and not isinstance(norm, str) and len(norm) > 1 else {}
    if isinstance(layer, _BatchNorm) and "eps" not in options:
        layer.eps = TRAINED_EPS
    return layer


def efficientnet_lite0(
    spatial_dims: int,
    in_channels: int,
    stem_stride: int | None = None,
    norm: NormSpec = None,
    act: ActSpec = "relu6",
) -> EfficientNetLite:
    """EfficientNet-Lite0: 24, 40, 112, 192 channels."""
    return EfficientNetLite(spatial_dims, in_channels, LITE0, stem_stride, norm, act)
