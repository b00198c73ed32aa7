"""Intervals over seeds, paired bootstrap over patients, correction for several comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.relative import relative_performances

__all__ = ["DRAWS", "LEVEL", "NOTHING", "Difference", "Estimate", "holm", "paired_bootstrap", "t_interval"]

LEVEL = 0.95
DRAWS = 10_000


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
        patients: number of patients that count.
    """

    value: float
    low: float
    high: float
    p: float
    patients: int


def paired_bootstrap(
    baseline: ArrayLike,
    method: ArrayLike,
    higher_is_better: Sequence[bool],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> list[Difference]:
    """Differences of means over patients, patients being drawn again with replacement, both methods alike.

    Args:
        baseline: (P, M) score of each patient by each of M metrics; NaN where it is not defined.
        method: (P, M) of the same patients. A patient counts for a metric where both are defined.
        higher_is_better: M directions.
        draws: number of drawn sets of P patients.
        seed: of the draws.
        level: coverage of the percentile intervals.

    Returns:
        M differences method - baseline in the metrics' own units, then the mean relative difference over the metrics
        (%, positive is better: Eq. 3 of the CTAN paper, taken of the means over patients).

    Raises:
        UsageError: arrays of different shapes.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993; p with +1 as in Davison, Hinkley 1997, 4.11.
    """
    base, other = np.asarray(baseline, dtype=np.float64), np.asarray(method, dtype=np.float64)
    if base.shape != other.shape or base.ndim != 2 or base.shape[1] != len(higher_is_better):
        raise UsageError(f"scores of shape {base.shape} and {other.shape} and {len(higher_is_better)} directions")
    defined = ~(np.isnan(base) | np.isnan(other))
    patients = len(base)
    # Row 0 holds every patient once: the estimate itself.
    times = np.ones((1, patients))
    if patients > 1:
        drawn = np.random.default_rng(seed).multinomial(patients, np.full(patients, 1 / patients), size=draws)
        times = np.concatenate([times, drawn])
    with np.errstate(divide="ignore", invalid="ignore"):
        count = times @ defined
        base_means, means = (times @ np.where(defined, scores, 0.0) / count for scores in (base, other))
        relative = relative_performances(base_means, means, higher_is_better)
    counts = defined.sum(axis=0)
    found = [_difference(column, int(n), level) for column, n in zip((means - base_means).T, counts, strict=True)]
    return [*found, _difference(relative.mean(axis=1), int(counts.min(initial=patients)), level)]


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
