"""Structures over all cases: how the scores of each are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mtl_med.metrics.rows import Row
from mtl_med.metrics.summary import structure_summaries
from mtl_med.report.case_page import Block, Cell, Figure, Section, Table, Text
from mtl_med.report.figures.boxes import box_plot, spread_in_words
from mtl_med.report.numbers import number_cell, unit_in_words
from mtl_med.report.sources import Inputs

__all__ = ["sections"]

_METRICS = (
    ("dice", "Dice", "low", 3),
    ("hd95", "HD95", "high", 1),
    ("surface_dice_", "surface Dice", "low", 3),
)


def sections(inputs: Inputs) -> list[Section]:
    """A table of the structures and a box plot for each metric; none where no structure was scored."""
    tables = {item.name: [row for row in item.evaluation.rows if row.case] for item in inputs.predictions}
    if not any(row.metric == "dice" for rows in tables.values() for row in rows):
        return []
    blocks: list[Block] = [_table(inputs, tables), *_plots(tables)]
    return [Section("structures", "Structures", tuple(blocks))]


def _plots(tables: dict[str, list[Row]]) -> list[Block]:
    blocks: list[Block] = []
    for metric, label, worst, digits in _METRICS:
        own = {name: [row for row in rows if row.metric.startswith(metric)] for name, rows in tables.items()}
        some = next((row for rows in own.values() for row in rows), None)
        if some is None:
            continue
        series = {name: _by_structure(rows) for name, rows in own.items() if rows}
        if all(math.isnan(row.value) for rows in own.values() for row in rows):
            blocks.append(Text(f"{label}: no case in which it is defined.", "none"))
            continue
        first = next(iter(series))
        caption = (
            f"{label} of every case: boxes from quartile to quartile with the median, whiskers to the last case within "
            f"1.5 box lengths, all cases as points, the worst one named. {some.convention.replace(';', ', ')}. "
            "Cases without truth have no point." + (" Missed structures have none either." if metric == "hd95" else "")
        ).replace("_", " ")
        blocks.append(
            Figure(
                alt=f"Box plot of {label} by structure, {first}. {spread_in_words(series[first], digits, some.unit)}",
                caption=caption,
                data=box_plot(series, f"{label}{unit_in_words(some.unit)}", worst=worst),
                line_art=True,
            )
        )
    return blocks


def _by_structure(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row.structure, {})[row.case] = row.value
    return found


def _table(inputs: Inputs, tables: dict[str, list[Row]]) -> Table:
    """Means over cases of every structure, of each folder of predictions."""
    rows: list[list[Cell | str]] = []
    unit = "mm"
    for name, own in tables.items():
        for item in structure_summaries(own):
            unit = item.unit
            lowest = min(
                (row for row in own if row.structure == item.name and row.metric == "dice"),
                key=lambda row: math.inf if math.isnan(row.value) else row.value,
            )
            missed = Cell(
                str(item.missed),
                mark="bad" if item.missed else "",
                number=True,
                value=item.missed,
                detail=", ".join(item.missed_cases[:3]) + (" …" if item.missed > 3 else ""),
            )
            rows.append(
                [
                    item.name,
                    *([name] if len(tables) > 1 else []),
                    number_cell(item.dice, 3),
                    number_cell(item.hd95, 1),
                    number_cell(item.surface_dice, 3),
                    Cell(str(item.cases), number=True, value=item.cases),
                    missed,
                    Cell(str(item.not_contoured), number=True, value=item.not_contoured),
                    number_cell(lowest.value, 3, link=inputs.pages.get(lowest.case, ""), detail=lowest.case),
                ]
            )
    order = list(dict.fromkeys(str(row[0]) for row in rows))
    rows.sort(key=lambda row: order.index(str(row[0])))
    columns = ["structure", *(["predictions"] if len(tables) > 1 else [])]
    columns += ["Dice", f"HD95, {unit}", f"surface Dice 2 {unit}", "cases", "missed", "not contoured", "lowest Dice"]
    caption = (
        "Means over the cases in which the structure is contoured. Missed: contoured, but nothing was predicted; such "
        "a case counts as Dice 0 and has no HD95. Cases that are not contoured are in no mean."
    )
    return Table(caption, columns, rows, sortable=True)
