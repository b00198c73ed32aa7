"""The learning rate as a pure function of how much of the training is done, in epochs or in minutes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mtl_med.errors import UsageError, nearest

__all__ = ["SHAPES", "Progress", "learning_rate"]

SHAPES = ("one_cycle", "constant")


def learning_rate(
    progress: float,
    *,
    peak: float,
    shape: str = "one_cycle",
    warmup: float = 0.1,
    start_factor: float = 0.04,
    final_factor: float = 1e-3,
) -> float:
    """The learning rate at one point of the training.

    `one_cycle`: half a cosine up from `start_factor * peak` to `peak`, then one down to `final_factor * peak`.

    Args:
        progress: part of the training that is done; below 0 counts as 0, above 1 as 1.
        peak: highest learning rate.
        shape: `one_cycle`, or `constant`: the peak from the first step to the last.
        warmup: part of the training that the rise takes, in [0, 1); 0 starts at the peak.
        start_factor: first learning rate over the peak.
        final_factor: last learning rate over the peak.

    Returns:
        The learning rate at this point; the same for the same arguments, whatever came before.

    Raises:
        UsageError: a progress that is no number, an unknown shape, or a value out of its range.

    Source: Smith, Topin, "Super-Convergence", arXiv 1708.07120, with cosines in place of lines.
    """
    if math.isnan(progress):
        raise UsageError("the progress of the training is not a number")
    if not (math.isfinite(peak) and peak > 0 and 0 <= warmup < 1 and start_factor >= 0 and final_factor >= 0):
        raise UsageError(
            f"peak {peak}, warmup {warmup}, start_factor {start_factor}, final_factor {final_factor} make no schedule",
            fix="Give a positive peak, a warmup in [0, 1) and factors of at least zero",
        )
    if shape not in SHAPES:
        raise UsageError(f"unknown learning_rate_shape '{shape}'", fix=nearest(shape, SHAPES))
    if shape == "constant":
        return peak
    progress = min(max(progress, 0.0), 1.0)
    if progress < warmup:
        return peak * _cosine(start_factor, 1.0, progress / warmup)
    return peak * _cosine(1.0, final_factor, (progress - warmup) / (1.0 - warmup))


def _cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * part)) / 2.0


@dataclass(frozen=True)
class Progress:
    """How much of a training is done when it may end by epochs, by minutes, or by whichever comes first.

    Args:
        epochs: number of epochs; None for no limit.
        minutes: training time in minutes; None for no limit, and then the progress is exact and repeatable.

    Raises:
        UsageError: no limit, or one that is not positive.
    """

    epochs: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.epochs is None and self.minutes is None:
            raise UsageError("neither epochs nor minutes limit the training", fix="Give --epochs, --minutes or both")
        for name, limit in (("epochs", self.epochs), ("minutes", self.minutes)):
            if limit is not None and not (math.isfinite(limit) and limit > 0):
                raise UsageError(f"{name} is {limit}", fix=f"Give a positive number of {name}")

    def fraction(self, iterations_done: int, iterations_per_epoch: int, seconds_trained: float) -> float:
        """Part of the training that is done, in [0, 1]: the larger of the epochs' part and the minutes' part.

        Args:
            iterations_done: iterations since the first epoch began, over all resumed parts.
            iterations_per_epoch: iterations in one epoch.
            seconds_trained: training time over all resumed parts; not read without a limit in minutes.

        Raises:
            UsageError: an epoch without iterations.
        """
        if iterations_per_epoch <= 0:
            raise UsageError(
                f"an epoch has {iterations_per_epoch} iterations", fix="Check that there are training cases"
            )
        by_epochs = iterations_done / (self.epochs * iterations_per_epoch) if self.epochs is not None else 0.0
        by_minutes = seconds_trained / (60.0 * self.minutes) if self.minutes is not None else 0.0
        return min(max(by_epochs, by_minutes, 0.0), 1.0)
