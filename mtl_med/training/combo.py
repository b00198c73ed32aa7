"""The loss of a segmentation, soft Dice plus binary cross-entropy, made of sums over space.

Value and gradient of the sums take one pass over the voxels each. A case of OpenKBP has 7 structures of 1.2 million
voxels; written with ordinary operations, the loss keeps half a dozen tensors of that size for the backward pass. Here
only the logits and the truth are kept, which live anyway, and both passes walk over the volume in pieces that fit the
cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from mtl_med.errors import UsageError, nearest
from mtl_med.training.terms import LossTerm, check_shapes, sum_over_ranks, wide_dtype

__all__ = ["ComboLoss", "PairSums", "pair_sums"]

CROSS_ENTROPIES = ("mean", "balanced", "foreground")

# With ce="foreground" a pair counts as having at least this part of its voxels inside, so that a sliver of a structure
# at the edge of a patch does not outweigh whole ones.
_LEAST_FOREGROUND = 1 / 4096

# Elements per piece on the CPU. Up to 2^15, torch runs an operation on one thread: larger pieces are faster on an idle
# machine, but wait for a second thread a thousand times per step, which on a busy one costs many times the work.
_PIECE = 2**15


class PairSums(NamedTuple):
    """Sums over the voxels of each (case, structure) pair, each `(B, C)`; x logit, p = sigmoid(x), y truth.

    Args:
        predicted: sum of p.
        truth: sum of y.
        overlap: sum of p y.
        ce_foreground: sum of -y log p.
        ce_background: sum of -(1 - y) log(1 - p).
    """

    predicted: Tensor
    truth: Tensor
    overlap: Tensor
    ce_foreground: Tensor
    ce_background: Tensor


def pair_sums(logits: Tensor, truth: Tensor, labelled: Tensor) -> PairSums:
    """Sums over space for Dice and cross-entropy, differentiable once with respect to the logits.

    Args:
        logits: `(B, C, *spatial)`, any floating dtype and memory layout; fp16 and bf16 are computed in fp32.
        truth: `(B, C, *spatial)`, 0 to 1, any dtype; not read in unlabelled pairs, where it may be NaN.
        labelled: `(B, C)` bool; an unlabelled pair has zero sums and zero gradient.

    Returns:
        The sums, in fp32 or the dtype of the logits if that is wider.
    """
    return PairSums(*torch.where(labelled, _PairSums.apply(logits, truth, labelled), 0.0).unbind())


class _PairSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, truth: Tensor, labelled: Tensor) -> Tensor:
        ctx.save_for_backward(logits, truth, labelled)
        sums = torch.zeros((5, *labelled.shape), dtype=wide_dtype(logits), device=logits.device)
        for case, _, x, y in _pieces(logits, truth, labelled):
            p = x.sigmoid()
            soft = F.softplus(x)  # = -log(1 - p); -log p = softplus(x) - x
            soft_y = soft * y
            foreground = soft_y.sum(1) - (x * y).sum(1)
            background = soft.sum(1) - soft_y.sum(1)
            sums[:, case] += torch.stack([p.sum(1), y.sum(1), p.mul_(y).sum(1), foreground, background])
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, truth, labelled = ctx.saved_tensors
        flat = torch.empty_like(logits.flatten(2))  # keeps a channels-last layout
        for case, piece, x, y in _pieces(logits, truth, labelled):
            predicted, _, overlap, foreground, background = grad[:, case, :, None]
            p = x.sigmoid()
            # d/dx = p (1 - p) (predicted + overlap y) - foreground y (1 - p) + background (1 - y) p
            #      = p [(predicted + overlap y) (1 - p) + background + (foreground - background) y] - foreground y
            inner = torch.addcmul(predicted, overlap, y).mul_(1 - p)
            inner.add_(background).addcmul_(foreground - background, y)
            flat[case, :, piece] = inner.mul_(p).addcmul_(foreground, y, value=-1.0)
        return flat.view(logits.shape), None, None


def _pieces(logits: Tensor, truth: Tensor, labelled: Tensor) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Walk over `(case, slice of voxels, logits, truth)`, the last two `(C, voxels)`, contiguous in the wide dtype.

    All structures of a piece go together, so that channels-last logits are read from memory once.
    """
    dtype = wide_dtype(logits)
    x, y = logits.detach().flatten(2), truth.flatten(2)
    cases, structures, voxels = x.shape
    step = max(1, _PIECE // structures) if x.device.type == "cpu" else voxels
    for case in range(cases):
        known = labelled[case, :, None]
        for start in range(0, voxels, step):
            piece = slice(start, start + step)
            known_y = torch.where(known, y[case, :, piece], torch.zeros((), dtype=y.dtype, device=y.device))
            yield case, piece, x[case, :, piece].to(dtype).contiguous(), known_y.to(dtype)


class ComboLoss(nn.Module):
    """Weighted sum of soft Dice loss and binary cross-entropy, one sigmoid per structure, since organs overlap.

    A sample is a (case, structure) pair; pairs that are not labelled are left out. With p = sigmoid(logit), y the truth
    and sums over the voxels of a pair, the Dice loss is 1 - (2 sum(p y) + smooth) / (sum(p) + sum(y) + smooth): zero
    for an empty prediction of an empty structure, near one for any other prediction of it.

    Args:
        dice_weight: factor of the Dice loss.
        ce_weight: factor of the cross-entropy.
        ce: "mean" over the voxels of the pair, or "balanced": the mean over the foreground and the mean over the
            background count half each (an empty one is left out). The plain mean of a structure that fills a thousandth
            of the volume is almost all background, and its gradient vanishes once the background is right. Balancing
            mends that but makes every structure too large: the optimum is no longer the true probability. "foreground"
            keeps the optimum and the gradient: the sum over all voxels divided by the number of foreground voxels, at
            least 1/4096 of all. It is for patches that hold the whole structure: on single slices, where the number
            changes from one to the next, the optimum moves, and `mean` with a larger `ce_weight` is the choice.
        batch_dice: form the Dice sums of a structure over all its labelled cases in the batch, in training on all
            ranks, instead of per case. The cross-entropy stays per pair.
        smooth: in voxels.

    Raises:
        UsageError: an unknown `ce`, a negative weight, or `smooth` not positive.

    Source: 0.3 Dice + 0.7 cross-entropy: "Cross-Task Attention Network", arXiv 2309.03837, Sect. 2.2 and Table 1.
    """

    def __init__(
        self,
        dice_weight: float = 0.3,
        ce_weight: float = 0.7,
        ce: str = "mean",
        batch_dice: bool = False,
        smooth: float = 1.0,
    ) -> None:
        super().__init__()
        if ce not in CROSS_ENTROPIES:
            raise UsageError(f"unknown cross-entropy '{ce}'", fix=nearest(ce, CROSS_ENTROPIES))
        if dice_weight < 0 or ce_weight < 0 or smooth <= 0:
            raise UsageError(
                f"dice_weight {dice_weight}, ce_weight {ce_weight} and smooth {smooth} do not make a loss",
                fix="Give weights of at least zero and a positive smooth",
            )
        self.dice_weight, self.ce_weight, self.ce = dice_weight, ce_weight, ce
        self.batch_dice, self.smooth = batch_dice, smooth

    def forward(self, prediction: Tensor, label: Tensor, labelled: Tensor, mask: Tensor | None = None) -> LossTerm:
        """Sum over the labelled (case, structure) pairs.

        Args:
            prediction: `(B, C, *spatial)` logits.
            label: `(B, C, *spatial)`, 0 or 1, any dtype.
            labelled: `(B, C)` bool.
            mask: not used.

        Returns:
            Sum and number of the labelled pairs.

        Raises:
            UsageError: shapes that do not fit together.
        """
        check_shapes(prediction, label, labelled)
        sums = pair_sums(prediction, label, labelled)
        voxels = prediction[0, 0].numel()
        loss = self.dice_weight * self._dice(sums) + self.ce_weight * self._cross_entropy(sums, voxels)
        return LossTerm(torch.where(labelled, loss, 0.0).sum(), labelled.sum().to(loss.dtype))

    def _dice(self, sums: PairSums) -> Tensor:
        """Dice loss `(B, C)`, or `(1, C)` over the batch."""
        overlap, size = sums.overlap, sums.predicted + sums.truth
        if self.batch_dice:
            both = torch.stack([overlap.sum(0, keepdim=True), size.sum(0, keepdim=True)])
            overlap, size = (sum_over_ranks(both) if self.training else both).unbind()
        return 1 - (2 * overlap + self.smooth) / (size + self.smooth)

    def _cross_entropy(self, sums: PairSums, voxels: int) -> Tensor:
        """Cross-entropy `(B, C)`."""
        if self.ce == "mean":
            return (sums.ce_foreground + sums.ce_background) / voxels
        if self.ce == "foreground":
            return (sums.ce_foreground + sums.ce_background) / sums.truth.clamp(min=voxels * _LEAST_FOREGROUND)
        foreground, background = sums.truth, voxels - sums.truth
        means = sums.ce_foreground / foreground.clamp(min=1) + sums.ce_background / background.clamp(min=1)
        return means / ((foreground > 0).to(means.dtype) + (background > 0).to(means.dtype))
