"""Relative performance of a multi-task method against single-task networks."""

from __future__ import annotations

from collections.abc import Sequence

from mtl_med.errors import UsageError

__all__ = ["relative_performance", "relative_performances"]


def relative_performances(
    single_task: Sequence[float], method: Sequence[float], higher_is_better: Sequence[bool]
) -> list[float]:
    """Delta_i = 100 (-1)^l_i (M_b,i - M_m,i) / M_b,i per task, %.

    Args:
        single_task: M_b, the scores of the single-task networks.
        method: M_m, the scores of the method on the same tasks.
        higher_is_better: l_i = 1 for scores such as Dice, 0 for errors.

    Returns:
        One percentage per task; positive when the method is better.

    Raises:
        UsageError: the lengths differ or a single-task score is 0.

    Source: CTAN paper, Eq. 3.
    """
    if not len(single_task) == len(method) == len(higher_is_better) or not len(method):
        raise UsageError(
            f"scores of {len(single_task)} and {len(method)} tasks and {len(higher_is_better)} directions",
            fix="Give one score and one direction per task",
        )
    if any(score == 0 for score in single_task):
        raise UsageError("a single-task score is 0, so nothing can be relative to it", fix="Leave that task out")
    signs = [-1.0 if higher else 1.0 for higher in higher_is_better]
    triples = zip(signs, single_task, method, strict=True)
    return [100.0 * sign * (base - score) / base for sign, base, score in triples]


def relative_performance(
    single_task: Sequence[float], method: Sequence[float], higher_is_better: Sequence[bool]
) -> float:
    """Delta: the mean of `relative_performances` over the tasks, %."""
    deltas = relative_performances(single_task, method, higher_is_better)
    return sum(deltas) / len(deltas)
