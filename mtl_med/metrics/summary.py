"""Means over cases of the long rows, and the short table that a person reads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mtl_med.metrics.dose import dvh_score
from mtl_med.metrics.rows import LABEL_MAP, Row

__all__ = ["StructureSummary", "overall", "structure_summaries", "summary"]

_DOSE_LINES = (
    ("dose_score", "dose score", "sum of |error| per possible-dose voxel (OpenKBP)"),
    ("dvh_score", "DVH score", "OpenKBP, linear percentiles"),
    ("mae_in_mask", "MAE inside mask", "per possible-dose voxel"),
    ("mae_whole_grid", "MAE whole grid", "per voxel of the grid, air included"),
)


@dataclass(frozen=True)
class StructureSummary:
    """Means over the cases in which a structure is contoured.

    Args:
        name: the structure.
        dice: mean Dice; a missed structure counts as 0.
        hd95_mm: mean HD95 over the cases in which it was found.
        surface_dice: mean surface Dice at 2 mm; a missed structure counts as 0.
        cases: cases with truth.
        missed: cases with truth but an empty prediction.
        not_contoured: cases without truth, which no mean counts.
        from_label_map: some prediction came from a label map.
    """

    name: str
    dice: float
    hd95_mm: float
    surface_dice: float
    cases: int
    missed: int
    not_contoured: int
    from_label_map: bool


def structure_summaries(rows: Iterable[Row]) -> list[StructureSummary]:
    """One summary per structure, in the order of the rows."""
    tables: dict[str, dict[str, dict[str, Row]]] = {}
    for row in rows:
        if row.metric in ("dice", "hd95", "surface_dice_2mm"):
            tables.setdefault(row.structure, {}).setdefault(row.metric, {})[row.case] = row
    return [_structure_summary(name, table) for name, table in tables.items()]


def _structure_summary(name: str, table: dict[str, dict[str, Row]]) -> StructureSummary:
    values = {metric: {case: row.value for case, row in rows.items()} for metric, rows in table.items()}
    with_truth = [case for case, value in values["dice"].items() if not math.isnan(value)]
    return StructureSummary(
        name=name,
        dice=_mean(values["dice"].values()),
        hd95_mm=_mean(values["hd95"].values()),
        surface_dice=_mean(values["surface_dice_2mm"].values()),
        cases=len(with_truth),
        missed=sum(math.isnan(values["hd95"][case]) for case in with_truth),
        not_contoured=len(values["dice"]) - len(with_truth),
        from_label_map=any(row.convention.split(";")[0] == LABEL_MAP for row in table["dice"].values()),
    )


def overall(rows: Sequence[Row]) -> dict[str, float]:
    """The scores of a whole set of cases.

    Returns:
        `dose_score`, `dvh_score`, `mae_in_mask`, `mae_whole_grid` (Gy) where a dose was scored; `mean_dice` (mean over
        structures of their means over cases) and `dice/<structure>` where structures were.
    """
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
    return scores


def summary(rows: Sequence[Row]) -> str:
    """A short table of all scores for reading, without a newline at its end."""
    scores = overall(rows)
    lines = []
    if "dose_score" in scores:
        cases = len({row.case for row in rows if row.metric == "dose_score"})
        lines.append(f"dose ({_count(cases, 'case')})")
        lines += [f"  {label:<15}  {_number(scores[key], 7, 3)} Gy   {note}" for key, label, note in _DOSE_LINES]
    structures = structure_summaries(rows)
    if structures:
        lines += ["", *_structure_lines(structures, scores["mean_dice"])]
    image_level = [row for row in rows if not row.case]
    if image_level:
        lines += ["", "images"]
        lines += [
            f"  {row.task}  {row.metric:<17}  {_number(row.value, 6, 3)}   {row.convention}" for row in image_level
        ]
    return "\n".join(lines).strip("\n") or "nothing was scored"


def _structure_lines(structures: Sequence[StructureSummary], mean_dice: float) -> list[str]:
    width = max(10, *(len(item.name) for item in structures))
    head = f"{'structures':<{width + 2}}    Dice  HD95 mm  surface Dice 2 mm  cases  missed  not contoured"
    lines = [head]
    for item in structures:
        lines.append(
            f"  {item.name:<{width}}  {_number(item.dice, 6, 3)}  {_number(item.hd95_mm, 7, 2)}"
            f"  {_number(item.surface_dice, 17, 3)}  {item.cases:5d}  {item.missed:6d}  {item.not_contoured:13d}"
        )
    lines.append(f"  {'mean':<{width}}  {_number(mean_dice, 6, 3)}")
    if any(item.missed for item in structures):
        lines.append("  missed = contoured but nothing predicted: Dice 0, no HD95")
    if any(item.from_label_map for item in structures):
        lines.append("  read from label maps, which cannot hold overlaps")
    return lines


def _mean(values: Iterable[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _number(value: float, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:{width}.{digits}f}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
