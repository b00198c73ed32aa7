"""Plain convolutional encoder of CTAN's Algorithm 1, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec, max_pool
from mtl_med.networks.encoders.stage import Encoder, Stage

__all__ = ["PlainEncoder"]


class PlainEncoder(Encoder):
    """Stages of U = conv(pool(P of the stage before)) and P = conv(conv(U)); U of stage 0 is the stem.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the image `(B, in_channels, *spatial)`.
        channels: C_j of the stages; each halves the size of the one before.
        bottleneck: channels behind the last stage, at half its size.
        stem_stride: 1, or 2 for volumes that are too large for full resolution.

    Source: arXiv 2309.03837, Algorithm 1 lines 18-25.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        channels: Sequence[int] = (32, 64, 128),
        bottleneck: int = 256,
        stem_stride: int = 1,
        norm: NormSpec = None,
        act: ActSpec = "relu",
    ) -> None:
        super().__init__()
        if stem_stride not in (1, 2):
            raise UsageError(f"stem_stride is {stem_stride}", fix="Use 1 (full resolution) or 2 (half)")
        if not channels:
            raise UsageError("the plain encoder has no stage", fix="Give channels, such as (32, 64, 128)")
        if bottleneck < 1:
            raise UsageError(f"bottleneck is {bottleneck}", fix="Give its channels, such as 256")
        self.spatial_dims, self.norm, self.act = spatial_dims, norm, act
        self.channels = tuple(channels)
        self.strides = tuple(stem_stride * 2**j for j in range(len(channels)))
        self.bottleneck_channels = bottleneck
        self.bottleneck_stride = 2 * self.strides[-1]
        self.decoder_channels = self.channels[::-1]

        self.pool = max_pool(spatial_dims)
        self.shared = nn.ModuleList()  # S -> U
        self.deep = nn.ModuleList()  # U -> P
        previous = in_channels
        for j, width in enumerate(self.channels):
            stride = stem_stride if j == 0 else 1
            self.shared.append(ConvNormAct(spatial_dims, previous, width, stride=stride, norm=norm, act=act))
            self.deep.append(
                nn.Sequential(*(ConvNormAct(spatial_dims, width, width, norm=norm, act=act) for _ in range(2)))
            )
            previous = width

    def forward(self, image: Tensor) -> list[Stage]:
        stages: list[Stage] = []
        s = image
        for j, (shared, deep) in enumerate(zip(self.shared, self.deep)):  # noqa: B905 - TorchScript has no strict zip
            u = shared(s if j == 0 else self.pool(s))  # (B, C_j, *spatial / strides[j])
            p = deep(u)  # same shape
            stages.append(Stage(u, p))
            s = p
        return stages

    def pooling_block(self, stage: int, in_channels: int) -> nn.Module:
        """Max pool, then convolution: pooling first makes it 8 times cheaper in 3D."""
        width = (*self.channels, self.bottleneck_channels)[stage + 1]
        return nn.Sequential(
            max_pool(self.spatial_dims),
            ConvNormAct(self.spatial_dims, in_channels, width, norm=self.norm, act=self.act),
        )
