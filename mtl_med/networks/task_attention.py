"""The streams between encoder and decoders: one bottleneck map per task, from the stages all tasks share.

`PooledStream` (HPS) hands every task the same map, `PyramidStream` the same at a finer scale. `MaskStreams` (MTAN)
walks the stages with one `MaskStage` each, in which every task gates its own stream; `ctan.py` has its crossed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mtl_med.errors import UsageError
from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec, PooledBottleneck, convolution
from mtl_med.networks.encoders import Encoder, Stage
from mtl_med.networks.pointwise import pointwise
from mtl_med.networks.recompute import made_again, recomputed
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

    def halves(self) -> list[Tensor]:
        """The halves of the first convolution's weight that read U and Â_t."""
        return list(self.embed.conv.weight.chunk(2, 1))

    def join(self, from_shared: Tensor, from_stream: Tensor) -> Tensor:
        """The logits from concat(U, Â_t), without the copy.

        The first convolution is linear: what its halves make of U and of Â_t, each `(B, C / embed_ratio, *spatial)`, is
        added.
        """
        return self.attend.conv(self.embed.act(self.embed.norm(from_shared + from_stream)))


def few_positions(x: Tensor) -> bool:
    """Whether convolutions on a map `(B, C, *spatial)` have more weights to read than positions to work on."""
    return x.numel() < x.shape[1] * x.shape[1]


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
        mixes = any(isinstance(module, _BatchNorm) for module in shared.modules())
        self.one_batch = has_work and not mixes
        self.lean = mixes and fused == 1 and isinstance(shared, PooledBottleneck)

    def logits(self, shared: Tensor, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """A_t of every task before norm and sigmoid.

        Args:
            shared: U `(B, C, *spatial)`.
            streams: Â_t of the same shape, if there are any yet.
        """
        logits: dict[str, Tensor] = {}
        if len(streams) == 0 or few_positions(shared):
            for task, mask in self.mask.items():
                logits[task] = mask.logits(torch.cat([shared, streams[task]], 1) if len(streams) > 0 else shared)
            return logits
        of_shared: list[Tensor] = []
        of_stream: list[Tensor] = []
        for mask in self.mask.values():
            halves = mask.halves()
            of_shared.append(halves[0])
            of_stream.append(halves[1])
        # U is read once for all tasks: one convolution to T * C / embed_ratio channels.
        parts = pointwise(shared, torch.cat(of_shared)).chunk(len(of_shared), 1)
        for i, (task, mask) in enumerate(self.mask.items()):
            logits[task] = mask.join(parts[i], pointwise(streams[task], of_stream[i]))
        return logits

    def masks(self, logits: dict[str, Tensor]) -> dict[str, Tensor]:
        """A_t of every task."""
        masks: dict[str, Tensor] = {}
        for task, mask in self.mask.items():
            masks[task] = mask.mask(logits[task])
        return masks

    def laid(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mask that each task lays over P: its own, A_t."""
        return masks

    def gate(self, deep: Tensor, laid: dict[str, Tensor]) -> dict[str, Tensor]:
        """What enters the pooling block: mask * P."""
        gated: dict[str, Tensor] = {}
        for task, mask in laid.items():
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
        if self.training and torch.is_grad_enabled() and not torch.jit.is_scripting():
            return self.learning(stage, streams)
        laid = self.laid(self.masks(self.logits(stage.shared, streams)))
        return self.pool(self.gate(stage.deep, laid))

    @torch.jit.unused
    def learning(self, stage: Stage, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same while gradients are asked for, with less memory."""
        if self.checkpoint_masks:
            return self.pool(self.gated_again(stage.shared, stage.deep, streams))
        laid = self.laid(self.masks(self.logits(stage.shared, streams)))
        gated = self.gate(stage.deep, laid)
        return self.pool_lean(stage.deep, laid, gated) if self.lean else self.pool(gated)

    def pool_lean(self, deep: Tensor, laid: dict[str, Tensor], gated: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `pool` where the norms have to see one task after the other, with less time and memory.

        Small maps go through the convolutions as one batch. Of large ones the product is not kept, but made again.
        """
        if few_positions(deep):
            pooled = self.refine.of_batches(torch.cat(list(gated.values())), len(gated))
            return dict(zip(gated, pooled, strict=True))
        streams = {}
        for task, stream in gated.items():
            product = partial(torch.mul, laid[task].detach(), deep.detach())
            with made_again(stream, product, users=2):  # the block's first convolution, and its projection
                streams[task] = self.refine(stream)
        return streams

    def gated_again(self, shared: Tensor, deep: Tensor, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """Masks and gating that the backward pass computes a second time instead of keeping what is between."""
        names = list(streams)

        def gated(shared: Tensor, deep: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
            given = dict(zip(names, values, strict=True))
            return tuple(self.gate(deep, self.laid(self.masks(self.logits(shared, given)))).values())

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
            streams = block.pool(block.gate(stage.deep, block.laid(masks)))
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
