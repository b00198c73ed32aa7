"""Intervals from drawing groups of cases again: the images of one lesion or patient are never torn apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.metrics.rows import Row

__all__ = ["DRAWS", "LEVEL", "Interval", "bootstrap", "dice_rows", "drawn_together", "group_draws"]

LEVEL = 0.95
DRAWS = 2000
_AT_A_TIME = 250  # draws that are in memory together


@dataclass(frozen=True)
class Interval:
    """A percentile interval.

    Args:
        low: NaN where nothing could be drawn.
        high: the same.
        groups: number of groups that were drawn from.
        draws: number of draws in which the score is defined.
        undefined: number of draws in which it is not, such as those without a case of some class.
    """

    low: float
    high: float
    groups: int
    draws: int
    undefined: int

    @property
    def convention(self) -> str:
        """How it came about, as the rows tell it."""
        if self.groups < 2:
            return f"undefined: {self.groups} group cannot be drawn from"
        told = f"{100 * LEVEL:g} %;bootstrap of {self.groups} groups;{self.draws} draws"
        return f"{told};{self.undefined} undefined left out" if self.undefined else told


def drawn_together(cases: Sequence[str], groups: Mapping[str, str]) -> list[str]:
    """What each case is drawn with: its group, or itself where it stands alone.

    Args:
        cases: ids.
        groups: id -> lesion or patient.
    """
    # An id may be the name of another's group: the two kinds of names are kept apart.
    return [f"group {groups[case]}" if groups.get(case) else f"case {case}" for case in cases]


def group_draws(groups: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """How often each case counts when as many groups as there are are drawn with replacement.

    Args:
        groups: (N,) group of each case.
        draws: number of draws.
        seed: of the draws.

    Returns:
        Arrays (N, at most 250), `draws` columns in all.
    """
    names, index = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    generator = np.random.default_rng(seed)
    for start in range(0, draws, _AT_A_TIME):
        count = min(_AT_A_TIME, draws - start)
        chosen = generator.integers(len(names), size=(count, len(names))) + len(names) * np.arange(count)[:, None]
        times = np.bincount(chosen.ravel(), minlength=count * len(names)).reshape(count, len(names))
        yield times.T[index].astype(np.float64)


def bootstrap(
    scores: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    groups: Sequence[str],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of several scores from the same draws.

    Args:
        scores: gives for weights (N, D) of the cases each score's D values; NaN where it is not defined.
        groups: (N,) group of each case.
        draws: number of draws.
        seed: of the draws.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; groups as in Field, Welsh,
    "Bootstrapping clustered data", J R Stat Soc B 69, 2007.
    """
    count = len(set(groups))
    parts = [scores(weights) for weights in group_draws(groups, draws, seed)] if count > 1 else []
    if not parts:
        found = scores(np.ones((len(groups), 1)))
        return dict.fromkeys(found, Interval(math.nan, math.nan, count, 0, 0))
    return {name: _interval(np.concatenate([part[name] for part in parts]), count) for name in parts[0]}


def _interval(values: NDArray[np.float64], groups: int) -> Interval:
    defined = values[np.isfinite(values)]
    undefined = values.size - defined.size
    if not defined.size:
        return Interval(math.nan, math.nan, groups, 0, undefined)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high), groups, defined.size, undefined)


def dice_rows(rows: Sequence[Row], groups: Mapping[str, str]) -> list[Row]:
    """Mean Dice of each structure over its cases, with the interval over groups.

    Args:
        rows: of any number of cases.
        groups: case -> its lesion or patient.

    Returns:
        Rows without a case: `dice`, `dice_low`, `dice_high` per structure.
    """
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row.case and row.metric == "dice" and not math.isnan(row.value):
            found.setdefault((row.task, row.structure), {})[row.case] = row.value
    told = []
    for (task, structure), values in found.items():
        array = np.array(list(values.values()))
        intervals = bootstrap(_means(array), drawn_together(list(values), groups))
        told.append(Row("", task, structure, "dice", float(array.mean()), "1", "mean over cases"))
        for end, bound in (("low", intervals["dice"].low), ("high", intervals["dice"].high)):
            told.append(Row("", task, structure, f"dice_{end}", bound, "1", intervals["dice"].convention))
    return told


def _means(values: NDArray[np.float64]) -> Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]:
    return lambda weights: {"dice": values @ weights / weights.sum(axis=0)}
