"""The quality table: right numbers, and each rule fires on a patient made for it and on no ordinary one."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mtl_med import cli
from mtl_med.prep.engine import prepare
from mtl_med.prep.quality import findings, measure, quality_table
from mtl_med.prep.readers import openkbp
from mtl_med.prep.recipe import Recipe, Rule, load_recipe

NOTHING = ((0, 0), (0, 0), (0, 0))
TARGETS = ("PTV56", "PTV63", "PTV70")
BIG = ((50, 65), (50, 60), (40, 60))  # 3,000 voxels of 0.04 cc: 120 cc
ODD = {
    "cord_volume": {"SpinalCord": ((64, 70), (60, 70), (50, 95))},
    "no_cord": {"SpinalCord": None},
    "brainstem_volume": {"Brainstem": ((60, 72), (60, 72), (38, 50))},
    "parotid_volume": {"RightParotid": ((50, 65), (40, 55), (55, 65))},
    "esophagus_volume": {"Esophagus": ((60, 68), (60, 68), (85, 110))},
    "larynx_volume": {"Larynx": BIG},
    "mandible_volume": {"Mandible": ((40, 55), (50, 70), (60, 72))},
    "few_voxels": {"Esophagus": ((62, 64), (62, 64), (90, 95))},
    "left_is_right": {"LeftParotid": ((56, 64), (44, 52), (55, 65))},
    "right_is_left": {"RightParotid": ((56, 64), (76, 84), (55, 65))},
    "mandible_behind": {"Mandible": ((80, 90), (54, 74), (60, 67))},
    "upside_down": {"Brainstem": ((60, 68), (60, 68), (100, 110))},
    "no_targets": dict.fromkeys(TARGETS),
    "target_volume": {"PTV63": ((50, 55), (54, 59), (60, 64))},
    "prescription": {"PTV70": None, "PTV63": None, "dose_gy": 57.0},
    "low_coverage": {"dose_gy": 66.0},
    "hot_dose": {"dose_gy": 77.5},
    "missing_ct": {"ct": ((46, 78), (44, 84), (48, 78))},
    "metal": {"extra_values": {"ct": {1000: 4096.0}}},
    "negative_dose": {"extra_values": {"dose": {(60 * 128 + 60) * 128 + 60: -0.5}}},
    "dose_outside_mask": {"extra_values": {"dose": {1000: 0.5}}},
    "empty_dose": {"dose_box": ((48, 66), (46, 82), (50, 80)), "mask": ((48, 76), (46, 82), (50, 80))},
    "small_mask": {"mask": ((48, 72), (48, 76), (52, 80))},
}


def fired(folder: Path, recipe: Recipe) -> set[str]:
    """Names of the rules that a patient breaks."""
    (source,) = openkbp.scan(folder, load_recipe("openkbp"))
    return {text.split(":")[0] for text in findings(measure(openkbp.read(source, recipe)), recipe.rules)}


def test_an_ordinary_patient_breaks_no_rule(tmp_path: Path, new_patient, recipe: Recipe) -> None:
    new_patient().write(tmp_path / "train-pats" / "pt_1")
    assert fired(tmp_path, recipe) == set()


@pytest.mark.parametrize("rule", ODD)
def test_each_rule_fires_alone_on_a_patient_made_for_it(tmp_path: Path, new_patient, recipe: Recipe, rule: str) -> None:
    patient = new_patient()
    for name, value in ODD[rule].items():
        if hasattr(patient, name):
            setattr(patient, name, value)
        elif value is None:
            del patient.boxes[name]
        else:
            patient.boxes[name] = value
    patient.write(tmp_path / "train-pats" / "pt_1")
    assert fired(tmp_path, recipe) == {rule}


@pytest.mark.parametrize(
    ("rule", "name", "size"),
    [
        ("parotid_volume", "RightParotid", ((56, 60), (44, 49), (55, 60))),  # 4 cc
        ("brainstem_volume", "Brainstem", ((60, 65), (60, 65), (38, 46))),  # 8 cc
        ("cord_volume", "SpinalCord", ((64, 66), (62, 66), (60, 80))),  # 6.4 cc
        ("larynx_volume", "Larynx", ((50, 55), (60, 64), (75, 80))),  # 4 cc
        ("target_volume", "PTV56", ((48, 76), (46, 82), (50, 80))),  # 1,210 cc
    ],
)
def test_the_other_limit(tmp_path: Path, new_patient, recipe: Recipe, rule: str, name: str, size) -> None:
    """Beside the patient of `ODD`, which is too big or, of the targets, too small."""
    patient = new_patient()
    patient.boxes[name] = size
    patient.write(tmp_path / "train-pats" / "pt_1")
    assert fired(tmp_path, recipe) == {rule}


def test_a_prescription_that_is_too_high(new_patient, recipe: Recipe, tmp_path: Path) -> None:
    """As when it is given in other units: 70 Gy taken for 700."""
    facts = tuple(
        replace(fact, prescription_gy=10 * fact.prescription_gy) if fact.prescription_gy else fact
        for fact in recipe.structures
    )
    new_patient().write(tmp_path / "train-pats" / "pt_1")
    assert fired(tmp_path, replace(recipe, structures=facts)) == {"prescription", "low_coverage"}


def test_every_rule_has_its_patient(recipe: Recipe) -> None:
    assert {rule.rule for rule in recipe.rules} == set(ODD)


@pytest.mark.parametrize("rule", load_recipe("openkbp").rules, ids=lambda rule: rule.rule)
def test_every_rule_has_a_limit_a_unit_and_a_reason(rule: Rule) -> None:
    assert (rule.above is None) != (rule.below is None) or (rule.above or 0) > (rule.below or 0)
    assert len(rule.reason) > 20 and "; " not in rule.reason, "oddities are joined by semicolons"
    assert rule.unit


def test_measures_are_those_of_the_raw_files(tmp_path: Path, new_patient, recipe: Recipe) -> None:
    """Hand-computed: 72 Gy in 95 % of PTV70 (2,918 of 3,072 voxels) would give D95 72; fewer pull it down."""
    patient = new_patient(dose_gy=72.0)
    target = [(i * 128 + j) * 128 + k for i in range(50, 62) for j in range(56, 72) for k in range(62, 78)]
    patient.extra_values["dose"] = dict.fromkeys(target[:200], 40.0)
    patient.write(tmp_path / "train-pats" / "pt_1")
    (source,) = openkbp.scan(tmp_path, load_recipe("openkbp"))
    found = measure(openkbp.read(source, recipe))
    doses = np.concatenate([np.full(200, 40.0), np.full(len(target) - 200, 72.0)])
    assert found["PTV70.D95_gy"] == pytest.approx(np.percentile(doses, 5)) == pytest.approx(40.0)
    assert found["PTV70.D95_percent"] == pytest.approx(100 * 40 / 70)
    assert (found["targets.count"], found["targets.prescription_gy"]) == (3, 70.0)
    assert (found["targets.D2_gy"], found["targets.D2_percent"]) == pytest.approx((72.0, 100 * 72 / 70))
    assert found["PTV70.volume_cc"] == pytest.approx(3072 * 0.04)
    assert found["mask.voxels"] == 28 * 36 * 30
    assert found["dose.max_gy"] == 72.0
    assert found["dose.mean_in_mask_gy"] == pytest.approx((200 * 40 + (30240 - 200) * 72) / 30240)
    # Raw index 79.5 on the axis to the left is 16 voxels of 4 mm beyond the middle, 63.5.
    assert found["Parotid_L.x_mm"] == pytest.approx(-64.0)
    assert found["Brainstem.above_SpinalCord_mm"] == pytest.approx((72 - 44.5) * 2.5)
    assert (found["spacing.x_mm"], found["spacing.z_mm"]) == (4.0, 2.5)


def test_d2_is_that_of_the_highest_prescription_and_leaves_out_the_hottest_voxels(
    tmp_path: Path, new_patient, recipe: Recipe
) -> None:
    """2 % of PTV70 (61 of 3,072 voxels) may be as hot as they like, and so may what lies outside it."""
    patient = new_patient()
    target = [(i * 128 + j) * 128 + k for i in range(50, 62) for j in range(56, 72) for k in range(62, 78)]
    outside = [(i * 128 + 53) * 128 + k for i in range(50, 62) for k in range(56, 78)]
    patient.extra_values["dose"] = dict.fromkeys(target[:60] + outside, 79.0)
    patient.write(tmp_path / "train-pats" / "pt_1")
    assert fired(tmp_path, recipe) == set()
    (source,) = openkbp.scan(tmp_path, load_recipe("openkbp"))
    found = measure(openkbp.read(source, recipe))
    assert found["targets.D2_gy"] == pytest.approx(71.5) and found["dose.max_gy"] == 79.0


SENTENCES: list[tuple[dict[str, float], dict, str]] = [
    ({"Cord.volume_cc": 412.34}, {"above": 100, "unit": "cc"}, "Cord volume is 412.3 cc (above 100 cc)"),
    ({"Cord.contoured": 0}, {"below": 1, "unit": "contour"}, "Cord is not contoured"),
    ({"Larynx.voxels": 14}, {"below": 30, "unit": "voxels"}, "Larynx is 14 voxels (below 30 voxels)"),
    (
        {"mask.without_ct_voxels": 17913},
        {"above": 1000, "unit": "voxels"},
        "mask without ct is 17,913 voxels (above 1,000 voxels)",
    ),
    (
        {"PTV70.D95_gy": 57.2497, "PTV70.D95_percent": 81.7853},
        {"below": 95, "unit": "%"},
        "PTV70 D95 is 57.25 Gy, 81.79 % (below 95 %)",
    ),
    ({"dose.zero_in_mask_percent": 22.0}, {"above": 20, "unit": "%"}, "dose zero in mask is 22 % (above 20 %)"),
    ({"Parotid_L.x_mm": 64.0}, {"above": 0, "unit": "mm"}, "Parotid_L x is 64 mm (above 0 mm)"),
    ({"targets.count": 0}, {"below": 1, "unit": "1"}, "targets count is 0 (below 1)"),
    ({"PTV56.volume_cc": 12345.6}, {"above": 1000, "unit": "cc"}, "PTV56 volume is 12,346 cc (above 1,000 cc)"),
]


@pytest.mark.parametrize(("measures", "rule", "sentence"), SENTENCES, ids=[next(iter(item[0])) for item in SENTENCES])
def test_sentences_tell_what_is_odd_with_units(measures, rule, sentence: str) -> None:
    *_, name = measures
    assert findings(measures, [Rule("odd", name, "for a reason", **rule)]) == [f"odd: {sentence}: for a reason"]


def test_what_is_within_the_limit_or_unknown_is_no_finding() -> None:
    rules = [Rule("cord", "Cord.volume_cc", "too big to be one", "cc", above=100)]
    assert findings({"Cord.volume_cc": 100.0, "Other.volume_cc": 500.0}, rules) == []
    assert findings({"Cord.volume_cc": None}, rules) == []


def test_table_has_a_row_per_case_and_oddities_last() -> None:
    rows = [
        ("a", "fit", {"x": 1, "y": 0.123456789}, []),
        ("b", "tune", {"x": None, "y": 2.0, "z": 3}, ["odd, so", "2"]),
    ]
    table = list(csv.reader(io.StringIO(quality_table(rows))))
    assert table == [
        ["id", "split", "x", "y", "z", "oddities"],
        ["a", "fit", "1", "0.123457", "", ""],
        ["b", "tune", "", "2", "3", "odd, so; 2"],
    ]


def test_oddities_reach_the_table_and_the_case(tmp_path: Path, new_patient, recipe: Recipe) -> None:
    patient = new_patient()
    del patient.boxes["SpinalCord"]
    folder = patient.write(tmp_path / "provided-data" / "train-pats" / "pt_1")
    (folder / "Lung.csv").write_text(",data\n5,\n")
    report = prepare(recipe, tmp_path / "provided-data", tmp_path / "study")
    (case,) = report.manifest
    assert [note.split(":")[0] for note in case.notes] == ["Lung.csv is not known and was left out", "no_cord"]
    with (report.manifest.root / "quality.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert (row["id"], row["SpinalCord.contoured"], row["SpinalCord.volume_cc"]) == ("pt_1", "0", "")
    assert "no_cord: SpinalCord is not contoured: the organ that" in row["oddities"]


def test_the_command_ends_with_the_number_of_cases_with_notes(cohort, tmp_path: Path, capsys) -> None:
    source, study = cohort(train=2), tmp_path / "study"
    (source / "train-pats" / "pt_2" / "SpinalCord.csv").unlink()
    assert cli.main(["prep", "openkbp", "--source", str(source), "--out", str(study), "--workers", "1"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"1 of 2 cases have notes: see {study.resolve() / 'quality.html'}"
