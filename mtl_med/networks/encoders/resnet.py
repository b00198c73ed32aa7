"""ResNet-18 and ResNet-50 in 2D and 3D, their stages cut into U and P. Parameters are named as in torchvision."""

from __future__ import annotations

from torch import Tensor, nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.blocks import (
    ActSpec,
    Bottleneck,
    NormSpec,
    activation,
    convolution,
    norm_layer,
    projection,
)
from mtl_med.networks.encoders.stage import Encoder, Stage, refine_and_pool

__all__ = ["BasicBlock", "ResNetEncoder", "resnet18", "resnet50"]

SPLITS = ("last", "first")


class BasicBlock(nn.Module):
    """Residual block of two 3x3 convolutions, named as in torchvision. Source: He et al. 2016, Fig. 5 (left)."""

    expansion = 1

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        width: int,
        stride: int = 1,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        self.conv1 = convolution(spatial_dims, in_channels, width, 3, stride)
        self.bn1 = norm_layer(norm, spatial_dims, width)
        self.relu = activation(act)
        self.conv2 = convolution(spatial_dims, width, width, 3)
        self.bn2 = norm_layer(norm, spatial_dims, width)
        self.downsample = projection(spatial_dims, in_channels, width, stride, norm)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.downsample(x))


class ResNetStage(nn.Sequential):
    """The blocks of one stage, cut behind block number `cut`: `(B, C, *spatial) -> Stage(U, P)`."""

    def __init__(self, blocks: list[nn.Module], cut: int) -> None:
        super().__init__(*blocks)
        self.cut = cut

    def forward(self, s: Tensor) -> Stage:
        u = s
        for i, block in enumerate(self):
            s = block(s)
            if i + 1 == self.cut:
                u = s
        return Stage(u, s)


class ResNetEncoder(Encoder):
    """A ResNet whose four stages give U and P.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the image `(B, in_channels, *spatial)`.
        block: BasicBlock or Bottleneck.
        depths: blocks in each stage, each at least 2 so that it can be cut.
        split: `last`: U is the stage without its last block, P that block (the cut MTAN uses); `first`: U is the
            first block, P the others.
        stem_stride: 2 gives the published /32 network; 1 (the default in 3D) a /16 one, since a patch of 64^3 would
            be left with 2^3 positions at /32.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, ...],
        split: str = "last",
        stem_stride: int | None = None,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        if split not in SPLITS:
            raise UsageError(f"unknown split '{split}' of a ResNet stage", fix=nearest(split, SPLITS))
        stem_stride = (2 if spatial_dims == 2 else 1) if stem_stride is None else stem_stride
        if stem_stride not in (1, 2):
            raise UsageError(f"stem_stride is {stem_stride}", fix="Use 1 or 2")
        self.spatial_dims, self.norm, self.act = spatial_dims, norm, act
        widths = (64, 128, 256, 512)
        self.channels = tuple(width * block.expansion for width in widths)
        self.strides = tuple(2 * stem_stride * 2**j for j in range(4))
        self.bottleneck_channels, self.bottleneck_stride = self.channels[-1], self.strides[-1]
        self.decoder_channels = tuple(width // 2 for width in self.channels[-2::-1])

        self.conv1 = convolution(spatial_dims, in_channels, 64, 7, stem_stride)
        self.bn1 = norm_layer(norm, spatial_dims, 64)
        self.relu = activation(act)
        self.maxpool = (nn.MaxPool2d if spatial_dims == 2 else nn.MaxPool3d)(3, stride=2, padding=1)
        layers = []
        previous = 64
        for j, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks: list[nn.Module] = []
            for i in range(depth):
                stride = 2 if j > 0 and i == 0 else 1
                blocks.append(block(spatial_dims, previous, width, stride, norm, act))
                previous = width * block.expansion
            layers.append(ResNetStage(blocks, depth - 1 if split == "last" else 1))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers

    def forward(self, image: Tensor) -> list[Stage]:
        s = self.maxpool(self.relu(self.bn1(self.conv1(image))))  # (B, 64, *spatial / strides[0])
        stage1 = self.layer1(s)
        stage2 = self.layer2(stage1.deep)
        stage3 = self.layer3(stage2.deep)
        stage4 = self.layer4(stage3.deep)
        return [stage1, stage2, stage3, stage4]

    def pooling_block(self, stage: int, in_channels: int) -> nn.Module:
        """Bottleneck block to the next stage's width, then max pool; nothing behind the last stage."""
        return refine_and_pool(self, stage, in_channels)


def resnet18(
    spatial_dims: int,
    in_channels: int,
    split: str = "last",
    stem_stride: int | None = None,
    norm: NormSpec = None,
    act: ActSpec = "relu",
) -> ResNetEncoder:
    """ResNet-18: 64, 128, 256, 512 channels."""
    return ResNetEncoder(spatial_dims, in_channels, BasicBlock, (2, 2, 2, 2), split, stem_stride, norm, act)


def resnet50(
    spatial_dims: int,
    in_channels: int,
    split: str = "last",
    stem_stride: int | None = None,
    norm: NormSpec = None,
    act: ActSpec = "relu",
) -> ResNetEncoder:
    """ResNet-50: 256, 512, 1024, 2048 channels."""
    return ResNetEncoder(spatial_dims, in_channels, Bottleneck, (3, 4, 6, 3), split, stem_stride, norm, act)
