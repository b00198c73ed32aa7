"""Tables of a case's doses: values read off the DVHs, quality of the targets' coverage, and dose per fraction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mtl_med.metrics.dvh import DvhMetric
from mtl_med.metrics.rows import Row
from mtl_med.report.case_page import Block, Cell, Figure, Table, Text
from mtl_med.report.dose_sides import CONVENTION, PLAN, DosePage, Side
from mtl_med.report.figures.dose_dvh import DvhPanel, dvh_plot
from mtl_med.report.numbers import ABSENT, number_cell, told

__all__ = ["dvh_blocks", "fraction_blocks", "target_blocks"]

_PER_PANEL = 8  # lines that can be told apart
_TARGET_COLUMNS = ("D_98", "D_95", "D_50", "D_2", "mean", "min", "max", "V_95%", "V_100%")
_ORGAN_COLUMNS = ("mean", "D_0.1cc", "max", "D_2", "D_50", "D_95", "D_98")


def dvh_blocks(page: DosePage) -> list[Block]:
    """The DVHs of all structures, then the values read off them."""
    blocks: list[Block] = []
    shown = [name for name in page.masks if any(len(side.doses[name].ascending_gy) for side in page.known)]
    panels = list(_panels(page, shown))
    if panels:
        names = [side.name for side in page.known]
        styles = ", ".join(
            f"{name}: {style}" for name, style in zip(names, ("solid", "dashed", "dotted", "dash-dotted"), strict=False)
        )
        blocks.append(
            Figure(
                alt=f"Cumulative dose-volume histograms of {', '.join(shown)}. {_dvh_in_words(page)}",
                caption=f"Cumulative DVHs, exact for the voxels ({styles}); one marker and colour per structure, "
                "filled for the plan, hollow for the prediction. All are read in the contours of the study. Grey "
                "lines: prescriptions.",
                data=dvh_plot(panels, {side.name: side.doses for side in page.known}),
                line_art=True,
            )
        )
    blocks += _metric_tables(page)
    for name, why in page.structure_gaps.items():
        blocks.append(Text(f"{name}: no DVH, {why}.", "none" if why == "not contoured" else "bad"))
    for name, item in page.known[0].doses.items() if page.known else ():
        if not item.ascending_gy.size:
            blocks.append(Text(f"{name}: no DVH, it is contoured but empty.", "bad"))
    blocks += _one_sided(page)
    blocks += [Text(f"{side.name}: no DVH. {side.gap}", "bad") for side in page.sides if side.dose is None]
    return blocks


def _panels(page: DosePage, names: Sequence[str]) -> Iterator[DvhPanel]:
    kinds = page.known[0].dose.kinds if page.known and page.known[0].dose else {}
    targets = [name for name in names if kinds.get(name) == "target"]
    others = [name for name in names if name not in targets]
    for title, group in (("targets", targets), ("organs at risk and others", others)):
        for start in range(0, len(group), _PER_PANEL):
            more = f" ({start // _PER_PANEL + 1})" if len(group) > _PER_PANEL else ""
            doses = list(page.case.prescriptions_gy.values()) if title == "targets" else []
            yield DvhPanel(f"{title}{more}", group[start : start + _PER_PANEL], doses)


def _dvh_in_words(page: DosePage) -> str:
    parts = []
    if page.plan is not None and page.predicted is not None:
        for name in page.masks:
            plan, predicted = (page.sides[index].rows.get((name, "mean")) for index in (0, 1))
            if plan and predicted and not math.isnan(plan.value):
                parts.append(f"{name} mean {told(plan.value, 1)} planned, {told(predicted.value, 1)} predicted")
    return f"{'; '.join(parts)} Gy." if parts else "The table below has the figures."


def _metric_tables(page: DosePage) -> Iterator[Table]:
    kinds = page.known[0].dose.kinds if page.known and page.known[0].dose else {}
    told_by = (
        f"D x: dose that the hottest x % or cc receive at least, {CONVENTION} (exact DVH, no bins); V x: share that "
        "receives at least x"
    )
    groups = (
        ("targets", True, _TARGET_COLUMNS, f"{told_by} of the target's own prescription"),
        ("organs at risk and others", False, _ORGAN_COLUMNS, told_by),
    )
    for title, is_target, columns, caption in groups:
        names = [name for name in page.masks if (kinds.get(name) == "target") is is_target]
        rows = [row for name in names for row in _metric_rows(page, name, columns)]
        if rows:
            heads = ["structure", "dose", "volume, cc", *(_heading(column) for column in columns)]
            yield Table(f"Dose to the {title}. {caption}. Small: predicted minus planned.", heads, rows)


def _heading(metric: str) -> str:
    unit = "%" if metric.startswith("V_") else "Gy"
    name = DvhMetric.parse(metric).label
    return f"{name}, {unit} ({CONVENTION})" if metric.startswith("D_") else f"{name}, {unit}"


def _metric_rows(page: DosePage, name: str, columns: Sequence[str]) -> Iterator[list[Cell | str]]:
    planned = page.sides[0] if page.plan is not None else None
    for side in page.known:
        if name not in side.doses or not len(side.doses[name].ascending_gy):
            continue
        cells = [_metric_cell(side, planned, name, metric) for metric in columns]
        partly = side.doses[name].known_percent
        detail = "" if partly >= 100 else f"dose known in {math.floor(partly * 10) / 10:g} % of it"
        yield [Cell(name, detail=detail), side.name, number_cell(side.doses[name].volume_cc, 2), *cells]


def _metric_cell(side: Side, planned: Side | None, name: str, metric: str) -> Cell:
    row = side.rows.get((name, metric))
    value = math.nan if row is None else row.value
    detail = ""
    if planned is not None and side is not planned and (name, metric) in planned.rows:
        # Rounded before it is shown: nobody wants to read of minus zero.
        difference = round(value - planned.rows[name, metric].value, 1) + 0.0
        detail = told(difference, 1, signed=difference != 0)
    if row is not None and "smaller" in row.convention:
        detail = f"{detail} smaller than that: lowest dose".strip()
    return number_cell(value, 1, detail="" if math.isnan(value) else detail)


def _one_sided(page: DosePage) -> Iterator[Text]:
    """Structures that only the study or only the prediction has."""
    predicted = page.predicted_structures
    if not predicted:
        return
    kinds = {name: item.kind for name, item in page.case.structures.items()}
    lacking = [name for name in page.masks if name not in predicted and kinds.get(name) == "oar"]
    more = [name for name in predicted if name not in page.masks and predicted[name].any()]
    if lacking:
        yield Text(f"Contoured in the study and not predicted: {', '.join(lacking)}.", "none")
    if more:
        yield Text(f"Predicted and not contoured in the study, so without a DVH: {', '.join(more)}.", "warning")


_TARGET_METRICS = (
    ("D_98", "D98%, Gy", 2),
    ("D_50", "D50%, Gy", 2),
    ("D_2", "D2%, Gy", 2),
    ("homogeneity_index", "homogeneity (D2 - D98) / D50", 3),
    ("paddick_conformity", "conformity (Paddick)", 3),
    ("r50", "R50", 2),
)


def target_blocks(page: DosePage) -> list[Block]:
    """ICRU 83's values, homogeneity, conformity and spill of the targets."""
    names = [name for name in page.masks if page.case.structures[name].kind == "target"]
    if not names:
        return [Text("No target is contoured: homogeneity, conformity and R50 have no meaning.", "warning")]
    rows: list[list[Cell | str]] = []
    for name in names:
        for side in page.known:
            found = [(side.rows.get((name, metric)), digits) for metric, _, digits in _TARGET_METRICS]
            if found[0][0] is None:
                continue
            prescribed = side.doses[name].prescription_gy
            cells = [_quality_cell(row, digits) for row, digits in found]
            rows.append([name, side.name, number_cell(prescribed if prescribed else math.nan, 1), *cells])
    heads = ["target", "dose", "prescribed, Gy", *(head for _, head, _ in _TARGET_METRICS)]
    caption = (
        f"ICRU 83: near minimum D98%, median D50%, near maximum D2%, all {CONVENTION}. Conformity: I. Paddick (2000), "
        "1 is perfect; R50: volume of half the prescription over the target's (RTOG 0813). Both speak of the target of "
        "the highest prescription alone."
    )
    blocks: list[Block] = [Table(caption, heads, rows)] if rows else []
    if not page.case.prescriptions_gy:
        text = "No prescription is known: conformity, R50, V in % of it and the goals of the targets cannot be told."
        blocks.append(Text(text, "warning"))
    return blocks


