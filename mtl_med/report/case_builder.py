"""The page of one case: what every kind of task tells of it, one after the other; what fails is a gap and no more."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from mtl_med.errors import MtlMedError, OutputError
from mtl_med.report import explained, viewer
from mtl_med.report.case_page import CaseInputs, CasePage, CaseSummary, Cell, Line, Part, Section, Table
from mtl_med.report.headline import headline
from mtl_med.report.kinds import REPORTS
from mtl_med.report.numbers import told
from mtl_med.report.page import Page

__all__ = ["Place", "build_case", "head_of"]

_log = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Place:
    """Where a case stands among the others.

    Args:
        page: address of its page relative to the top folder.
        rank: 1 for the worst.
        cases: number of cases.
        medians: column of the list of cases -> its median over the cases.
        better: address of the page of the next better case; "" where there is none.
        worse: the same of the next worse.
    """

    page: str
    rank: int = 1
    cases: int = 1
    medians: Mapping[str, float] = field(default_factory=dict)
    better: str = ""
    worse: str = ""


def build_case(inputs: CaseInputs, place: Place) -> CasePage:
    """All sections of a case's page.

    Args:
        inputs: what it is made from.
        place: where it stands.
    """
    failures = [f"{item.name} could not be scored: {item.failure}" for item in inputs.predictions if item.failure]
    sections: list[Section] = []
    warnings: list[str] = []
    facts, cells = _facts(inputs), headline(inputs.predictions[0].rows) if inputs.predictions else {}
    for kind, report in REPORTS.items():
        part = _guarded(report.case, inputs, f"what is known of the {kind}", failures) or Part()
        sections += part.sections
        warnings += part.warnings
        facts |= part.facts
        cells |= part.cells
    explanation = _guarded(explained.explained_section, inputs, "what mtl-med explain found", failures)
    sections += [explanation] if explanation else []
    if inputs.options.viewer:
        section = _guarded(viewer.viewer_section, inputs, "the viewer", failures)
        sections += [section] if section else []
    sections += _rest(inputs)
    warnings += [f"Noted when the study was prepared: {note}" for note in inputs.case.notes]
    summary = CaseSummary(inputs.case.id, inputs.case.split, place.page, cells, tuple(warnings), tuple(failures))
    return CasePage(summary, facts, tuple(sections))


def _guarded(
    function: Callable[[CaseInputs], Result], inputs: CaseInputs, what: str, failures: list[str]
) -> Result | None:
    try:
        return function(inputs)
    except OutputError:
        raise
    except MtlMedError as error:
        failures.append(f"Left out, {what}: {error}")
    except Exception as error:
        _log.debug("unexpected error", exc_info=True)
        failures.append(f"Left out, {what}: unexpected {type(error).__name__}: {error}")
    return None


def _facts(inputs: CaseInputs) -> dict[str, str]:
    case = inputs.case
    facts = {"split": case.split}
    if case.grid is not None:
        facts["voxels"] = " x ".join(str(size) for size in case.grid.shape)
        facts["voxel size, mm"] = " x ".join(f"{size:g}" for size in case.grid.spacing_mm)
        facts["orientation"] = case.grid.axis_codes
    if case.prescriptions_gy:
        facts["prescribed"] = ", ".join(f"{name} {dose:g} Gy" for name, dose in case.prescriptions_gy.items())
    elif case.has("dose"):
        facts["prescribed"] = "not known"
    if case.fractions:
        facts["fractions"] = str(case.fractions)
    if case.group:
        facts["belongs to"] = case.group
    return facts


def _rest(inputs: CaseInputs) -> list[Section]:
    """Every score as the table of scores has it, for those who look for one that is not shown above."""
    keys = dict.fromkeys(
        (row.task, row.structure, row.metric, row.unit, row.convention)
        for item in inputs.predictions
        for row in item.rows
    )
    if not keys:
        return []
    tables = [
        {(row.task, row.structure, row.metric, row.unit, row.convention): row.value for row in item.rows}
        for item in inputs.predictions
    ]
    rows: list[Line] = []
    for key in keys:
        task, structure, metric, unit, convention = key
        values = [Cell(told(table.get(key, math.nan), 4), number=True) for table in tables]
        rows.append([structure or task, metric, *values, unit, convention])
    columns = ["structure or task", "metric", *(item.name for item in inputs.predictions), "unit", "convention"]
    table = Table("Every score of this case, as metrics.csv has them", columns, rows, folded=True)
    return [Section("all-scores", "All scores", (table,))]


def head_of(page: CasePage, place: Place) -> Page:
    """The head of a case's page: the sentences that come before any figure, then its figures among the others'."""
    summary = page.summary
    tiles = []
    for name, cell in summary.cells.items():
        median = place.medians.get(name, math.nan)
        beside = (
            ""
            if math.isnan(median)
            else f"; median of all {told(median, _digits(cell.text))}"
            + (" in size" if cell.text[:1] in "+\N{MINUS SIGN}" else "")
        )
        of = f" ({cell.detail})" if cell.detail else ""
        tiles.append(Cell(cell.text, cell.mark, detail=f"{name}{of}{beside}"))
    notes = [("bad", text) for text in summary.failures] + [("warning", text) for text in summary.warnings]
    links = {"all cases": "index.html"}
    links |= {"worse case": place.worse} if place.worse else {}
    links |= {"better case": place.better} if place.better else {}
    return Page(
        title=summary.id,
        lead=f"Case {place.rank} of {place.cases}, the worst being the first.",
        anchor=f"case-{place.page.removeprefix('cases/').removesuffix('.html')}",
        tiles=tiles,
        notes=notes,
        facts=page.facts,
        links=links,
    )


def _digits(text: str) -> int:
    return len(text.partition(".")[2]) if "." in text else 0
