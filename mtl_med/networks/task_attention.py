"""The streams between encoder and decoders: one bottleneck map per task, from the stages all tasks share.

`PooledStream` (HPS) hands every task the same map. `AttentionStreams` walks the stages with one attention block each:
here `MaskStage` (MTAN: every task gates its own stream), in `ctan.py` its crossed form (CTAN: the others' masks).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtl_med.networks.blocks import ActSpec, ConvNormAct, NormSpec
from mtl_med.networks.encoders import Encoder, Stage

__all__ = ["AttentionStreams", "MaskStage", "PooledStream", "TaskMask"]


class PooledStream(nn.Module):
    """Hard parameter sharing: every task gets P of the last stage, pooled as in CTAN.

    Args:
        encoder: the encoder whose stages come in.
        tasks: names of the tasks.
    """

    def __init__(self, encoder: Encoder, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.pool = encoder.pooling_block(len(encoder.channels) - 1, encoder.channels[-1])

    def forward(self, stages: list[Stage]) -> dict[str, Tensor]:
        pooled = self.pool(stages[-1].deep)  # (B, C_bottleneck, *spatial)
        streams: dict[str, Tensor] = {}
        for task in self.tasks:
            streams[task] = pooled
        return streams


class TaskMask(nn.Module):
    """Task embedding block, then attention block: `(B, in_channels, *spatial)` -> mask `(B, C, *spatial)` in (0, 1).

    Source: Liu et al. 2019, "End-to-end multi-task learning with attention", Eq. 2; arXiv 2309.03837, Fig. 2.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, channels: int, embed_ratio: int, norm: NormSpec, act: ActSpec
    ) -> None:
        super().__init__()
        width = max(1, channels // embed_ratio)
        self.embed = ConvNormAct(spatial_dims, in_channels, width, 1, norm=norm, act=act)
        self.attend = ConvNormAct(spatial_dims, width, channels, 1, norm=norm, act="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        return self.attend(self.embed(x))


class MaskStage(nn.Module):
    """One stage of MTAN: each task makes a mask from U and its own stream, and lays it over P.

    Args:
        encoder: gives the widths, and the pooling block of this stage.
        stage: j.
        tasks: names of the tasks.
        embed_ratio: C over the width of the task embedding.
        share_refine: one pooling block for all tasks, or one each.
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
        fused: int = 1,
    ) -> None:
        super().__init__()
        self.share_refine = share_refine
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

    def masks(self, shared: Tensor, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        """A_t of every task, from U `(B, C, *spatial)` and the streams, of the same shape, if there are any yet."""
        masks: dict[str, Tensor] = {}
        for task, mask in self.mask.items():
            masks[task] = mask(torch.cat([shared, streams[task]], 1) if task in streams else shared)
        return masks

    def gate(self, deep: Tensor, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The streams behind this stage, from P and the masks."""
        gated: dict[str, Tensor] = {}
        for task, mask in masks.items():
            gated[task] = mask * deep
        return self.pool(gated)

    def pool(self, gated: dict[str, Tensor]) -> dict[str, Tensor]:
        """The pooling block on every stream: width and size of the next stage."""
        streams: dict[str, Tensor] = {}
        if self.share_refine:
            for task, stream in gated.items():
                streams[task] = self.refine(stream)
        else:
            for task, refine in self.refine_each.items():
                streams[task] = refine(gated[task])
        return streams

    def forward(self, stage: Stage, streams: dict[str, Tensor]) -> dict[str, Tensor]:
        return self.gate(stage.deep, self.masks(stage.shared, streams))


class AttentionStreams(nn.Module):
    """One stream per task along the encoder: `[Stage] -> {task: (B, C_bottleneck, *spatial)}`.

    Args:
        stages: one attention block per encoder stage.
    """

    def __init__(self, stages: Sequence[MaskStage]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    def forward(self, stages: list[Stage]) -> dict[str, Tensor]:
        streams: dict[str, Tensor] = {}
        for j, block in enumerate(self.stages):
            streams = block(stages[j], streams)
        return streams

    @torch.jit.unused
    def attention(self, stages: list[Stage]) -> dict[str, list[Tensor]]:
        """The masks A_t^j each task makes, one per stage, before they are crossed."""
        streams: dict[str, Tensor] = {}
        collected: dict[str, list[Tensor]] = {}
        for stage, block in zip(stages, self.stages, strict=True):
            masks = block.masks(stage.shared, streams)
            streams = block.gate(stage.deep, masks)
            for task, mask in masks.items():
                collected.setdefault(task, []).append(mask)
        return collected
