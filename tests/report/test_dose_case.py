"""The dose page of a case: figures worked out by hand, what is told where one side is missing, and bad input."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import numpy as np
import pytest

from mtl_med.dosimetry.goals import Preset, load_preset
from mtl_med.errors import CaseError
from mtl_med.geometry import Grid
from mtl_med.io.nifti import write_nifti
from mtl_med.manifest import Structure
from mtl_med.metrics.dose import dose_rows
from mtl_med.metrics.gamma import GammaOptions
from mtl_med.report import dose_case, dose_cohort, dose_errors
from mtl_med.report.case_page import Cell, Figure, Table, Text
from mtl_med.report.dose_errors import GAMMA_OPTIONS, band_blocks, picture_blocks
from mtl_med.report.dose_goals import choose_preset, goal_blocks, goals_turned
from mtl_med.report.dose_numbers import dvh_blocks, fraction_blocks, target_blocks
from mtl_med.report.dose_sides import read_page
from mtl_med.report.unlike import TrainingRanges
from tests.report.dose_study import GRID, VOXEL_CC, Boxes, box, doses, inputs, make_case, predict, row_of, texts

PRESET = load_preset("head_and_neck")
SECTIONS = ["goals", "dvh", "dose-pictures", "dose-errors", "targets", "fractions", "unlike", "geometry"]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_case(tmp_path_factory.mktemp("case"))


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    return predict(tmp_path_factory.mktemp("predictions"), doses()[1])


@pytest.fixture(scope="module")
def page(case, predicted):
    return read_page(inputs(case, predicted), PRESET)


def tables(blocks):
    return [block for block in blocks if isinstance(block, Table)]


def test_all_sections(case, predicted):
    made = dose_case.part(replace(inputs(case, predicted), prepared={"regression": prepared()}))
    assert [section.key for section in made.sections] == SECTIONS
    assert made.cells["discordant goals"].text == "2" and made.facts == {"goals": "head_and_neck"}
    figures = [block for section in made.sections for block in section.blocks if isinstance(block, Figure)]
    assert len(figures) == 4 and all(figure.alt.endswith(".") for figure in figures)
    marked = [b.text for s in made.sections for b in s.blocks if isinstance(b, Text) and b.mark == "bad"]
    assert marked == ["Larynx: no DVH, it is contoured but empty."]


def prepared(training=None):
    return dose_case.Prepared(PRESET, training or TrainingRanges())


def test_goals_by_hand(page):
    # Cord: 44 Gy planned, 46 predicted, limit 45. Target: D95 100 %, predicted 68 / 70 = 97.14 %.
    table = tables(goal_blocks(page))[0]
    assert table.columns == ["structure", "goal", "plan", "ctan", "source"]
    assert row_of(table, "SpinalCord", "max ≤ 45 Gy")[2:4] == ["44.00 Gy, met", "46.00 Gy, not met"]
    assert row_of(table, "PTV70", "D95% ≥ 100 %")[2:4] == ["100.00 %, met", "97.14 %, not met"]
    assert row_of(table, "PTV70", "D98% ≥ 95 %")[2:4] == ["100.00 %, met", "97.14 %, met"]
    cells = {row[0] + str(row[1].text): row for row in table.rows}
    assert [cells["SpinalCordmax ≤ 45 Gy"][index].mark for index in (2, 3)] == ["good", "bad"]
    assert cells["SpinalCordmax ≤ 45 Gy"][3].detail == "plan: met"
    assert cells["PTV70D95% ≥ 100 %"][1].detail == "cumulative, % of the prescription"
    # The brainstem and others are no structures of this case: their goals are folded away.
    assert any(item.folded for item in tables(goal_blocks(page)))


def test_goals_tell_their_sources_and_why_not(page):
    blocks = goal_blocks(page)
    goals, sources, folded = tables(blocks)
    number = row_of(goals, "SpinalCord", "D1cc < 50 Gy")[-1]
    assert row_of(sources, number)[1].startswith("RTOG 0225")
    larynx = next(row for row in goals.rows if row[0] == "Larynx")
    assert (larynx[2].text, larynx[2].detail) == ("not told", "it is empty")
    assert next(row for row in goals.rows if row[0] == "Esophagus")[2].detail == "not contoured"
    assert folded.folded and "Brainstem" in [row[0] for row in folded.rows]
    assert "This case: 2.00 Gy per fraction" in texts(blocks)


def test_goals_turned_counts_both_ways(page):
    turned = [row for row in tables(goal_blocks(page))[0].rows if isinstance(row[3], Cell) and "plan:" in row[3].detail]
    # Target D95; cord max; nothing else: D1cc of the cord (1.44 cc) is 46 Gy of at most 50.
    assert [(row[0], row[1].text) for row in turned] == [("PTV70", "D95% ≥ 100 %"), ("SpinalCord", "max ≤ 45 Gy")]
    assert goals_turned(page) == 2


def test_dvh_values_with_conventions(page):
    targets, organs = tables(dvh_blocks(page))
    assert "D95%, Gy (cumulative)" in targets.columns and "V95%, %" in targets.columns
    plan, found = row_of(targets, "PTV70", "plan"), row_of(targets, "PTV70", "ctan")
    assert plan[2] == f"{384 * VOXEL_CC:.2f}" and plan[3:7] == ["70.0"] * 4 and plan[-2:] == ["100.0", "100.0"]
    assert found[3:7] == ["68.0"] * 4 and found[-2:] == ["100.0", "0.0"]
    cord = next(row for row in organs.rows if row[0].text == "SpinalCord" and row[1] == "ctan")
    assert (cord[3].text, cord[3].detail) == ("46.0", "+2.0")
    assert "Esophagus: no DVH, not contoured" in texts(dvh_blocks(page))
    assert "Larynx: no DVH, it is contoured but empty" in texts(dvh_blocks(page))


def test_structures_on_one_side(case, tmp_path):
    mask = np.zeros(GRID.shape, bool)
    mask[3:5, 3:5, 3:5] = True
    folder = predict(tmp_path, doses()[1], masks={"Esophagus": mask})
    found = texts(dvh_blocks(read_page(inputs(case, folder), PRESET)))
    assert "Predicted and not contoured in the study, so without a DVH: Esophagus" in found
    assert "Contoured in the study and not predicted: SpinalCord, Larynx" in found


def test_bed_and_eqd2_by_hand(page):
    (table,) = fraction_blocks(page)
    # 70 Gy in 35 fractions, alpha/beta 10: BED 70 (1 + 0.2) = 84, EQD2 70.
    # Cord, alpha/beta 2: BED 44 (1 + 44/35/2) = 71.66, EQD2 half of it.
    ptv, cord = row_of(table, "PTV70", "plan"), row_of(table, "SpinalCord", "plan")
    assert ptv[2:7] == ["10 Gy", "2.00", "2.00", "84.00", "70.00"]
    assert cord[2:7] == ["2 Gy", "-", "1.26", "71.66", "35.83"]


def test_unknown_fractions_and_prescription(tmp_path, predicted):
    page = read_page(inputs(make_case(tmp_path, fractions=None, prescriptions_gy={}), predicted), PRESET)
    assert "number of fractions is not known" in texts(fraction_blocks(page))
    assert "No prescription is known" in texts(target_blocks(page))
    goals = tables(goal_blocks(page))[0]
    assert next(row for row in goals.rows if row[0] == "PTV70")[2].detail == "no prescription is known"
    assert "70 Gy (highest dose, since no prescription is known)" in texts(band_blocks(page))


def test_goals_of_another_fractionation_are_warned_of_first(tmp_path, predicted):
    first = goal_blocks(read_page(inputs(make_case(tmp_path, fractions=5), predicted), PRESET))[0]
    assert first.mark == "warning" and "This case has 14.00 Gy per fraction" in first.text


def test_targets_are_outlined_on_the_predicted_dose_too(case, tmp_path, monkeypatch):
    """Organs as predicted, and what is not predicted as the study has it: its coverage is what one looks for."""
    seen = []
    monkeypatch.setattr(dose_errors, "draw_planes", lambda *words, **more: seen.append(words[2]))
    monkeypatch.setattr(dose_errors, "png", lambda *_: b"\x89PNG\r\n\x1a\n")
    cord = doses()[0] == 44
    picture_blocks(read_page(inputs(case, predict(tmp_path, doses()[1], masks={"SpinalCord": cord})), PRESET))
    predicted = seen[0][1]
    assert list(predicted.outlines) == ["PTV70", "Larynx"] and list(predicted.dotted) == ["SpinalCord"]


def test_what_is_of_one_prediction_alone_names_it(case, predicted, tmp_path):
    page = read_page(inputs(case, predicted, predict(tmp_path, doses()[0])), PRESET)
    assert tables(band_blocks(page))[0].caption.startswith("Predicted (ctan) minus planned in the possible-dose mask")
    assert "Plan and ctan disagree about 2 of" in texts(goal_blocks(page))


def test_a_difference_of_nothing_has_no_sign(case, tmp_path):
    targets, _ = tables(dvh_blocks(read_page(inputs(case, predict(tmp_path, doses()[0])), PRESET)))
    found = next(row for row in targets.rows if row[1] == "ctan")
    assert {cell.detail for cell in found[3:]} == {"0.0"}


def test_conformity_and_homogeneity(page):
    table = tables(target_blocks(page))[0]
    # Planned: the 70 Gy isodose is the target. R50: 35 Gy hold the target and the cord: (384 + 64) / 384.
    assert row_of(table, "PTV70", "plan")[-3:] == ["0.000", "1.000", "1.17"]
    # Predicted 68 Gy: nothing reaches 70 Gy; one more voxel (53 Gy) above 35 Gy.
    assert row_of(table, "PTV70", "ctan")[-3:] == ["0.000", "0.000", "1.17"]


def test_signed_errors_by_band(page):
    table = tables(band_blocks(page))[0]
    assert row_of(table, "90-107 %")[1:4] == ["\N{MINUS SIGN}2.00", "0.00", "2.00"]  # the target: 100 %
    assert row_of(table, "50-70 %")[1:4] == ["+2.00", "2.00", "0.00"]  # the cord: 62.9 %
    assert row_of(table, "70-90 %")[1:] == ["-", "-", "-", "0.0"]
    assert row_of(table, "gradient")[4] != "0.0"


def test_the_largest_error_is_found_and_placed(page):
    caption = picture_blocks(page)[0].caption
    assert "Largest error +33.0 Gy at (-24, 15, 12) mm RAS, voxel (4, 15, 13)" in caption
    assert "20.0 Gy planned, 53.0 predicted, in no structure, at 0 HU" in caption
    assert "Through the middle of PTV70" in picture_blocks(page)[1].caption


def test_an_error_in_the_couch_is_told_as_one(tmp_path, predicted):
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[2:22, 2:14], ct[2:22, 15:17] = 0, 100
    page = read_page(inputs(make_case(tmp_path, arrays={"ct": ct}), predicted), PRESET)
    assert "in no structure outside the body (couch, mask or air), at 100 HU" in picture_blocks(page)[0].caption


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"inputs": "ct"}, "predicted from the CT alone"), ({}, "No record tells"), ({"inputs": "ct+ptv"}, "")],
    ids=["ct", "unknown", "ct and targets"],
)
def test_what_a_ct_cannot_reveal(case, predicted, settings, words, monkeypatch):
    monkeypatch.setattr(dose_case, "picture_blocks", lambda page: [])
    made = dose_case._remarks(read_page(inputs(case, predicted, settings=settings), PRESET))
    assert bool(made) == bool(words) and words in texts(made)


def test_dose_that_is_not_finite(case, tmp_path):
    broken = doses()[1]
    broken[0, 0, 0] = np.nan
    write_nifti(tmp_path / "p1" / "dose.nii.gz", broken, GRID)
    made = dose_case.part(replace(inputs(case, tmp_path / "p1"), prepared={"regression": prepared()}))
    assert [section.key for section in made.sections] == SECTIONS
    assert any("not finite in 1 voxels" in warning for warning in made.warnings) and not made.cells
    sections = {section.key: section.blocks for section in made.sections}
    assert isinstance(sections["dvh"][0], Figure) and row_of(tables(sections["dvh"])[0], "PTV70", "plan")
    assert [block.mark for block in sections["dose-errors"]] == ["bad"] and "ctan" in texts(sections["dose-errors"])


def test_prediction_on_another_grid(case, tmp_path):
    affine = GRID.affine.copy()
    affine[0, 3] += 1.5
    folder = predict(tmp_path, doses()[1], Grid(GRID.shape, affine))
    made = dose_case.part(replace(inputs(case, folder), prepared={"regression": prepared()}))
    sections = {section.key: section.blocks for section in made.sections}
    assert "grids differ" in texts(sections["goals"]) and "lies up to 1.50 mm beside" in texts(sections["geometry"])


def test_no_plan_and_no_prediction(tmp_path, case, predicted):
    bare = make_case(tmp_path, arrays={})
    without = replace(bare, files={key: item for key, item in bare.files.items() if key != "dose"})
    page = read_page(inputs(without, predicted), PRESET)
    assert page.plan is None and goals_turned(page) is None
    assert tables(goal_blocks(page))[0].columns == ["structure", "goal", "ctan", "source"]
    with pytest.raises(CaseError, match="no planned dose"):
        band_blocks(page)
    assert read_page(inputs(without, tmp_path / "nothing"), PRESET) is None
    alone = read_page(inputs(case, tmp_path / "nothing"), PRESET)
    assert "There is no predicted dose" in texts(dvh_blocks(alone))


def test_a_damaged_mask_is_a_gap_of_its_own(tmp_path, predicted):
    case = make_case(tmp_path)
    case.path("structures/SpinalCord").write_bytes(b"nothing")
    page = read_page(inputs(case, predicted), PRESET)
    assert list(page.masks) == ["PTV70", "Larynx"] and "SpinalCord: no DVH" in texts(dvh_blocks(page))


def test_names_that_mean_something_elsewhere(tmp_path, predicted):
    name = "<script>$x_{y</script>" * 14
    mask = np.zeros(GRID.shape, np.uint8)
    mask[5:8, 5:8, 5:8] = 1
    case = make_case(tmp_path)
    write_nifti(tmp_path / "odd.nii.gz", mask, GRID)
    files = case.files | {f"structures/{name}": {"path": "odd.nii.gz", "sha256": ""}}
    odd = replace(case, files=files, structures=case.structures | {name: Structure(name, "oar", "contoured")})
    made = dose_case.part(replace(inputs(odd, predicted), prepared={"regression": prepared()}))
    assert [section.key for section in made.sections] == SECTIONS


def test_dvh_metrics_of_the_cohort_say_percent_or_cc():
    mask = box(Boxes.cord)
    rows = dose_rows("p1", *doses(), box(Boxes.body), {"PTV": ("target", mask), "Cord": ("oar", mask)}, voxel_mm3=22.5)
    labels = list(dose_cohort._errors(rows))
    assert labels == ["PTV D99%", "PTV D95%", "PTV D1%", "Cord D0.1cc", "Cord mean"]
    assert [dose_cohort._of_target(label) for label in labels] == [True] * 3 + [False] * 2


def test_several_predictions_stand_side_by_side(case, predicted, tmp_path):
    page = read_page(inputs(case, predicted, predict(tmp_path, doses()[0])), PRESET)
    table = tables(goal_blocks(page))[0]
    assert row_of(table, "SpinalCord", "max ≤ 45 Gy")[2:5] == ["44.00 Gy, met", "46.00 Gy, not met", "44.00 Gy, met"]
    assert "plan: solid, ctan: dashed, hps: dotted" in texts(dvh_blocks(page))


def test_preset_by_the_study(case):
    assert choose_preset("", [case]).name == "head_and_neck" and choose_preset("prostate", [case]).name == "prostate"
    stranger = replace(case, structures={"PTV": Structure("PTV", "target", "contoured")})
    assert choose_preset("", [stranger]) == Preset("")


def test_gamma_prints_every_parameter(case, tmp_path, require_judge):
    require_judge("pymedphys")
    folder = predict(tmp_path, doses()[0] * np.float32(1.02))
    request = replace(inputs(case, folder, gamma=True), prepared={"regression": prepared()})
    made = dose_case.part(request)
    assert made.cells["gamma 3 %/3 mm, %"].text == "100.0"
    blocks = next(section.blocks for section in made.sections if section.key == "gamma")
    values, parameters = tables(blocks)
    assert "1.3 and more count as 1.3" in values.caption and "ctan: 100.0 % of" in texts(blocks)
    assert row_of(values, "gamma max")[1] == "0.67"  # 2 % of 70 Gy, at 3 %
    told = {row[0]: row[1] for row in parameters.rows}
    assert set(GammaOptions.__dataclass_fields__) <= set(told)
    assert (told["max_gamma"], told["interp_fraction"]) == (
        str(GAMMA_OPTIONS.max_gamma),
        str(GAMMA_OPTIONS.interp_fraction),
    )


def test_gamma_without_its_package(case, predicted, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pymedphys" else found(name))
    page = read_page(inputs(case, predicted, gamma=True), PRESET)
    section = dose_case._section("gamma", "Gamma index", lambda: dose_case._gamma(page, {}))
    assert section.blocks[0].mark == "bad" and "pymedphys, which is not installed" in section.blocks[0].text
