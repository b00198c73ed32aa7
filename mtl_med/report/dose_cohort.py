"""Dose over all cases: errors of the DVH metrics, and what the size of the error goes with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mtl_med.manifest import Case
from mtl_med.metrics.dose import TARGET_METRICS
from mtl_med.metrics.dvh import DvhMetric
from mtl_med.metrics.rows import Row
from mtl_med.metrics.summary import dvh_summaries
from mtl_med.report.case_page import Block, Figure, Line, Section, Table, Text
from mtl_med.report.figures.boxes import box_plot, spread_in_words
from mtl_med.report.figures.scatters import Panel, rank_correlation, scatter_plot
from mtl_med.report.numbers import number_cell, told
from mtl_med.report.sources import Inputs

__all__ = ["CT_ONLY", "sections"]

Errors = dict[str, dict[str, float]]
"""Structure and metric in words -> case -> predicted minus planned, Gy."""

CT_ONLY = (
    "made from the CT alone. A CT shows neither the prescription nor the targets, so such a dose cannot know how much "
    "was prescribed or where: it is a likely dose of patients like those of the training."
)


def sections(inputs: Inputs) -> list[Section]:
    """Errors of the DVH metrics and of the dose score; none where no dose was scored."""
    tables = {
        item.name: [row for row in item.evaluation.rows if row.case and row.task == "dose"]
        for item in inputs.predictions
    }
    tables = {name: rows for name, rows in tables.items() if any(row.metric == "dose_score" for row in rows)}
    if not tables:
        return []
    blind = [item.name for item in inputs.predictions if item.name in tables and item.settings.get("inputs") == "ct"]
    remarks: list[Block] = [Text(f"The doses of {', '.join(blind)} were {CT_ONLY}", "warning")] if blind else []
    errors = {name: _errors(rows) for name, rows in tables.items()}
    found = [Section("dose", "Dose to the structures", (*remarks, *_dvh_blocks(inputs, tables, errors)))]
    return [*found, Section("dose-error", "What the dose error goes with", (_scatters(inputs, tables),))]


def _dvh_blocks(inputs: Inputs, tables: dict[str, list[Row]], errors: Mapping[str, Errors]) -> list[Block]:
    first = next(iter(tables))
    others = {
        name: {(item.structure, item.metric): item.error_gy for item in dvh_summaries(rows)}
        for name, rows in tables.items()
        if name != first
    }
    rows: list[Line] = [
        [
            item.structure,
            DvhMetric.parse(item.metric).label,
            number_cell(item.planned_gy),
            number_cell(item.predicted_gy),
            number_cell(item.difference_gy, signed=True),
            number_cell(item.error_gy),
            number_cell(item.worst_gy, signed=True, link=inputs.pages.get(item.worst_case, ""), detail=item.worst_case),
            number_cell(item.cases, 0),
            *(number_cell(table.get((item.structure, item.metric), math.nan)) for table in others.values()),
        ]
        for item in dvh_summaries(tables[first])
    ]
    if not rows:
        return [Text("No structure with a DVH metric was scored.", "none")]
    columns = ["structure", "metric", "planned, Gy", "predicted, Gy", "difference, Gy", "|difference|, Gy"]
    columns += ["worst, Gy", "cases", *(f"|difference| of {name}, Gy" for name in others)]
    caption = (
        f"Means over cases of {first}; difference is predicted minus planned: below zero where too little dose is "
        "predicted. D x is the dose that the hottest x % (or cc) of the structure receive; linear percentiles, as "
        "OpenKBP. The worst case is the one with the largest difference of either sign."
    )
    return [*_plots(errors), Table(caption, columns, rows, sortable=True)]


def _plots(errors: Mapping[str, Errors]) -> list[Figure]:
    """A box plot of the targets' errors, where too little dose matters most, and one of the organs' errors."""
    first = next(iter(errors))
    figures = []
    for of_targets, what in ((True, "targets"), (False, "organs")):
        series = {
            name: {label: values for label, values in table.items() if _of_target(label) == of_targets}
            for name, table in errors.items()
        }
        if not series[first]:
            continue
        words = spread_in_words(series[first], 1, "Gy")
        figures.append(
            Figure(
                alt=f"Box plot of predicted minus planned DVH metrics of the {what}, {first}. {words}",
                caption=f"DVH metrics of the {what}, predicted minus planned, in every case: left of zero too little, "
                "right of it too much dose. Boxes from quartile to quartile with the median, whiskers to the last case "
                "within 1.5 box lengths, all cases as points; the case farthest from zero is named.",
                data=box_plot(series, "predicted \N{MINUS SIGN} planned, Gy", worst="far", zero=True),
                line_art=True,
            )
        )
    return figures


def _of_target(label: str) -> bool:
    return any(label.endswith(f" {DvhMetric.parse(metric).label}") for metric in TARGET_METRICS)


def _errors(rows: Sequence[Row]) -> Errors:
    """Predicted minus planned, in the order of the table."""
    doses = {
        (row.structure, row.metric, row.case): row.value
        for row in rows
        if row.structure and row.convention in ("linear", "")
    }
    found: Errors = {}
    for item in dvh_summaries(rows):
        label = f"{item.structure} {DvhMetric.parse(item.metric).label}"
        for (structure, metric, case), value in doses.items():
            if (structure, metric) == (item.structure, f"{item.metric}_true"):
                predicted = doses.get((structure, f"{item.metric}_predicted", case), math.nan)
                found.setdefault(label, {})[case] = predicted - value
    return found


def _scatters(inputs: Inputs, tables: dict[str, list[Row]]) -> Block:
    scores = {
        name: {row.case: row.value for row in rows if row.metric == "dose_score"} for name, rows in tables.items()
    }
    cases = inputs.cases
    panels = [
        Panel("volume of all targets, cc", {case.id: _target_volume_cc(case) for case in cases}),
        Panel("highest prescription, Gy", {case.id: _prescription(case) for case in cases}, steps=True),
        Panel("number of targets", {case.id: float(len(case.names("target"))) for case in cases}, steps=True),
    ]
    first = next(iter(scores))
    panels = [panel for panel in panels if any(math.isfinite(value) for value in panel.values.values())]
    shown = [panel for panel in panels if len(set(panel.values.values())) > 1]
    left_out = [
        f"{panel.label}: {told(next(iter(panel.values.values())), 0)} in every case"
        for panel in panels
        if panel not in shown
    ]
    ranks = [
        f"{panel.label.partition(',')[0]} {told(rank_correlation(panel.values, scores[first]), signed=True)}"
        for panel in shown
    ]
    note = f"Not drawn, {'; '.join(left_out)}. " if left_out else ""
    unknown = sum(math.isnan(_prescription(case)) for case in cases)
    note += f"{unknown} cases have no known prescription. " if unknown else ""
    if not shown:
        return Text(f"{note or 'Neither target volumes nor prescriptions are known.'}".strip(), "none")
    caption = (
        f"Dose score of every case (sum of |error| per voxel of the possible-dose mask). {note}Rank correlation of "
        f"{first} with: {'; '.join(ranks)}. The highest three are named."
    )
    alt = f"Scatter plots of the dose score against {', '.join(panel.label for panel in shown)}. Rank correlations: "
    data = scatter_plot(shown, scores, "dose score, Gy")
    return Figure(alt=f"{alt}{'; '.join(ranks)}.", caption=caption, data=data, line_art=True)


def _target_volume_cc(case: Case) -> float:
    volumes = [case.structures[name].volume_cc for name in case.names("target")]
    known = [volume for volume in volumes if volume is not None]
    return math.fsum(known) if known else math.nan


def _prescription(case: Case) -> float:
    return math.nan if case.prescription_gy is None else case.prescription_gy
