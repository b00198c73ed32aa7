"""The dose of one case: what is planned, what is predicted, and what has to be known before one trusts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mtl_med.dosimetry.goals import Preset
from mtl_med.errors import MtlMedError
from mtl_med.io.results import DOSE_PERCENT_FILE
from mtl_med.report import unlike
from mtl_med.report.case_page import Block, CaseInputs, Cell, Part, Section, Text
from mtl_med.report.dose_errors import band_blocks, gamma_blocks, gamma_of, picture_blocks
from mtl_med.report.dose_goals import choose_preset, goal_blocks, goals_turned
from mtl_med.report.dose_numbers import dvh_blocks, fraction_blocks, target_blocks
from mtl_med.report.dose_sides import DosePage, read_page
from mtl_med.report.geometry_proof import geometry_blocks
from mtl_med.report.numbers import number_cell, told
from mtl_med.report.sources import Inputs

__all__ = ["CT_ONLY", "Prepared", "part", "prepare"]

CT_ONLY = (
    "This dose was predicted from the CT alone. A CT does not show what was prescribed, nor where the targets end: the "
    "level of the dose is that of the training patients, and an error of its level says nothing about this patient."
)
_UNKNOWN_INPUTS = (
    "No record tells what this network was given. A dose predicted from the CT alone cannot know the prescription."
)


@dataclass(frozen=True)
class Prepared:
    """What all cases share.

    Args:
        preset: clinical goals and alpha/beta.
        training: what the training cases are like.
    """

    preset: Preset
    training: unlike.TrainingRanges


def prepare(inputs: Inputs) -> Prepared:
    """Choose the goals, and look at the training cases.

    Raises:
        UsageError: there is no such preset of goals.
    """
    settings = inputs.predictions[0].settings if inputs.predictions else {}
    preset = choose_preset(inputs.options.goals, inputs.manifest)
    with_dose = any(case.has("dose") for case in inputs.manifest)
    return Prepared(preset, unlike.training_ranges(inputs.manifest, settings) if with_dose else unlike.TrainingRanges())


def part(inputs: CaseInputs) -> Part:
    """All sections about the dose of a case; none where neither the study nor a prediction has one."""
    prepared = inputs.prepared.get("regression") or Prepared(Preset(""), unlike.TrainingRanges())
    page = read_page(inputs, prepared.preset)
    if page is None:
        return Part()
    measured = unlike.measures(page.case, ct=page.ct)
    cells: dict[str, Cell] = {}
    sections = [
        _section("goals", "Clinical goals", lambda: goal_blocks(page)),
        _section("dvh", "Dose-volume histograms", lambda: dvh_blocks(page)),
        _section("dose-pictures", "Dose in the patient", lambda: [*_remarks(page), *picture_blocks(page)]),
        _section("dose-errors", "Too much and too little dose", lambda: band_blocks(page)),
        _section("targets", "Targets: ICRU 83, conformity, R50", lambda: target_blocks(page)),
        _section("fractions", "Fractions: BED and EQD2", lambda: fraction_blocks(page)),
        _section(
            "unlike",
            "Is this case like the training cases?",
            lambda: unlike.unlike_blocks(page.case, measured, prepared.training),
        ),
        _section("geometry", "Proof of the geometry", lambda: geometry_blocks(inputs)),
    ]
    if inputs.options.gamma:
        sections.insert(4, _section("gamma", "Gamma index", lambda: _gamma(page, cells)))
    turned = goals_turned(page)
    if turned is not None:
        cells["discordant goals"] = number_cell(turned, 0, mark="warning" if turned else "")
    warnings = unlike.unlike_warnings(page.case, measured, prepared.training)
    warnings += [f"{side.name}: {side.gap}" for side in page.sides if side.dose is None]
    notes = dict.fromkeys(note for side in page.known if side.dose for note in side.dose.notes)
    facts = {"goals": prepared.preset.name} if prepared.preset.name else {}
    return Part(tuple(sections), (*warnings, *notes), facts, cells)


def _section(key: str, heading: str, make: Callable[[], list[Block]]) -> Section:
    """A section, or in its place why there is none."""
    try:
        return Section(key, heading, tuple(make()))
    except MtlMedError as error:
        return Section(key, heading, (Text(str(error), "bad"),))


def _remarks(page: DosePage) -> list[Block]:
    """What the pictures and all figures have to be read with."""
    blocks: list[Block] = []
    for item in page.inputs.predictions[:1]:
        inputs = item.settings.get("inputs")
        if page.predicted is not None and inputs in ("ct", None):
            blocks.append(Text(CT_ONLY if inputs == "ct" else _UNKNOWN_INPUTS, "warning"))
        if (item.folder / DOSE_PERCENT_FILE).is_file() and page.case.prescription_gy:
            text = f"Predicted in percent and multiplied with the prescription of {page.case.prescription_gy:g} Gy."
            blocks.append(Text(text, "warning"))
    return blocks


def _gamma(page: DosePage, cells: dict[str, Cell]) -> list[Block]:
    gamma = gamma_of(page)
    options = gamma.options
    name = f"gamma {options.dose_percent:g} %/{options.distance_mm:g} mm, %"
    cells[name] = Cell(told(gamma.pass_percent, 1), number=True, value=gamma.pass_percent)
    return gamma_blocks(page, gamma)
