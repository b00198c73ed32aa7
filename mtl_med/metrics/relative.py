"""Relative performance of a multi-task method against single-task networks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_med.errors import UsageError

__all__ = ["mean_over_tasks", "relative_performance", "relative_performances"]


def relative_performances(
    single_task: ArrayLike, method: ArrayLike, higher_is_better: Sequence[bool]
) -> NDArray[np.float64]:
    """Delta_i = 100 (-1)^l_i (M_b,i - M_m,i) / M_b,i per task, %.

    Args:
        single_task: M_b, (..., tasks) scores of the single-task networks.
        method: M_m, the scores of the method, of the same shape.
        higher_is_better: l_i = 1 for scores such as Dice, 0 for errors.

    Returns:
        (..., tasks) percentages, positive when the method is better. NaN where a score is not defined or the
        single-task score is 0, to which nothing can be relative.

    Raises:
        UsageError: the lengths differ.

    Source: CTAN paper, Eq. 3.
    """
    base, score = np.asarray(single_task, dtype=np.float64), np.asarray(method, dtype=np.float64)
    if base.shape != score.shape or base.shape[-1:] != (len(higher_is_better),) or not len(higher_is_better):
        raise UsageError(
            f"scores of shape {base.shape} and {score.shape} and {len(higher_is_better)} directions",
            fix="Give one score and one direction per task",
        )
    signs = np.where(higher_is_better, -1.0, 1.0)
    return 100.0 * signs * (base - score) / np.where(base == 0, np.nan, base)


def mean_over_tasks(values: ArrayLike, tasks: Sequence[str]) -> NDArray[np.float64]:
    """The mean over tasks of what was measured of each, so that a task with two scores weighs no more than another.

    Args:
        values: (..., scores), such as the result of `relative_performances`.
        tasks: the task of each score.

    Returns:
        (...) means; NaN where a value is not defined.

    Raises:
        UsageError: the lengths differ.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape[-1:] != (len(tasks),) or not len(tasks):
        raise UsageError(f"scores of shape {scores.shape} and {len(tasks)} tasks", fix="Give one task per score")
    of_task = [[index for index, other in enumerate(tasks) if other == task] for task in dict.fromkeys(tasks)]
    return np.mean([scores[..., indices].mean(axis=-1) for indices in of_task], axis=0)


def relative_performance(single_task: ArrayLike, method: ArrayLike, higher_is_better: Sequence[bool]) -> float:
    """Delta: the mean of `relative_performances` over the tasks, %; NaN unless all are defined."""
    return float(relative_performances(single_task, method, higher_is_better).mean())
