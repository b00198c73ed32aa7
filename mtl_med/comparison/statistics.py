"""Intervals over seeds, paired bootstrap over patients, correction for several comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.comparison.samples import Sample
from mtl_med.errors import UsageError
from mtl_med.metrics.bootstrap import LEVEL
from mtl_med.metrics.relative import mean_over_tasks, relative_performances

__all__ = ["DRAWS", "NOTHING", "Difference", "Estimate", "holm", "paired_bootstrap", "t_interval"]

DRAWS = 10_000
_AT_A_TIME = 500  # draws that are in memory together


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Args:
        mean: NaN when there is no value.
        low: lower end of the t-interval; NaN with fewer than two values.
        high: upper end.
        count: number of values.
    """

    mean: float
    low: float
    high: float
    count: int


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
"""The mean of no values."""


def t_interval(values: Sequence[float], level: float = LEVEL) -> Estimate:
    """Mean of independent values with Student's t-interval; values that are NaN are left out.

    Args:
        values: one per seed.
        level: coverage of the interval.
    """
    from scipy.special import stdtrit

    kept = np.array([value for value in values if not math.isnan(value)], dtype=np.float64)
    if kept.size == 0:
        return NOTHING
    mean = float(kept.mean())
    if kept.size == 1:
        return Estimate(mean, math.nan, math.nan, 1)
    error = float(kept.std(ddof=1)) / math.sqrt(kept.size)
    half = float(stdtrit(kept.size - 1, 0.5 + level / 2)) * error
    return Estimate(mean, mean - half, mean + half, int(kept.size))


@dataclass(frozen=True)
class Difference:
    """A method minus its baseline, over the same patients.

    Args:
        value: from all patients; NaN when there are none.
        low: lower end of the bootstrap's percentile interval; NaN with fewer than two patients.
        high: upper end.
        p: two-sided p-value of "no difference"; NaN with fewer than two patients.
        patients: number of patients that count, or of their groups where those are drawn.
    """

    value: float
    low: float
    high: float
    p: float
    patients: int


def paired_bootstrap(
    baseline: Sequence[Sample],
    method: Sequence[Sample],
    higher_is_better: Sequence[bool],
    *,
    tasks: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Difference]:
    """Differences of scores over patients, patients being drawn again with replacement, both methods alike.

    Args:
        baseline: M scores of the same P patients.
        method: the same. A patient counts for a score where both are defined.
        higher_is_better: M directions.
        tasks: the task that each score is of; default: each score is a task of its own.
        groups: (P,) what is drawn as a whole, such as the lesion of an image; default: each patient alone.
        draws: number of drawn sets, each of as many groups as there are.
        seed: of the draws.
        level: coverage of the percentile intervals.

    Returns:
        M differences method - baseline in the metrics' own units, then the relative difference as mean over the
        tasks (%, positive is better: Eq. 3 of the CTAN paper, taken of the scores over patients).

    Raises:
        UsageError: other numbers of scores, directions or patients.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993; p with +1 as in Davison, Hinkley 1997, 4.11.
    """
    lengths = sorted({sample.defined.size for sample in (*baseline, *method)})
    if not len(baseline) == len(method) == len(higher_is_better) or len(lengths) != 1:
        raise UsageError(
            f"{len(baseline)} and {len(method)} scores, {len(higher_is_better)} directions, patients: {lengths}"
        )
    names, index = np.unique(np.arange(lengths[0]) if groups is None else np.asarray(groups), return_inverse=True)
    both = [first.defined & second.defined for first, second in zip(baseline, method, strict=True)]
    # Row 0 holds every group once: the estimate itself.
    times = np.ones((1, names.size))
    if names.size > 1:
        drawn = np.random.default_rng(seed).multinomial(names.size, np.full(names.size, 1 / names.size), size=draws)
        times = np.concatenate([times, drawn])
    scores = np.empty((2, len(times), len(both)))
    for start in range(0, len(times), _AT_A_TIME):
        weights = times[start : start + _AT_A_TIME].T[index]
        for column, defined in enumerate(both):
            for side, sample in enumerate((baseline[column], method[column])):
                scores[side, start : start + _AT_A_TIME, column] = sample.score(weights * defined[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = relative_performances(scores[0], scores[1], higher_is_better)
    counts = [np.unique(index[defined]).size for defined in both]
    found = [_difference(column, n, level) for column, n in zip((scores[1] - scores[0]).T, counts, strict=True)]
    of_task = tasks if tasks is not None else [str(column) for column in range(len(both))]
    return [*found, _difference(mean_over_tasks(relative, of_task), min(counts, default=names.size), level)]


def _difference(values: NDArray[np.float64], patients: int, level: float) -> Difference:
    """From the estimate, which stands first, and its bootstrap replicates."""
    estimate, drawn = float(values[0]), values[1:][np.isfinite(values[1:])]
    if patients < 2 or not drawn.size or not math.isfinite(estimate):
        return Difference(estimate if math.isfinite(estimate) else math.nan, math.nan, math.nan, math.nan, patients)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(estimate, float(low), float(high), min(1.0, 2 * (tail + 1) / (drawn.size + 1)), patients)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment of the p-values of one family; those that are NaN stay so and do not count.

    Source: Holm, "A simple sequentially rejective multiple test procedure", Scand J Stat 6, 1979.
    """
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [math.nan] * len(p_values)
    highest = 0.0
    for rank, (p, index) in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p))
        adjusted[index] = highest
    return adjusted
