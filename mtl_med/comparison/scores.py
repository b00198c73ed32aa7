"""From the long rows of a run to the figures of a table: one per run, and one per patient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mtl_med.comparison.protocol import Protocol, ScoreColumn
from mtl_med.metrics.dose import OAR_METRICS, TARGET_METRICS
from mtl_med.metrics.rows import Row

__all__ = ["of_patients", "of_run", "patient_means", "select", "wanted"]

_DVH_SCORE = "dvh_score"
_DVH_ERRORS = {f"{metric}_abs_error" for metric in (*OAR_METRICS, *TARGET_METRICS)}


def wanted(protocol: Protocol, rows: Iterable[Row]) -> list[Row]:
    """The rows that some score of the comparison is made of, in their order."""
    rows = list(rows)
    chosen = {id(row) for column in protocol.metrics for row in select(column, rows)}
    return [row for row in rows if id(row) in chosen]


def select(column: ScoreColumn, rows: Iterable[Row]) -> list[Row]:
    """The rows that one score is made of: those of its patients, or where it has none, those over many images."""
    found = [row for row in rows if _counts(column, row)]
    return [row for row in found if row.case] or found


def _counts(column: ScoreColumn, row: Row) -> bool:
    if row.task != column.task or (column.structures is not None and row.structure not in column.structures):
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
        Mean over structures of their means over patients; the DVH score is one flat mean. NaN where nothing is
        defined, or a structure that the score asks for was not scored at all.
    """
    if column.metric == _DVH_SCORE:
        return _mean(row.value for row in rows)
    by_structure: dict[str, list[float]] = {}
    for row in rows:
        by_structure.setdefault(row.structure, []).append(row.value)
    if column.structures is not None and set(column.structures) - by_structure.keys():
        return math.nan
    return _mean(_mean(values) for values in by_structure.values())


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
