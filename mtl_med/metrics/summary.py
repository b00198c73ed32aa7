"""Means over cases of the long rows, and the short table that a person reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from mtl_med.metrics.classification import accuracy, auc, auc_one_vs_rest, balanced_accuracy
from mtl_med.metrics.dose import TARGET_METRICS, dvh_score
from mtl_med.metrics.image_rows import images_of
from mtl_med.metrics.image_summary import image_lines
from mtl_med.metrics.rows import LABEL_MAP, Row

__all__ = [
    "DvhSummary",
    "StructureSummary",
    "aggregate_rows",
    "dvh_summaries",
    "overall",
    "structure_summaries",
    "summary",
]

_NAMES_SHOWN = 8
_SURFACE_DICE = "surface_dice_"  # and the tolerance with its unit
_WORST, _FEWEST = 3, 4  # worst cases that are named, where there are at least so many
_DOSE_LINES = (
    ("dose_score", "dose score", "sum of |error| per possible-dose voxel (OpenKBP)"),
    ("dvh_score", "DVH score", "OpenKBP, linear percentiles"),
    ("mae_in_mask", "MAE inside mask", "per possible-dose voxel"),
    ("mae_whole_grid", "MAE whole grid", "per voxel of the grid, air included"),
)
_AGGREGATES = {
    "dose_score": ("Gy", "mean over cases;openkbp"),
    "dvh_score": ("Gy", "mean over cases, structures and metrics;linear"),
    "mae_in_mask": ("Gy", "mean over cases;possible_dose_mask"),
    "mae_whole_grid": ("Gy", "mean over cases;whole_grid"),
    "mean_dice": ("1", "mean over structures of their means over cases"),
}
"""Score over all cases -> unit and convention of its row."""


@dataclass(frozen=True)
class StructureSummary:
    """Means over the cases in which a structure is contoured.

    Args:
        name: the structure.
        dice: mean Dice; a missed structure counts as 0.
        hd95: mean HD95 over the cases in which it was found, in `unit`.
        surface_dice: mean surface Dice at 2 mm or 2 px; a missed structure counts as 0.
        cases: cases with truth.
        missed: cases with truth but an empty prediction.
        not_contoured: cases without truth, which no mean counts.
        from_label_map: some prediction came from a label map.
        missed_cases: ids of the missed ones.
        unit: of the distances, "mm" or "px".
    """

    name: str
    dice: float
    hd95: float
    surface_dice: float
    cases: int
    missed: int
    not_contoured: int
    from_label_map: bool
    missed_cases: tuple[str, ...] = ()
    unit: str = "mm"


@dataclass(frozen=True)
class DvhSummary:
    """Means of one DVH metric over the cases in which the structure is contoured.

    Args:
        structure: the structure.
        metric: such as "D_95" or "mean".
        planned_gy: mean of the planned dose's values, Gy.
        predicted_gy: mean of the predicted dose's values, Gy.
        cases: number of cases.
        error_gy: mean of the differences' sizes, Gy; a small mean difference may hide large ones of both signs.
        worst_gy: the largest difference, signed, Gy.
        worst_case: the case that it belongs to.
    """

    structure: str
    metric: str
    planned_gy: float
    predicted_gy: float
    cases: int
    error_gy: float = math.nan
    worst_gy: float = math.nan
    worst_case: str = ""

    @property
    def difference_gy(self) -> float:
        """Mean signed difference, predicted - planned, Gy: below zero where too little dose is predicted."""
        return self.predicted_gy - self.planned_gy


def dvh_summaries(rows: Iterable[Row]) -> list[DvhSummary]:
    """One summary per structure and DVH metric, targets first, else in the order of the rows.

    Args:
        rows: of any number of cases; of a metric with two conventions the linear one counts.
    """
    doses: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in rows:
        metric, _, which = row.metric.rpartition("_")
        if row.case and row.structure and which in ("true", "predicted") and row.convention in ("linear", ""):
            doses.setdefault((row.structure, metric), {"true": {}, "predicted": {}})[which][row.case] = row.value
    targets = {structure for structure, metric in doses if metric in TARGET_METRICS}
    found = []
    for structure, metric in sorted(doses, key=lambda key: key[0] not in targets):  # sorting keeps the order of equals
        planned, predicted = doses[structure, metric].values()
        both = [case for case, dose in planned.items() if not math.isnan(dose + predicted.get(case, math.nan))]
        planned_gy, predicted_gy = (_mean(table[case] for case in both) for table in (planned, predicted))
        differences = {case: predicted[case] - planned[case] for case in both}
        error_gy = _mean(abs(value) for value in differences.values())
        worst = max(differences, key=lambda case: abs(differences[case]), default="")
        worst_gy = differences.get(worst, math.nan)
        found.append(DvhSummary(structure, metric, planned_gy, predicted_gy, len(both), error_gy, worst_gy, worst))
    return found


def structure_summaries(rows: Iterable[Row]) -> list[StructureSummary]:
    """One summary per structure, in the order of the rows; rows over many cases do not count."""
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        metric = _SURFACE_DICE if row.metric.startswith(_SURFACE_DICE) else row.metric
        if row.case and metric in ("dice", "hd95", _SURFACE_DICE):
            tables.setdefault(row.structure, {}).setdefault(metric, {})[row.case] = row
    return [_structure_summary(name, table) for name, table in tables.items()]


def _structure_summary(name: str, table: dict[str, dict[str, Row]]) -> StructureSummary:
    values = {metric: {case: row.value for case, row in rows.items()} for metric, rows in table.items()}
    with_truth = [case for case, value in values["dice"].items() if not math.isnan(value)]
    missed = tuple(case for case in with_truth if math.isnan(values["hd95"][case]))
    return StructureSummary(
        name=name,
        dice=_mean(values["dice"].values()),
        hd95=_mean(values["hd95"].values()),
        surface_dice=_mean(values[_SURFACE_DICE].values()),
        cases=len(with_truth),
        missed=len(missed),
        not_contoured=len(values["dice"]) - len(with_truth),
        from_label_map=any(row.convention.split(";")[0] == LABEL_MAP for row in table["dice"].values()),
        missed_cases=missed,
        unit=next(iter(table["hd95"].values())).unit,
    )


def overall(rows: Sequence[Row]) -> dict[str, float]:
    """The scores of a whole set of cases, from the rows of its cases alone: those of `aggregate_rows` do not count.

    Returns:
        `dose_score`, `dvh_score`, `mae_in_mask`, `mae_whole_grid` (Gy) where a dose was scored; `mean_dice` (mean over
        structures of their means over cases) and `dice/<structure>` where structures were; `accuracy/<task>`,
        `balanced_accuracy/<task>` and `auc/<task>` where images were.
    """
    rows = [row for row in rows if row.case]
    scores: dict[str, float] = {}
    for metric in ("dose_score", "mae_in_mask", "mae_whole_grid"):
        values = [row.value for row in rows if row.metric == metric]
        if values:
            scores[metric] = _mean(values)
    if "dose_score" in scores:
        scores["dvh_score"] = dvh_score(rows)
    structures = structure_summaries(rows)
    if structures:
        scores["mean_dice"] = _mean(item.dice for item in structures)
        scores |= {f"dice/{item.name}": item.dice for item in structures}
    for task, images in images_of(rows).items():
        truth, chances = images.truth, images.probabilities
        scores[f"accuracy/{task}"] = accuracy(truth, images.decided)
        scores[f"balanced_accuracy/{task}"] = balanced_accuracy(truth, images.decided)
        area = auc(truth == 1, chances[:, 1]) if chances.shape[1] == 2 else auc_one_vs_rest(truth, chances)
        scores[f"auc/{task}"] = area
    return scores


def aggregate_rows(rows: Sequence[Row]) -> list[Row]:
    """The scores of `overall` as rows without a case: dose score, DVH score, both MAEs and mean Dice, where scored."""
    scores, dice = overall(rows), [row.task for row in rows if row.metric == "dice" and row.case]
    tasks = {"mean_dice": "+".join(dict.fromkeys(dice))}
    return [
        Row("", tasks.get(metric, "dose"), "", metric, scores[metric], unit, convention)
        for metric, (unit, convention) in _AGGREGATES.items()
        if metric in scores
    ]


def summary(rows: Sequence[Row]) -> str:
    """A short table of all scores for reading, without a newline at its end."""
    scores = overall(rows)
    lines = []
    if "dose_score" in scores:
        cases = len({row.case for row in rows if row.case and row.metric == "dose_score"})
        lines.append(f"dose ({_count(cases, 'case')})")
        lines += [f"  {label:<15}  {_number(scores[key], 7, 3)} Gy   {note}" for key, label, note in _DOSE_LINES]
        lines += _spread_lines({row.case: row.value for row in rows if row.case and row.metric == "dose_score"})
        lines.append("  dose score and DVH: predicted dose outside possible_dose_mask counts as 0 Gy")
        lines += _dvh_lines(dvh_summaries(rows))
    structures = structure_summaries(rows)
    if structures:
        lines += ["", *_structure_lines(structures, scores["mean_dice"])]
        lines += _dice_intervals(rows)
    lines += image_lines(row for row in rows if row.metric not in _AGGREGATES)
    return "\n".join(lines).strip("\n") or "nothing was scored"


def _spread_lines(scores: dict[str, float]) -> list[str]:
    """How the dose score differs between cases."""
    known = sorted((case for case, value in scores.items() if not math.isnan(value)), key=lambda case: scores[case])
    if len(known) < _FEWEST:
        return []
    best, middle, worst = scores[known[0]], median(scores[case] for case in known), scores[known[-1]]
    named = ", ".join(f"{case} {scores[case]:.2f}" for case in known[: -_WORST - 1 : -1])
    return [f"  dose score of single cases: {best:.2f} to {worst:.2f} Gy, median {middle:.2f}; worst: {named}"]


def _dvh_lines(items: Sequence[DvhSummary]) -> list[str]:
    if not items:
        return []
    width = max(10, *(len(item.structure) for item in items))
    lines = ["", f"{'DVH (Gy)':<{width + 2}}  metric   planned  predicted  difference  |difference|  cases  worst"]
    for item in items:
        lines.append(
            f"  {item.structure:<{width}}  {item.metric:<7}  {_number(item.planned_gy, 7, 2)}"
            f"  {_number(item.predicted_gy, 9, 2)}  {_signed(item.difference_gy):>10}  {_number(item.error_gy, 12, 2)}"
            f"  {item.cases:5d}  {_signed(item.worst_gy)} {item.worst_case}".rstrip()
        )
    lines.append("  means over cases; difference = predicted - planned: below 0 too little dose is predicted, which is")
    lines.append("  optimistic for an organ and lost coverage for a target")
    return lines


def _structure_lines(structures: Sequence[StructureSummary], mean_dice: float) -> list[str]:
    width = max(10, *(len(item.name) for item in structures))
    unit = structures[0].unit
    head = f"{'structures':<{width + 2}}    Dice  HD95 {unit}  surface Dice 2 {unit}  cases  missed  not contoured"
    lines = [head]
    for item in structures:
        lines.append(
            f"  {item.name:<{width}}  {_number(item.dice, 6, 3)}  {_number(item.hd95, 7, 2)}"
            f"  {_number(item.surface_dice, 17, 3)}  {item.cases:5d}  {item.missed:6d}  {item.not_contoured:13d}"
        )
    lines.append(f"  {'mean':<{width}}  {_number(mean_dice, 6, 3)}")
    if any(item.missed for item in structures):
        lines.append("  missed = contoured but nothing predicted: Dice 0, no HD95")
        lines += [f"    {item.name}: {_listing(item.missed_cases)}" for item in structures if item.missed]
    if any(item.from_label_map for item in structures):
        lines.append("  read from label maps, which cannot hold overlaps")
    return lines


def _dice_intervals(rows: Sequence[Row]) -> list[str]:
    """A line for each structure whose Dice has an interval over groups."""
    found = {(row.structure, row.metric): row for row in rows if not row.case and row.structure}
    lines = []
    for (structure, metric), row in found.items():
        low, high = found.get((structure, "dice_low")), found.get((structure, "dice_high"))
        if metric == "dice" and low and high:
            ends = "-" if math.isnan(low.value) else f"{low.value:.3f}, {high.value:.3f}"
            lines.append(f"  {structure} Dice {row.value:.3f} [{ends}]  {low.convention.replace(';', ', ')}")
    return lines


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _number(value: float, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:{width}.{digits}f}"


def _signed(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _listing(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
