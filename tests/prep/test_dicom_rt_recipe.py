"""The recipe for DICOM-RT: each quality rule fires on measures made for it, and none on those of ordinary plans."""

from __future__ import annotations

import pytest

from mtl_med.prep.name_rows import read_rows
from mtl_med.prep.quality import findings
from mtl_med.prep.recipe import Recipe, load_recipe

PELVIS: dict[str, float | int | None] = {
    **{"spacing.x_mm": 0.98, "spacing.y_mm": 0.98, "spacing.z_mm": 2.5, "mask.voxels": 900_000},
    **{"dose.max_gy": 82.1, "dose.zero_in_mask_percent": 12.0, "dose.negative_voxels": 0},
    **{"targets.count": 2, "targets.prescription_gy": 78.0, "targets.D2_percent": 104.0},
    **{"PTV_7800.volume_cc": 140.0, "PTV_7800.D95_percent": 97.5, "PTV_7800.dose_coverage_percent": 100.0},
    **{"CTV.D95_percent": None, "CTV.volume_cc": 60.0, "PTV_7800.voxels": 48_000, "PenileBulb.voxels": 900},
    **{"Bladder.volume_cc": 160.0, "Rectum.volume_cc": 70.0, "Prostate.volume_cc": 45.0},
    **{"Femur_Head_L.volume_cc": 55.0, "Femur_Head_R.volume_cc": 180.0, "Femur_Head.L_to_R_mm": 190.0},
    **{"Bladder.above_PenileBulb_mm": 70.0, "Lens_L.contoured": 0, "Lens_L.volume_cc": None},
}
HEAD: dict[str, float | int | None] = {
    **{
        "targets.prescription_gy": 70.0,
        "Brain.volume_cc": 1400.0,
        "Brainstem.volume_cc": 28.0,
        "Larynx.volume_cc": 40.0,
    },
    **{"Parotid_L.volume_cc": 25.0, "Eye_L.volume_cc": 8.0, "Lens_L.volume_cc": 0.2, "Bone_Mandible.volume_cc": 60.0},
    **{"SpinalCord.volume_cc": 20.0, "Brainstem.above_SpinalCord_mm": 90.0, "Parotid.L_to_R_mm": 110.0},
}
CHEST: dict[str, float | int | None] = {
    **{"Lung_L.volume_cc": 1500.0, "Lung_R.volume_cc": 1900.0, "Lung_LUL.volume_cc": 100.0, "Heart.volume_cc": 700.0},
    **{
        "Liver.volume_cc": 1500.0,
        "Kidney_R.volume_cc": 150.0,
        "SpinalCord.volume_cc": 45.0,
        "Liver.above_Bladder_mm": 300,
    },
}
ODD = {
    "no_targets": {"targets.count": 0},
    "prescription": {"targets.prescription_gy": 2.0},
    "dose_coverage": {"CTV.dose_coverage_percent": 99.9},
    "low_coverage": {"PTV_7800.D95_percent": 94.0},
    "hot_dose": {"targets.D2_percent": 130.0},
    "weak_dose": {"dose.max_gy": 0.4},
    "negative_dose": {"dose.negative_voxels": 1},
    "empty_dose": {"dose.zero_in_mask_percent": 80.0},
    "small_mask": {"mask.voxels": 100},
    "thick_slices": {"spacing.z_mm": 6.0},
    "coarse_pixels": {"spacing.x_mm": 4.0},
    "few_voxels": {"OpticChiasm.voxels": 12},
    "sides": {"Kidney.L_to_R_mm": -120.0},
    "upside_down": {"Prostate.above_PenileBulb_mm": -20.0},
    "target_volume": {"PTV1.volume_cc": 0.2},
    "bladder_volume": {"Bladder.volume_cc": 5.0},
    "rectum_volume": {"Rectum.volume_cc": 500.0},
    "femur_head_volume": {"Femur_Head_L.volume_cc": 450.0},
    "prostate_volume": {"Prostate.volume_cc": 400.0},
    "heart_volume": {"Heart.volume_cc": 100.0},
    "lung_volume": {"Lung_R.volume_cc": 100.0},
    "liver_volume": {"Liver.volume_cc": 5000.0},
    "kidney_volume": {"Kidney_L.volume_cc": 700.0},
    "cord_volume": {"SpinalCord.volume_cc": 1.0},
    "brain_volume": {"Brain.volume_cc": 300.0},
    "brainstem_volume": {"Brainstem.volume_cc": 90.0},
    "parotid_volume": {"Parotid_R.volume_cc": 100.0},
    "eye_volume": {"Eye_R.volume_cc": 30.0},
    "lens_volume": {"Lens_R.volume_cc": 3.0},
    "larynx_volume": {"Larynx.volume_cc": 2.0},
    "mandible_volume": {"Bone_Mandible.volume_cc": 200.0},
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("dicom_rt")


def fired(recipe: Recipe, measures: dict[str, float | int | None]) -> list[str]:
    return [text.split(":")[0] for text in findings(measures, recipe.rules)]


@pytest.mark.parametrize("ordinary", [PELVIS, HEAD, CHEST], ids=["pelvis", "head", "chest"])
def test_an_ordinary_plan_breaks_no_rule(recipe: Recipe, ordinary: dict[str, float | int | None]) -> None:
    assert findings(ordinary, recipe.rules) == []


@pytest.mark.parametrize("rule", ODD)
def test_each_rule_fires_alone(recipe: Recipe, rule: str) -> None:
    assert fired(recipe, PELVIS | ODD[rule]) == [rule]


def test_no_rule_is_left_out(recipe: Recipe) -> None:
    assert [rule.rule for rule in recipe.rules] == list(ODD)
    assert all(
        rule.unit and rule.reason and (rule.above is not None or rule.below is not None) for rule in recipe.rules
    )


def test_a_finding_reads_as_a_sentence(recipe: Recipe) -> None:
    (text,) = findings(PELVIS | ODD["sides"], recipe.rules)
    assert text.startswith("sides: Kidney L to R is -120 mm (below 0 mm): the left one lies")


def test_the_recipe_has_a_table_of_names(recipe: Recipe) -> None:
    assert recipe.names is not None and not recipe.structures
    assert len(read_rows(recipe.names)) >= 120
    assert recipe.reader == "dicom_rt"
    assert 0 < sum(recipe.fractions.values()) < 1
