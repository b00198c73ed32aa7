"""The few figures of a case that the list of cases and the head of its page show, and how bad they make it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from mtl_med.metrics.dvh import DvhMetric
from mtl_med.metrics.rows import Row
from mtl_med.report.case_page import Cell
from mtl_med.report.numbers import number_cell, told

__all__ = ["badness", "headline", "ranked_by"]


def headline(rows: Sequence[Row]) -> dict[str, Cell]:
    """Column -> cell, of the rows of one case.

    Returns:
        `dose score, Gy`, `worst DVH error, Gy` and `mean Dice`, `lowest Dice` where such were scored; for every
        image-level task `<task>` (decided and true class) and `<task>: probability of the true class`.
    """
    return {**_dose(rows), **_shapes(rows), **_classes(rows)}


def _dose(rows: Sequence[Row]) -> dict[str, Cell]:
    scores = [row.value for row in rows if row.metric == "dose_score"]
    if not scores:
        return {}
    cells = {"dose score, Gy": number_cell(scores[0])}
    found = {
        (row.structure, row.metric): row.value for row in rows if row.structure and row.convention in ("linear", "")
    }
    errors = {}
    for (structure, metric), value in found.items():
        name = metric.removesuffix("_true")
        error = found.get((structure, f"{name}_predicted"), math.nan) - value
        if metric.endswith("_true") and not math.isnan(error):
            errors[f"{structure} {DvhMetric.parse(name).label}"] = error
    if errors:
        worst = max(errors, key=lambda name: abs(errors[name]))
        cells["worst DVH error, Gy"] = Cell(
            told(errors[worst], signed=True), number=True, value=abs(errors[worst]), detail=worst
        )
    return cells


def _shapes(rows: Sequence[Row]) -> dict[str, Cell]:
    dice = {row.structure: row.value for row in rows if row.metric == "dice" and not math.isnan(row.value)}
    if not any(row.metric == "dice" for row in rows):
        return {}
    mean = math.fsum(dice.values()) / len(dice) if dice else math.nan
    found = {row.structure for row in rows if row.metric == "hd95" and not math.isnan(row.value)}
    missed = [name for name in dice if name not in found]
    detail = f"missed: {', '.join(missed)}" if missed else ""
    cells = {"mean Dice": number_cell(mean, 3, mark="bad" if missed else "", detail=detail)}
    if len(dice) > 1:
        lowest = min(dice, key=lambda name: dice[name])
        cells["lowest Dice"] = number_cell(dice[lowest], 3, detail=lowest)
    return cells


def _classes(rows: Sequence[Row]) -> dict[str, Cell]:
    cells = {}
    for task in dict.fromkeys(row.task for row in rows if row.metric == "correct"):
        own = {row.metric: row for row in rows if row.task == task and row.metric != "probability"}
        decided, true = own["probability_of_decision"].structure, own["correct"].structure
        right = own["correct"].value == 1
        detail = "" if right else f"is {true}"
        cells[task] = Cell(decided, mark="good" if right else "bad", value=float(right), detail=detail)
        cells[f"{task}: probability of the true class"] = number_cell(own["probability_of_truth"].value, 3)
    return cells


Key = Callable[[Mapping[str, Cell]], float]


def _of(ending: str, sign: float) -> Key:
    def key(cells: Mapping[str, Cell]) -> float:
        values = [cell.value for name, cell in cells.items() if name.endswith(ending) and cell.value is not None]
        known = [value for value in values if not math.isnan(value)]
        return sign * known[0] if known else math.nan

    return key


_KEYS: Mapping[str, Key] = {
    "the dose score": _of("dose score, Gy", 1.0),
    "the probability of the true class": _of("probability of the true class", -1.0),
    "the mean Dice": _of("mean Dice", -1.0),
}
"""What cases are ranked by: the first that some case has."""


def ranked_by(cases: Sequence[Mapping[str, Cell]]) -> str:
    """In words, what `badness` looks at in these cases; "" where nothing is defined."""
    return next((name for name, key in _KEYS.items() if any(not math.isnan(key(cells)) for cells in cases)), "")


def badness(cells: Mapping[str, Cell], by: str) -> float:
    """How far up a case stands in the list, from its own figures.

    Args:
        cells: of `headline`.
        by: of `ranked_by`.

    Returns:
        Higher is worse; infinite where nothing is defined, since such a case has to be looked at.
    """
    value = _KEYS[by](cells) if by else math.nan
    return math.inf if math.isnan(value) else value
