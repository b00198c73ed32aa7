"""From the long rows of a run to the figures of a table: one per run, and one per patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mtl_med.comparison.protocol import Protocol, ScoreColumn
from mtl_med.metrics import METRICS
from mtl_med.metrics.classification import auc
from mtl_med.metrics.dose import OAR_METRICS, TARGET_METRICS
from mtl_med.metrics.image_rows import Images, images_of
from mtl_med.metrics.rows import Row
from mtl_med.tasks import Task

__all__ = [
    "ACCURACY",
    "AREA",
    "BALANCED",
    "of_patients",
    "of_run",
    "patient_means",
    "select",
    "under_own_tasks",
    "wanted",
]

ACCURACY, BALANCED, AREA = "accuracy", "balanced_accuracy", "auc"
"""Scores of image-level classes; the rows of a patient that they are made of have other names."""

_IMAGE_ROWS = {
    ACCURACY: {"correct"},
    BALANCED: {"correct"},
    AREA: {"correct", "probability", "probability_of_decision"},
}
_OF_MASKS = {metric.name for metric in METRICS["segmentation"]}
_DVH_SCORE = "dvh_score"
_DVH_ERRORS = {f"{metric}_abs_error" for metric in (*OAR_METRICS, *TARGET_METRICS)}


def under_own_tasks(rows: Iterable[Row], tasks: Sequence[Task]) -> list[Row]:
    """Rows of segmentations under the task whose class a structure is.

    An evaluation knows what kind a structure is ("oar", "target") but not which task predicted it: a task of organs and
    targets has rows of both kinds.

    Args:
        rows: of one run's evaluation.
        tasks: that the run was trained for; a structure of several of them keeps its kind.
    """
    owners: dict[str, list[str]] = {}
    for task in tasks:
        for name in task.class_names if task.kind == "segmentation" else ():
            owners.setdefault(name, []).append(task.name)
    only = {name: found[0] for name, found in owners.items() if len(found) == 1}
    return [
        replace(row, task=only[row.structure]) if row.metric in _OF_MASKS and row.structure in only else row
        for row in rows
    ]


def wanted(protocol: Protocol, rows: Iterable[Row]) -> list[Row]:
    """The rows that some score of the comparison is made of, in their order."""
    rows = list(rows)
    chosen = {id(row) for column in protocol.metrics for row in select(column, rows)}
    return [row for row in rows if id(row) in chosen]


def select(column: ScoreColumn, rows: Iterable[Row]) -> list[Row]:
    """The rows that one score is made of: those of its patients, or where it has none, those over many images."""
    rows = [row for row in rows if row.task == column.task]
    found = [row for row in rows if _counts(column, row)]
    if column.metric in _IMAGE_ROWS:
        of_images = [row for row in rows if row.case and row.metric in _IMAGE_ROWS[column.metric]]
        # A class against the rest needs the rest too.
        return [row for row in of_images if column.metric == AREA or _asked(column, row)] or found
    return [row for row in found if row.case] or found


def _asked(column: ScoreColumn, row: Row) -> bool:
    return column.structures is None or row.structure in column.structures


def _counts(column: ScoreColumn, row: Row) -> bool:
    if not _asked(column, row):
        return False
    if column.metric == _DVH_SCORE:
        return row.metric in _DVH_ERRORS and row.convention in ("linear", "")
    return row.metric == column.metric


def of_run(column: ScoreColumn, rows: Sequence[Row]) -> float:
    """The score of a whole run, as `mtl_med.metrics.summary.overall` defines it.

    Args:
        column: the score.
        rows: its rows.

    Returns:
        Mean over structures, or over the true classes of images, of their means over patients; the DVH score and the
        accuracy are one flat mean, and the AUC is that of one class against the rest, as mean over the classes. NaN
        where nothing is defined, or a structure that the score asks for was not scored at all.
    """
    if column.metric in (_DVH_SCORE, ACCURACY):
        return _mean(row.value for row in rows)
    if column.metric == AREA and column.task in (images := images_of(rows)):
        return _area(column, images[column.task])
    by_structure: dict[str, list[float]] = {}
    for row in rows:
        by_structure.setdefault(row.structure, []).append(row.value)
    if column.structures is not None and set(column.structures) - by_structure.keys():
        return math.nan
    return _mean(_mean(values) for values in by_structure.values())


def _area(column: ScoreColumn, images: Images) -> float:
    names = images.class_names
    wanted = column.structures or (names[1:] if len(names) == 2 else names)
    present = [index for index, name in enumerate(names) if name in wanted and (images.truth == index).any()]
    return _mean(auc(images.truth == index, images.probabilities[:, index]) for index in present)


def of_patients(rows: Iterable[Row]) -> dict[str, float]:
    """The score of each patient: the mean over what is defined for it (structures, DVH metrics).

    Args:
        rows: of one score and run; a row over many patients, which has no case, is left out.
    """
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.case:
            values.setdefault(row.case, []).append(row.value)
    return {case: _mean(items) for case, items in values.items()}


def patient_means(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Mean over runs of each patient's score; NaN for a patient whose score is undefined or absent in some run."""
    runs = list(runs)
    cases = {case: None for run in runs for case in run}
    return {case: math.fsum(run.get(case, math.nan) for run in runs) / len(runs) for case in cases}


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
