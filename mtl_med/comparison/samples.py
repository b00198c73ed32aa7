"""What a method's runs say of every patient by one score, ready to be scored again with patients drawn anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.comparison.protocol import ScoreColumn
from mtl_med.comparison.scores import AREA, BALANCED, of_patients, patient_means, select
from mtl_med.metrics.classification import weighted_auc
from mtl_med.metrics.image_rows import Images, images_of
from mtl_med.metrics.rows import Row

__all__ = ["Sample", "means", "sample_of"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """One score of one method over P patients.

    Args:
        defined: (P,) which of them count.
        score: gives (D,) scores for weights (P, D): how often each patient counts, 0 where it is not defined. NaN where
            the score is not defined, such as for a class without a patient.
    """

    defined: NDArray[np.bool_]
    score: Callable[[Floats], Floats]


def means(values: Floats) -> Sample:
    """The mean over the patients.

    Args:
        values: (P,); NaN where it is not defined.
    """
    defined = ~np.isnan(values)
    known = np.where(defined, values, 0.0)

    def score(weights: Floats) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return known @ weights / weights.sum(axis=0)

    return Sample(defined, score)


def sample_of(column: ScoreColumn, runs: Sequence[Sequence[Row]], cases: Sequence[str]) -> Sample:
    """One score of a method's runs, which differ by their seeds.

    A patient's mean over the seeds is taken first, but for the area under the ROC curve, which no patient has alone:
    there the areas are.

    Args:
        column: the score.
        runs: rows of each run.
        cases: the patients, in the order of the result.
    """
    if column.metric == AREA:
        found = [images_of(select(column, rows)).get(column.task) for rows in runs]
        known = [images for images in found if images]
        return _areas(column, known, cases) if len(known) == len(runs) else means(np.full(len(cases), math.nan))
    values = patient_means(of_patients(select(column, rows)) for rows in runs)
    array = np.array([values.get(case, math.nan) for case in cases], dtype=np.float64)
    if column.metric != BALANCED:
        return means(array)
    classes = {row.case: row.structure for rows in runs for row in select(column, rows)}
    return _mean_over(means(array), np.array([classes.get(case, "") for case in cases], dtype=object))


def _mean_over(sample: Sample, classes: NDArray) -> Sample:
    """Mean over the classes of their means over patients."""
    present = [classes == name for name in dict.fromkeys(classes[sample.defined])]

    def score(weights: Floats) -> Floats:
        return np.mean([sample.score(weights * own[:, None]) for own in present] or [weights.sum(0) * np.nan], axis=0)

    return Sample(sample.defined, score)


def _areas(column: ScoreColumn, runs: Sequence[Images], cases: Sequence[str]) -> Sample:
    """Mean over the runs of the mean over the classes of the area of one against the rest."""
    tables = [{case: place for place, case in enumerate(images.cases)} for images in runs]
    places = [[table.get(case, -1) for case in cases] for table in tables]
    defined = np.all([[place >= 0 for place in listed] for listed in places], axis=0)
    truth = runs[0].truth[places[0]]
    names = runs[0].class_names
    wanted = column.structures or (names[1:] if len(names) == 2 else names)
    shown = [index for index, name in enumerate(names) if name in wanted and (truth[defined] == index).any()]
    chances = [images.probabilities[listed] for images, listed in zip(runs, places, strict=True)]

    def score(weights: Floats) -> Floats:
        areas = [weighted_auc(truth == index, table[:, index], weights) for index in shown for table in chances]
        return np.mean(areas or [weights.sum(0) * np.nan], axis=0)

    return Sample(defined, score)
