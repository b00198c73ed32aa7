"""Image decoder: one vector of logits per image, from all scales."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.blocks import ConvNormAct, activation, convolution
from mtl_med.networks.encoders import Encoder, Stage
from mtl_med.networks.option_types import in_unit
from mtl_med.networks.precision import full_precision
from mtl_med.tasks import Task

__all__ = ["STYLES", "ImageDecoder", "ImageHead"]

STYLES = ("bottom_up", "pooled")


class ImageHead(nn.Module):
    """Global average pool, fully connected layer.

    Args:
        encoder, stride: as every head is given them; a pooled vector needs neither.
        in_channels: of the task's features.
        task: gives the number of classes.
        dropout: probability of dropping a feature before the last layer.
    """

    def __init__(self, encoder: Encoder, in_channels: int, stride: int, task: Task, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(in_unit(dropout, "dropout")) if dropout else nn.Identity()
        self.out = nn.Linear(in_channels, task.channels)

    def read_out(self, x: Tensor) -> Tensor:
        """`(B, in_channels, *spatial)` to logits `(B, classes)`."""
        y = self.dropout(x.flatten(2).mean(2))  # (B, in_channels)
        return self.out(y) if torch.jit.is_scripting() else full_precision(self.out, y)

    def forward(self, x: Tensor, stages: list[Stage], size: list[int]) -> list[Tensor]:
        return [self.read_out(x)]


class ImageDecoder(ImageHead):
    """Bottom-up path through the skip connections, then `ImageHead`.

    Args:
        encoder: whose stages come in as skip connections.
        in_channels: of the task's features.
        stride: image voxels per position of the features.
        task: gives the number of classes.
        image_style: `bottom_up`: starts from U^0, four strided 3x3 convolutions, each U^j and the task's features added
            at the scale of their size; `pooled`: the task's features alone.
        image_width: channels of the path.
        dropout: probability of dropping a feature before the last layer.

    Source: arXiv 2309.03837, Sect. 2.1, "Encoder and Decoder"; the path starts from U^0, for four halvings cannot
    start from the 7x7 bottleneck.
    """

    def __init__(
        self,
        encoder: Encoder,
        in_channels: int,
        stride: int,
        task: Task,
        image_style: str = "bottom_up",
        image_width: int = 256,
        dropout: float = 0.0,
    ) -> None:
        if image_style not in STYLES:
            raise UsageError(f"unknown image_style '{image_style}'", fix=nearest(image_style, STYLES))
        bottom_up = image_style == "bottom_up"
        if image_width < 1:
            raise UsageError(f"image_width is {image_width}", fix="Give the channels of the path, such as 256")
        super().__init__(encoder, image_width if bottom_up else in_channels, stride, task, dropout)
        dims, width = encoder.spatial_dims, image_width
        self.laterals, self.downs = nn.ModuleList(), nn.ModuleList()
        self.features: nn.Module = nn.Identity()
        self.enters = 0  # number of halvings before the task's features join; 0 for the pooled style
        if bottom_up:
            self.enters = round(math.log2(stride / encoder.strides[0]))
            self.features = convolution(dims, in_channels, width, 1, bias=True)
            for channels in encoder.channels:
                self.laterals.append(convolution(dims, channels, width, 1, bias=True))
            for _ in range(max(4, self.enters) - 1):
                self.downs.append(ConvNormAct(dims, width, width, 3, stride=2, norm=encoder.norm, act=encoder.act))
            # No norm before the global average: an instance norm would fix the very mean that is read out.
            self.downs.append(nn.Sequential(convolution(dims, width, width, 3, 2, bias=True), activation(encoder.act)))

    def forward(self, x: Tensor, stages: list[Stage], size: list[int]) -> list[Tensor]:
        y = self.features(x)  # (B, width, *spatial / stride)
        if self.enters > 0:
            sides = [lateral(stages[j].shared) for j, lateral in enumerate(self.laterals)]  # (B, width, *spatial_j)
            path = sides[0]
            for i, down in enumerate(self.downs):
                path = down(path)
                if i + 1 < len(sides):
                    path = path + sides[i + 1]
                if i + 1 == self.enters:
                    path = path + y
            y = path
        return [self.read_out(y)]  # (B, classes)
