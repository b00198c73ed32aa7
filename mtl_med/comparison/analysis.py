"""The numbers of one table: scores, relative differences to the baseline, ranks, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mtl_med.comparison.protocol import Group, ScoreColumn
from mtl_med.comparison.results import Results
from mtl_med.comparison.samples import sample_of
from mtl_med.comparison.scores import of_run, select
from mtl_med.comparison.statistics import (
    DRAWS,
    NOTHING,
    Difference,
    Estimate,
    holm,
    paired_bootstrap,
    t_interval,
)
from mtl_med.metrics.bootstrap import drawn_together
from mtl_med.metrics.relative import mean_over_tasks, relative_performances

__all__ = ["Line", "analyse"]


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Args:
        row: its name.
        seeds: of its finished runs.
        paired_seeds: those of them that the baseline has too.
        scores: per metric, over the seeds.
        deltas: per metric, relative difference to the baseline, %, over the paired seeds. Empty for the baseline.
        differences: per metric, in its own unit, this row minus the baseline, over the paired seeds. Empty for the
            baseline.
        mean_delta: mean of the deltas over the tasks, a task's being the mean over its metrics, over the paired seeds.
        rank: 1 is the best mean delta, the baseline's being 0, over the seeds that all finished rows share; 0 without
            one, and where they share none.
        patients: per metric, and last for the mean delta, over the patients. Empty for the baseline.
        p_adjusted: their p-values after Holm's correction over the methods of the table.
    """

    row: str
    seeds: tuple[int, ...]
    paired_seeds: tuple[int, ...]
    scores: tuple[Estimate, ...]
    deltas: tuple[Estimate, ...] = ()
    differences: tuple[Estimate, ...] = ()
    mean_delta: Estimate = NOTHING
    rank: int = 0
    patients: tuple[Difference, ...] = ()
    p_adjusted: tuple[float, ...] = ()


def analyse(results: Results, group: Group, draws: int = DRAWS) -> list[Line]:
    """One line per row of the group.

    Args:
        results: finished runs.
        group: the table.
        draws: of the bootstrap.
    """
    columns = [results.protocol.metric(name) for name in group.metrics]
    higher = [column.higher_is_better for column in columns]
    figures = {row: {seed: _figures(results, row, seed, columns) for seed in results.seeds(row)} for row in group.rows}
    lines: list[Line] = []
    means: dict[str, dict[int, float]] = {}
    for row, own in figures.items():
        paired = [seed for seed in own if seed in figures[group.baseline] and row != group.baseline]
        line = Line(
            row=row,
            seeds=tuple(own),
            paired_seeds=tuple(paired),
            scores=tuple(t_interval([values[i] for values in own.values()]) for i in range(len(columns))),
        )
        if paired:
            base = np.array([figures[group.baseline][seed] for seed in paired])
            method = np.array([own[seed] for seed in paired])
            deltas = relative_performances(base, method, higher)
            means[row] = dict(zip(paired, mean_over_tasks(deltas, [c.task for c in columns]).tolist(), strict=True))
            line = replace(
                line,
                deltas=tuple(t_interval(column) for column in deltas.T.tolist()),
                differences=tuple(t_interval(column) for column in (method - base).T.tolist()),
                mean_delta=t_interval(list(means[row].values())),
                patients=tuple(_over_patients(results, group.baseline, row, paired, columns, draws)),
            )
        lines.append(line)
    return _adjusted(_ranked(lines, group.baseline, means))


def _figures(results: Results, row: str, seed: int, columns: Sequence[ScoreColumn]) -> list[float]:
    rows = results.scores[row, seed]
    return [of_run(column, select(column, rows)) for column in columns]


def _over_patients(
    results: Results, baseline: str, row: str, seeds: Sequence[int], columns: Sequence[ScoreColumn], draws: int
) -> list[Difference]:
    runs = [[results.scores[name, seed] for seed in seeds] for name in (baseline, row)]
    found = (select(column, rows) for listed in runs for rows in listed for column in columns)
    cases = sorted({score.case for scores in found for score in scores if score.case})
    base, method = ([sample_of(column, listed, cases) for column in columns] for listed in runs)
    higher = [column.higher_is_better for column in columns]
    tasks = [column.task for column in columns]
    groups = drawn_together(cases, results.groups) if results.groups else None
    return paired_bootstrap(base, method, higher, tasks=tasks, groups=groups, draws=draws)


def _ranked(lines: list[Line], baseline: str, means: Mapping[str, Mapping[int, float]]) -> list[Line]:
    """Ranks by mean delta over the seeds that all rows which have run share; equal ones share the better rank."""
    compared = [line.row for line in lines if line.seeds and line.row != baseline]
    shared = [seed for line in lines if line.row == baseline for seed in line.seeds]
    shared = [seed for seed in shared if all(seed in means.get(row, ()) for row in compared)]
    found = {row: t_interval([means[row][seed] for seed in shared]).mean for row in compared if shared}
    found |= {baseline: 0.0} if shared else {}
    defined = {row: value for row, value in found.items() if not math.isnan(value)}
    ranks = {row: 1 + sum(other > value for other in defined.values()) for row, value in defined.items()}
    return [replace(line, rank=ranks.get(line.row, 0)) for line in lines]


def _adjusted(lines: list[Line]) -> list[Line]:
    """Holm's correction of each column over the methods."""
    compared = [line for line in lines if line.patients]
    if not compared:
        return lines
    columns = [holm([line.patients[i].p for line in compared]) for i in range(len(compared[0].patients))]
    adjusted = {line.row: tuple(column[k] for column in columns) for k, line in enumerate(compared)}
    return [replace(line, p_adjusted=adjusted.get(line.row, ())) for line in lines]
