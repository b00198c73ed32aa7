"""The structures of one case: how well each outline was found, and which are missing on either side."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mtl_med.metrics.rows import LABEL_MAP, Row
from mtl_med.report.case_page import Block, CaseInputs, Cell, Line, Part, Section, Table, Text
from mtl_med.report.numbers import number_cell, unit_in_words

__all__ = ["part"]

_METRICS = (("dice", "Dice", 3), ("hd95", "HD95", 1), ("surface_dice", "surface Dice", 3))
_LOW_DICE = 0.5  # below it an outline is marked: it shares less with the truth than it misses


def part(inputs: CaseInputs) -> Part:
    """A table of the scored structures; no section where none was scored."""
    tables = {item.name: _by_structure(item.rows) for item in inputs.predictions}
    first = next(iter(tables.values()), {})
    names = list(dict.fromkeys(name for table in tables.values() for name in table))
    if not names:
        return Part()
    some = next(iter(first.values()), None) or next(table[names[0]] for table in tables.values() if names[0] in table)
    told = [(key, _heading(label, some[key]), digits) for key, label, digits in _METRICS if key in some]
    several = len(tables) > 1
    with_volume = any(item.volume_cc is not None for item in inputs.case.structures.values())
    columns = ["structure", *(["volume, cc"] if with_volume else [])]
    columns += [f"{label} ({name})" if several else label for _, label, _ in told for name in tables]
    rows: list[Line] = [
        [name, *([_volume(inputs, name)] if with_volume else []), *_cells(name, told, tables)] for name in names
    ]
    missed = [name for name, row in first.items() if _missed(row)]
    warnings = [f"No {', no '.join(missed)} was predicted, although contoured."] if missed else []
    blocks: list[Block] = [Table(_caption(some), columns, rows)]
    if any(row["dice"].convention.split(";")[0] == LABEL_MAP for table in tables.values() for row in table.values()):
        text = "Some structures were read from a label map, which cannot hold overlaps: their scores may be too low."
        blocks.append(Text(text, "warning"))
    return Part((Section("structures", "Structures", tuple(blocks)),), tuple(warnings))


def _by_structure(rows: tuple[Row, ...]) -> dict[str, dict[str, Row]]:
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        metric = "surface_dice" if row.metric.startswith("surface_dice_") else row.metric
        if metric in ("dice", "hd95", "surface_dice"):
            found.setdefault(row.structure, {})[metric] = row
    return found


def _heading(label: str, row: Row) -> str:
    tolerance = row.metric.removeprefix("surface_dice_") if row.metric.startswith("surface_dice_") else ""
    return f"{label}{' ' + tolerance if tolerance else ''}{unit_in_words(row.unit)}"


def _missed(row: Mapping[str, Row]) -> bool:
    return not math.isnan(row["dice"].value) and math.isnan(row["hd95"].value)


def _cells(name: str, told: list, tables: Mapping[str, Mapping[str, Mapping[str, Row]]]) -> list[Cell]:
    cells = []
    for metric, _, digits in told:
        for table in tables.values():
            row = table.get(name)
            if row is None or math.isnan(row["dice"].value):
                cells.append(Cell("not contoured" if row else "not scored", mark="none"))
            elif _missed(row):
                cells.append(Cell("missed", mark="bad"))
            else:
                value = row[metric].value
                low = metric == "dice" and value < _LOW_DICE
                cells.append(number_cell(value, digits, mark="warning" if low else ""))
    return cells


def _volume(inputs: CaseInputs, name: str) -> Cell:
    item = inputs.case.structures.get(name)
    if item is None or item.volume_cc is None:
        return Cell("-", mark="none")
    return number_cell(item.volume_cc, 1)


def _caption(row: Mapping[str, Row]) -> str:
    told = [
        f"{item.metric.replace('_', ' ')}: {item.convention.replace(';', ', ').replace('_', ' ')}"
        for item in row.values()
        if item.convention
    ]
    return f"Predicted outlines against those of the study. {'; '.join(told)}. Dice below {_LOW_DICE} is marked."
