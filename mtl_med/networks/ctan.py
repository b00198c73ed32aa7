"""CTAN, the cross-task attention network (arXiv 2309.03837), in reading order.

    S = stem(x)
    for j in 0..n:
        U, P  = encoder stage j (S)                             encoders/
        A_t   = attend_t(embed_t(concat(U, Â_t)))               TaskMask; no concat for j = 0
        Â_t   = pool_j(A_t' * P)                                CrossMaskStage: the other task's mask (Eq. 1)
        S     = downsample(P)
    E_t  = embed_t(Â_t)
    Ā_t  = E_t (E_t'^T E_t)                                     exchange/ctab.py (Eq. 2)
    y_t  = decoder_t(Ā_t, [U^0 .. U^n])                         decoders/

t is a task, t' the other one: only the mask is crossed, each stream feeds its own next embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mtl_med.errors import UsageError, nearest
from mtl_med.networks.assembly import parts
from mtl_med.networks.crossing import check_reduce, of_others
from mtl_med.networks.encoders import Encoder
from mtl_med.networks.exchange import CTAB
from mtl_med.networks.multitask import MultiTaskNet
from mtl_med.networks.task_attention import AttentionStreams, MaskStage
from mtl_med.tasks import Task

__all__ = ["CTAN", "FUSIONS", "CrossMaskStage", "CrossMaskStreams"]

FUSIONS = ("multiply", "concat")


class CrossMaskStage(MaskStage):
    """Cross-task attention encoder (CTAE), one stage: the masks of `MaskStage`, laid over P crosswise.

    Args:
        cross_fuse: `multiply` is Eq. 1; `concat` is what Algorithm 1 writes instead, with the pooling block on 2C.
        reduce: `mean` or `max` over the other tasks' masks where there are several.
        encoder, stage, tasks, embed_ratio, share_refine, checkpoint_masks: as in `MaskStage`.

    Source: arXiv 2309.03837, Eq. 1 and Algorithm 1 lines 1-9.
    """

    def __init__(
        self,
        encoder: Encoder,
        stage: int,
        tasks: Sequence[str],
        embed_ratio: int = 4,
        share_refine: bool = True,
        checkpoint_masks: bool = False,
        cross_fuse: str = "multiply",
        reduce: str = "mean",
    ) -> None:
        if cross_fuse not in FUSIONS:
            raise UsageError(f"unknown cross_fuse '{cross_fuse}'", fix=nearest(cross_fuse, FUSIONS))
        fused = 2 if cross_fuse == "concat" else 1
        super().__init__(encoder, stage, tasks, embed_ratio, share_refine, checkpoint_masks, fused)
        self.cross_fuse, self.reduce = cross_fuse, check_reduce(reduce)

    def laid(self, masks: dict[str, Tensor]) -> dict[str, Tensor]:
        """The mask that each task lays over P: the other's, A_t'."""
        return of_others(masks, self.reduce)

    def gate(self, deep: Tensor, laid: dict[str, Tensor]) -> dict[str, Tensor]:
        """What enters the pooling block: A_t' * P."""
        gated: dict[str, Tensor] = {}
        for task, mask in laid.items():
            gated[task] = torch.cat([deep, mask], 1) if self.cross_fuse == "concat" else mask * deep
        return gated


class CrossMaskStreams(AttentionStreams):
    """The streams of CTAN. Arguments as of `CrossMaskStage`."""

    def __init__(
        self,
        encoder: Encoder,
        tasks: Sequence[str],
        embed_ratio: int = 4,
        share_refine: bool = True,
        checkpoint_masks: bool = False,
        cross_fuse: str = "multiply",
        reduce: str = "mean",
    ) -> None:
        options = (embed_ratio, share_refine, checkpoint_masks, cross_fuse, reduce)
        super().__init__(encoder, [CrossMaskStage(encoder, j, tasks, *options) for j in range(len(encoder.channels))])


class CTAN(MultiTaskNet):
    """Cross-task attention network for any number of pixel-level and image-level tasks.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the image `(B, in_channels, *spatial)`.
        tasks: `{name: {"kind": ..., "class_names": [...]}}` or a sequence of `Task`.
        encoder: a row of `ENCODERS`.
        options: of the encoder, the streams, CTAB and the decoders; `create_network` lists them.

    Source: arXiv 2309.03837, Algorithm 1. Open points of the paper and our defaults: docs/ctan.md.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        tasks: Mapping[str, Mapping[str, Any]] | Sequence[Task],
        encoder: str = "plain",
        **options: Any,
    ) -> None:
        super().__init__(**parts(spatial_dims, in_channels, tasks, encoder, CrossMaskStreams, CTAB, options))
