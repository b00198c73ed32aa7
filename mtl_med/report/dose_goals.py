"""Clinical goals of a case: met or missed by the plan and by what was predicted."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable, Mapping

from mtl_med.dosimetry.goals import GoalResult, Preset, evaluate_goals, load_preset, preset_names
from mtl_med.errors import CaseError
from mtl_med.manifest import Case
from mtl_med.report.case_page import Block, Cell, Table, Text
from mtl_med.report.dose_sides import CONVENTION, DosePage
from mtl_med.report.numbers import told

__all__ = ["choose_preset", "goal_blocks", "goals_turned"]

_VERDICTS = {True: "met", False: "not met"}
_FEWEST = 2  # structures by which a preset is recognised as the one for a study


def choose_preset(wanted: str, cases: Iterable[Case]) -> Preset:
    """The preset that was asked for, else the shipped one most of whose structures the study has, else an empty one.

    Args:
        wanted: name or path; "" to choose.
        cases: of the study.

    Raises:
        UsageError: there is no such preset.
    """
    if wanted:
        return load_preset(wanted)
    organs = {name for case in cases for name, item in case.structures.items() if item.kind != "target"}
    best, most = Preset(""), _FEWEST - 1
    for name in preset_names():
        preset = load_preset(name)
        found = {goal.structure for goal in preset.goals if fnmatch.filter(organs, goal.structure)}
        if len(found) > most:
            best, most = preset, len(found)
    return best


def goal_blocks(page: DosePage) -> list[Block]:
    """Table of the goals, and what to know about them.

    Raises:
        CaseError: no dose can be read.
    """
    preset = page.preset
    if not preset.goals:
        text = "No list of clinical goals fits the structures of this study. Give one with --goals."
        return [Text(text, "warning")]
    if not page.known:
        raise CaseError("No goal can be told: neither the planned nor a predicted dose can be read.")
    found = _results(page)
    first = next(iter(found.values()))
    rows: list[list[Cell | str]] = []
    elsewhere: list[list[Cell | str]] = []
    sources: dict[str, int] = {}
    for index, result in enumerate(first):
        if result.structure in page.case.structures:
            planned = result if page.plan is not None else None
            cells = [_cell(results[index], planned) for results in found.values()]
            number = sources.setdefault(result.goal.source, len(sources) + 1)
            rows.append([result.structure, _goal_text(result), *cells, Cell(f"[{number}]")])
        else:
            elsewhere.append([result.structure, _goal_text(result), result.goal.source])
    lacking = [side for side in page.sides if side.dose is None]
    caption = (
        f"Goals of the preset '{preset.name}' ({preset.title}). D x is the dose that the hottest x % or cc of the "
        f"structure receive at least, V x the share that receives at least x; D x {CONVENTION}: read off the exact "
        "cumulative DVH, without bins. Both doses are read in the contours of the study."
    )
    blocks: list[Block] = [Table(caption, ["structure", "goal", *found, "source"], rows)]
    blocks.append(Table("Sources of the goals", ["source", "where the limit comes from"], _listed(sources)))
    if elsewhere:
        caption = f"{len(elsewhere)} goals of structures that this case does not have"
        blocks.append(Table(caption, ["structure", "goal", "source of the goal"], elsewhere, folded=True))
    turned = goals_turned(page)
    if turned is not None:
        decided = sum(r.met is not None for r in found[page.sides[1].name])
        text = f"Plan and {page.sides[1].name} disagree about {turned} of {decided} goals that can be told."
        blocks.insert(0, Text(text, "warning" if turned else ""))
    about, otherwise = preset.about_fractions(page.case.prescription_gy, page.case.fractions)
    if otherwise:
        blocks.insert(0, Text(about, "warning"))
    elif about:
        blocks.append(Text(about))
    blocks += [Text(f"{side.name}: no goal can be told. {side.gap}", "bad") for side in lacking]
    return blocks


def _listed(sources: Mapping[str, int]) -> list[list[Cell | str]]:
    return [[f"[{number}]", Cell(source)] for source, number in sources.items()]


def goals_turned(page: DosePage) -> int | None:
    """Number of goals about which plan and prediction disagree; None where one of them cannot be told at all."""
    if page.plan is None or page.predicted is None or not page.preset.goals:
        return None
    plan, predicted = list(_results(page).values())[:2]
    return sum(
        None not in (one.met, other.met) and one.met != other.met for one, other in zip(plan, predicted, strict=True)
    )


def _results(page: DosePage) -> dict[str, list[GoalResult]]:
    return {
        side.name: evaluate_goals(page.preset.goals, side.doses, convention=CONVENTION, gaps=page.structure_gaps)
        for side in page.known
    }


def _goal_text(result: GoalResult) -> Cell:
    metric = result.goal.metric
    detail = CONVENTION if metric.kind == "D" else ""
    if metric.needs_prescription:
        detail = f"{detail}, % of the prescription" if detail else "% of the prescription"
    text = result.goal.text.replace(">=", "\N{GREATER-THAN OR EQUAL TO}")
    return Cell(text.replace("<=", "\N{LESS-THAN OR EQUAL TO}"), detail=detail)


def _cell(result: GoalResult, planned: GoalResult | None) -> Cell:
    if math.isnan(result.value):
        return Cell("not told", "none", detail=result.reason)
    value = f"{told(result.value)} {result.goal.metric.unit}"
    if result.met is None:
        return Cell(value, "none", value=result.value, detail=f"not told: {result.reason}")
    # In words too: a sign can be overlooked.
    text = f"{value}, {_VERDICTS[result.met]}"
    turned = planned is not None and planned.met is not None and planned.met != result.met
    detail = f"plan: {_VERDICTS[not result.met]}" if turned else ""
    return Cell(text, "good" if result.met else "bad", value=result.value, detail=detail)