def _quality_cell(row: Row | None, digits: int) -> Cell:
    if row is None or math.isnan(row.value):
        return Cell(ABSENT, "none", number=True)
    isodose = row.convention if row.convention.startswith("isodose") else ""
    return number_cell(row.value, digits, detail=isodose)


def fraction_blocks(page: DosePage) -> list[Block]:
    """Dose per fraction, BED and EQD2, or why there are none."""
    if not page.case.fractions:
        text = "The number of fractions is not known: no dose per fraction, BED or EQD2."
        return [Text(text, "warning")]
    metrics = ("mean_per_fraction", "bed_mean", "eqd2_mean", "eqd2_D_98", "eqd2_D_50", "eqd2_D_2")
    rows: list[list[Cell | str]] = []
    for name in page.masks:
        for side in page.known:
            found = [side.rows.get((name, metric)) for metric in metrics]
            if found[0] is None or found[1] is None:
                continue
            each = side.rows.get((name, "prescription_per_fraction"))
            alpha_beta = found[1].convention.partition("alpha/beta ")[2].partition(";")[0]
            values = [number_cell(row.value if row else math.nan) for row in found]
            rows.append([name, side.name, alpha_beta, number_cell(each.value if each else math.nan), *values])
    heads = ["structure", "dose", "alpha/beta", "prescribed per fraction, Gy", "mean per fraction, Gy"]
    heads += ["BED mean, Gy", "EQD2 mean, Gy"]
    heads += [f"EQD2 D{x}%, Gy (cumulative)" for x in (98, 50, 2)]
    where = f"the preset '{page.preset.name}'" if page.preset.name else "the usual values"
    caption = (
        f"{page.case.fractions} equal fractions; linear-quadratic model, voxel by voxel, no repopulation. alpha/beta "
        f"of {where}, else 10 Gy for targets and 3 Gy for all others. {PLAN} and prediction alike."
    )
    return [Table(caption, heads, rows)]
