"""The scores of a folder of predictions as functions of how often each case counts: for intervals and differences.

Each is defined as `mtl_med.metrics.summary.overall` defines it; with every case counted once it is that number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.comparison.protocol import ScoreColumn
from mtl_med.comparison.samples import Sample, means, sample_of
from mtl_med.comparison.statistics import Difference, holm, paired_bootstrap
from mtl_med.metrics.bootstrap import DRAWS, Interval, bootstrap, drawn_together
from mtl_med.metrics.rows import Row

__all__ = ["Compared", "Score", "compare", "intervals", "score_list"]

Floats = NDArray[np.float64]
_DOSE = (
    ("dose_score", "dose score", "mean over cases of the sum of |error| per voxel of the possible-dose mask (OpenKBP)"),
    ("dvh_score", "DVH score", "mean of |error| over cases, structures and metrics; linear percentiles (OpenKBP)"),
    ("mae_in_mask", "MAE inside the mask", "mean over cases, per voxel of the possible-dose mask"),
    ("mae_whole_grid", "MAE whole grid", "mean over cases, per voxel of the grid, air included"),
)
_SHAPES = (
    ("dice", "Dice", True, "mean over structures of their means over cases; a missed structure counts as 0"),
    ("hd95", "HD95", False, "mean over structures of their means over the cases in which they were found"),
    ("surface_dice", "surface Dice", True, "mean over structures of their means over cases; a missed one counts as 0"),
)
_IMAGES = (
    ("accuracy", "accuracy", "share of the images"),
    ("balanced_accuracy", "balanced accuracy", "mean sensitivity over the classes"),
    ("auc", "AUC", "area under the ROC curve; of several classes the mean of each against the rest"),
)


@dataclass(frozen=True)
class Score:
    """One score over all cases.

    Args:
        key: unique, such as "dose_score" or "auc/diagnosis".
        label: its name in words.
        task: that it belongs to.
        unit: "Gy", "mm", "px" or "1".
        higher_is_better: its direction.
        convention: how it is defined.
        cases: ids, in the order of the sample's weights.
        sample: the score as a function of weights.
    """

    key: str
    label: str
    task: str
    unit: str
    higher_is_better: bool
    convention: str
    cases: tuple[str, ...]
    sample: Sample

    @property
    def value(self) -> float:
        """The score itself, every case counting once."""
        return float(self.sample.score(self.sample.defined[:, None].astype(np.float64))[0])


def score_list(rows: Sequence[Row], cases: Sequence[str] | None = None) -> list[Score]:
    """All scores that rows hold.

    Args:
        rows: of any number of cases; those without a case do not count.
        cases: those that count, in the order wanted; default: those of the rows.
    """
    order = tuple(cases if cases is not None else dict.fromkeys(row.case for row in rows if row.case))
    chosen = set(order)
    rows = [row for row in rows if row.case in chosen]
    return [*_dose_scores(rows, order), *_shape_scores(rows, order), *_image_scores(rows, order)]


def _dose_scores(rows: Sequence[Row], cases: tuple[str, ...]) -> Iterable[Score]:
    for metric, label, convention in _DOSE:
        if metric == "dvh_score":
            own = [row for row in rows if row.metric.endswith("_abs_error") and row.convention in ("linear", "")]
            own = [row for row in own if row.structure]
        else:
            own = [row for row in rows if row.metric == metric]
        if own:
            table = _table(own, cases)
            sample = _flat_mean(table) if metric == "dvh_score" else means(table[:, 0])
            yield Score(metric, label, own[0].task, "Gy", False, convention, cases, sample)


def _shape_scores(rows: Sequence[Row], cases: tuple[str, ...]) -> Iterable[Score]:
    for metric, label, higher, convention in _SHAPES:
        own = [row for row in rows if row.metric == metric or row.metric.startswith(f"{metric}_2")]
        if own:
            told = f"{label} at 2 {own[0].metric[-2:]}" if metric == "surface_dice" else label
            sample = _mean_of_means(_table(own, cases))
            yield Score(metric, f"mean {told}", own[0].task, own[0].unit, higher, convention, cases, sample)


def _image_scores(rows: Sequence[Row], cases: tuple[str, ...]) -> Iterable[Score]:
    for task in dict.fromkeys(row.task for row in rows if row.metric == "correct"):
        for metric, label, convention in _IMAGES:
            column = ScoreColumn(metric, task, metric, True, "1")
            sample = sample_of(column, [rows], cases)
            yield Score(f"{metric}/{task}", f"{task}: {label}", task, "1", True, convention, cases, sample)


def _table(rows: Sequence[Row], cases: Sequence[str]) -> Floats:
    """(P, K) values of K scores of each case; NaN where it has none."""
    place = {case: index for index, case in enumerate(cases)}
    keys = {key: index for index, key in enumerate(dict.fromkeys((row.structure, row.metric) for row in rows))}
    table = np.full((len(cases), len(keys)), np.nan)
    for row in rows:
        if row.case in place:
            table[place[row.case], keys[row.structure, row.metric]] = row.value
    return table


def _flat_mean(table: Floats) -> Sample:
    """One mean over all cases and scores."""
    defined = ~np.isnan(table)
    sums, counts = np.where(defined, table, 0.0).sum(axis=1), defined.sum(axis=1).astype(np.float64)

    def score(weights: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return sums @ weights / (counts @ weights)

    return Sample(counts > 0, score)


def _mean_of_means(table: Floats) -> Sample:
    """The mean over the structures of their means over the cases; one that no drawn case has is left out."""
    defined = ~np.isnan(table)
    known = np.where(defined, table, 0.0).T

    def score(weights: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            each = known @ weights / (defined.T.astype(np.float64) @ weights)
        present = ~np.isnan(each)
        with np.errstate(invalid="ignore"):
            return np.where(present, each, 0.0).sum(axis=0) / present.sum(axis=0)

    return Sample(np.any(defined, axis=1), score)


def intervals(scores: Sequence[Score], groups: Mapping[str, str]) -> dict[str, Interval]:
    """Percentile intervals of scores over patients, or over their groups where those are told.

    Args:
        scores: of the same cases.
        groups: case -> lesion or patient.
    """
    if not scores:
        return {}
    cases = scores[0].cases
    return bootstrap(
        lambda weights: {item.key: item.sample.score(weights * item.sample.defined[:, None]) for item in scores},
        drawn_together(cases, groups),
    )


@dataclass(frozen=True)
class Compared:
    """One score of two folders of predictions over the cases that both have.

    Args:
        score: as the other folder has it.
        difference: other minus first.
        p_adjusted: Holm's adjustment over the folders that are compared with the first.
        cases: number of cases of both.
    """

    score: Score
    difference: Difference
    p_adjusted: float
    cases: int


def compare(
    first: Sequence[Row], others: Mapping[str, Sequence[Row]], groups: Mapping[str, str]
) -> dict[str, list[Compared]]:
    """Paired differences of every folder of predictions to the first, by the cases that both have.

    Args:
        first: its rows.
        others: name -> rows.
        groups: case -> lesion or patient, which is drawn as a whole.

    Returns:
        name -> one for each score that both have.
    """
    found: dict[str, list[tuple[Score, Difference, int]]] = {}
    for name, rows in others.items():
        mine = {row.case for row in rows}
        both = [case for case in dict.fromkeys(row.case for row in first if row.case) if case in mine]
        left = {score.key: score for score in score_list(first, both)}
        right = [score for score in score_list(rows, both) if score.key in left]
        if not both or not right:
            found[name] = []
            continue
        differences = paired_bootstrap(
            [left[score.key].sample for score in right],
            [score.sample for score in right],
            [score.higher_is_better for score in right],
            groups=drawn_together(both, groups),
            draws=DRAWS,
        )
        found[name] = [(score, differences[index], len(both)) for index, score in enumerate(right)]
    adjusted: dict[tuple[str, str], float] = {}
    for key in dict.fromkeys(score.key for items in found.values() for score, _, _ in items):
        family = [(name, item.p) for name, items in found.items() for score, item, _ in items if score.key == key]
        for (name, _), p in zip(family, holm([p for _, p in family]), strict=True):
            adjusted[name, key] = p
    return {
        name: [Compared(score, item, adjusted.get((name, score.key), math.nan), count) for score, item, count in items]
        for name, items in found.items()
    }
