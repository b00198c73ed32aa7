"""The streams between encoder and decoders: one bottleneck map per task, from the stages all tasks share.

`PooledStream` (HPS) hands every task the same map, `PyramidStream` the same at a finer scale. `MaskStreams` (MTAN)
walks the stages with one `MaskStage` each, in which every task gates its own stream; `ctan.py` has its crossed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec, convolution
from mtl_med.networks.encoders import Encoder, Stage
from mtl_med.networks.recompute import recomputed
from mtl_med.networks.upsampling import resize_linear

__all__ = ["AttentionStreams", "MaskStage", "MaskStreams", "PooledStream", "PyramidStream", "TaskMask"]


class PooledStream(nn.Module):
    """Hard parameter sharing: every task gets P of the last stage, pooled as in CTAN.

    Args:
        encoder: the encoder whose stages come in.
        tasks: names of the tasks.

    Attributes:
        channels, stride: of every task's map.
    """

    def __init__(self, encoder: Encoder, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.channels, self.stride = encoder.bottleneck_channels, encoder.bottleneck_stride
        self.pool = encoder.pooling_block(len(encoder.channels) - 1, encoder.channels[-1])

    def forward(self, stages: list[Stage]) -> dict[str, Tensor]:
        pooled = self.pool(stages[-1].deep)  # (B, C_bottleneck, *spatial)
        streams: dict[str, Tensor] = {}
        for task in self.tasks:
            streams[task] = pooled
        return streams


class PyramidStream(nn.Module):
    """Hard parameter sharing at a finer scale, for exchanges that compare positions.

    A feature pyramid: P of the last stage is pooled as in HPS; at each finer scale it is doubled and U of that stage is
    added through a 1x1 convolution; one 3x3 convolution smooths the sum. Where the bottleneck itself has the wanted
    stride this is `PooledStream`.

    Args:
        encoder: the encoder whose stages come in.
        tasks: names of the tasks.
        token_stride: image voxels per position along each axis; the finest scale behind the first stage that has at
            least so many is taken.

    Source: Lin et al. 2017, "Feature pyramid networks for object detection", Fig. 3.
    """

    def __init__(self, encoder: Encoder, tasks: Sequence[str], token_stride: int = 8) -> None:
        super().__init__()
        if token_stride < 1:
            raise UsageError(f"token_stride is {token_stride}", fix="Give the image voxels per position, such as 8")
        self.tasks = list(tasks)
        self.pool = encoder.pooling_block(len(encoder.channels) - 1, encoder.channels[-1])
        last_stride = encoder.bottleneck_stride
        # Image decoders join the features behind the first stage, so that one is never taken.
        finer = [j for j, stride in enumerate(encoder.strides) if j > 0 and token_stride <= stride < last_stride]
        self.path = finer[::-1]
        last = self.path[-1] if self.path else None
        self.channels = encoder.bottleneck_channels if last is None else encoder.channels[last]
        self.stride = encoder.bottleneck_stride if last is None else encoder.strides[last]
        dims = encoder.spatial_dims
        self.top: nn.Module = nn.Identity()
        self.smooth: nn.Module = nn.Identity()
        self.laterals = nn.ModuleList()
        if last is not None:
            self.top = convolution(dims, encoder.bottleneck_channels, self.channels, 1, bias=True)
            self.smooth = ConvNormAct(dims, self.channels, self.channels, norm=encoder.norm, act=encoder.act)
            for j in self.path:
                self.laterals.append(convolution(dims, encoder.channels[j], self.channels, 1, bias=True))

    def forward(self, stages: list[Stage]) -> dict[str, Tensor]:
        x = self.top(self.pool(stages[-1].deep))  # (B, channels, *spatial / bottleneck_stride)
        for i, lateral in enumerate(self.laterals):
            x = lateral(stages[self.path[i]].shared) + resize_linear(x, 2)  # (B, channels, *spatial_j)
        x = self.smooth(x)
        streams: dict[str, Tensor] = {}
        for task in self.tasks:
            streams[task] = x
        return streams


class TaskMask(nn.Module):
    """Task embedding block, then attention block: `(B, in_channels, *spatial)` -> mask `(B, C, *spatial)` in (0, 1).

    Source: Liu et al. 2019, "End-to-end multi-task learning with attention", Eq. 2; arXiv 2309.03837, Fig. 2.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int, embed_ratio: int, norm: NormSpec, act: ActSpec
    ) -> None:
        super().__init__()
        if embed_ratio < 1:
            raise UsageError(f"embed_ratio is {embed_ratio}", fix="Give C over the width of the embedding, such as 4")
        width = max(1, channels // embed_ratio)
        self.embed = ConvNormAct(spatial_dims, in_channels, width, 1, norm=norm, act=act)
        self.attend = ConvNormAct(spatial_dims, width, channels, 1, norm=norm, act="sigmoid")

    def forward(self, shared: Tensor) -> Tensor:
        return self.mask(self.logits(shared))

    def logits(self, shared: Tensor) -> Tensor:
        """The mask before norm and sigmoid."""
        return self.attend.conv(self.embed(shared))

    def mask(self, logits: Tensor) -> Tensor:
        """The mask itself."""
        return self.attend.act(self.attend.norm(logits))

    def reads_shared(self, channels: int) -> Tensor:
        """The half of the first convolution's weight that reads U of so many channels."""
        return self.embed.conv.weight[:, :channels]

    def join(self, from_shared: Tensor, stream: Tensor) -> Tensor:
        """The logits from concat(U, Â_t), without the copy.

        The first convolution is linear: its half that reads U comes in as `from_shared`, `(B, C / embed_ratio,
        *spatial)`, and its half that reads Â_t, `stream`, is added.
        """
        weight = self.embed.conv.weight[:, -stream.shape[1] :]
        return self.attend.conv(self.embed.act(self.embed.norm(from_shared + pointwise(stream, weight))))


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """A convolution of one position, in 2D or 3D."""
    return F.conv2d(x, weight) if x.dim() == 4 else F.conv3d(x, weight)


class MaskStage(nn.Module):
    """One stage of MTAN: each task makes a mask from U and its own stream, and lays it over P.

    Args:
        encoder: gives the widths, and the pooling block of this stage.
        stage: j.
        tasks: names of the tasks.
        embed_ratio: C over the width of the task embedding.
        share_refine: one pooling block for all tasks, or one each.
        checkpoint_masks: keep no mask for the backward pass but make them again; less memory, a little more time.
        fused: channels that enter the pooling block, in units of C: 2 where mask and P are concatenated.

    Source: Liu et al. 2019, Eq. 1 and 2.
    """

    def __init__(
        self,
        encoder: Encoder,
        stage: int,
        tasks: Sequence[str],
        embed_ratio: int = 4,
        share_refine: bool = True,
        checkpoint_masks: bool = False,
        fused: int = 1,
    ) -> None:
        super().__init__()
        self.share_refine, self.checkpoint_masks = share_refine, checkpoint_masks
        channels = encoder.channels[stage]
        in_channels = channels if stage == 0 else 2 * channels
        self.mask = nn.ModuleDict()
        for task in tasks:
            self.mask[task] = TaskMask(
                encoder.spatial_dims, in_channels, channels, embed_ratio, encoder.norm, encoder.act
            )
        shared = encoder.pooling_block(stage, fused * channels) if share_refine else nn.Identity()
        each = [] if share_refine else list(tasks)
        self.refine = shared
        self.refine_each = nn.ModuleDict({task: encoder.pooling_block(stage, fused * channels) for task in each})
        # The tasks may go through one block as one batch unless it mixes the statistics of what it gets.
        has_work = any(True for _ in shared.parameters())
        self.one_batch = has_work and not any(isinstance(module, _BatchNorm) for module in shared.modules())

    def logits(self, shared: Tensor, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """A_t of every task before norm and sigmoid.

        Args:
            shared: U `(B, C, *spatial)`.
            streams: Â_t of the same shape, if there are any yet.
        """
        logits: dict[str, Tensor] = {}
        if len(streams) == 0:
            for task, mask in self.mask.items():
                logits[task] = mask.logits(shared)
            return logits
        weights: list[Tensor] = []
        for mask in self.mask.values():
            weights.append(mask.reads_shared(shared.shape[1]))
        # U is read once for all tasks: one convolution to T * C / embed_ratio channels.
        parts = pointwise(shared, torch.cat(weights)).chunk(len(weights), 1)
        for i, (task, mask) in enumerate(self.mask.items()):
            logits[task] = mask.join(parts[i], streams[task])
        return logits

    def masks(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """A_t of every task."""
        masks: dict[str, Tensor] = {}
        for task, mask in self.mask.items():
            masks[task] = mask.mask(logits[task])
        return masks

    def gate(self, deep: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """What enters the pooling block: A_t * P."""
        gated: dict[str, Tensor] = {}
        for task, mask in masks.items():
            gated[task] = mask * deep
        return gated

    def pool(self, gated: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pooling block on every stream: width and size of the next stage."""
        streams: dict[str, Tensor] = {}
        if self.one_batch:
            together = self.refine(torch.cat(list(gated.values()))).chunk(len(gated))  # (T B, C', *spatial')
            for i, task in enumerate(gated.keys()):
                streams[task] = together[i]
        elif self.share_refine:
            for task, stream in gated.items():
                streams[task] = self.refine(stream)
        else:
            for task, refine in self.refine_each.items():
                streams[task] = refine(gated[task])
        return streams

    def forward(self, stage: Stage, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.checkpoint_masks and self.training and not torch.jit.is_scripting():
            gated = self.gated_again(stage.shared, stage.deep, streams)
        else:
            gated = self.gate(stage.deep, self.masks(self.logits(stage.shared, streams)))
        return self.pool(gated)

    @torch.jit.unused
    def gated_again(self, shared: Tensor, deep: Tensor, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks and gating that the backward pass computes a second time instead of keeping what is between."""
        names = list(streams)

        def gated(shared: Tensor, deep: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(names, values, strict=True))
            return tuple(self.gate(deep, self.masks(self.logits(shared, given))).values())

        made = recomputed(gated, shared, deep, *streams.values(), module=self.mask)
        return dict(zip(self.mask, made, strict=True))


class AttentionStreams(nn.Module):
    """One stream per task along the encoder: `[Stage] -> {task: (B, C_bottleneck, *spatial)}`.

    Args:
        encoder: the encoder whose stages come in.
        stages: one attention block per encoder stage.

    Attributes:
        channels, stride: of every task's map.
    """

    def __init__(self, encoder: Encoder, stages: Sequence[MaskStage]) -> None:
        super().__init__()
        self.channels, self.stride = encoder.bottleneck_channels, encoder.bottleneck_stride
        self.stages = nn.ModuleList(stages)

    def forward(self, stages: list[Stage]) -> dict[str, Tensor]:
        streams: dict[str, Tensor] = {}
        for j, block in enumerate(self.stages):
            streams = block(stages[j], streams)
        return streams

    @torch.jit.unused
    def attention(self, stages: list[Stage]) -> dict[str, Tensor]:
        """The masks A_t^j each task makes, before they are crossed: `{"<task>/stage<j>": (B, C_j, *spatial_j)}`."""
        streams: dict[str, Tensor] = {}
        collected: dict[str, Tensor] = {}
        for j, (stage, block) in enumerate(zip(stages, self.stages, strict=True)):
            masks = block.masks(block.logits(stage.shared, streams))
            streams = block.pool(block.gate(stage.deep, masks))
            collected |= {f"{task}/stage{j}": mask for task, mask in masks.items()}
        return collected


class MaskStreams(AttentionStreams):
    """The streams of MTAN. Arguments as of `MaskStage`."""

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        embed_ratio: int = 4,
        share_refine: bool = True,
        checkpoint_masks: bool = False,
    ) -> None:
        options = (embed_ratio, share_refine, checkpoint_masks)
        super().__init__(encoder, [MaskStage(encoder, j, tasks, *options) for j in range(len(encoder.channels))])
