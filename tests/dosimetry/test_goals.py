"""Clinical goals: thirty decisions worked out by hand, what cannot be decided, and presets that are files."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mtl_med.dosimetry.goals import Goal, decide, evaluate_goals, goal_rows, load_preset, preset_names
from mtl_med.errors import UsageError
from mtl_med.metrics.dvh import DvhMetric, StructureDoses

# Ten voxels of 0.5 cc at 10, 20, ... 100 Gy, float32 as in files; prescribed are 80 Gy. By hand (cumulative):
# mean 55; max 100; min 10; D50% 60; D2cc (4 voxels) 70; D10% 100; V50Gy 6 voxels = 60 % = 3 cc; V100% (80 Gy) 30 %;
# D50% is 75 % of 80 Gy; V95% (76 Gy) 30 %.
DOSES = StructureDoses(np.arange(10, 101, 10, dtype=np.float32), voxel_mm3=500.0, prescription_gy=80.0)
DECISIONS = [
    # metric, comparison, limit, met: the value lies above, at and below the limit
    ("mean", "<=", 54.9, False),
    ("mean", "<=", 55.0, True),
    ("mean", "<=", 55.1, True),
    ("max", "<", 99.0, False),
    ("max", "<", 100.0, False),
    ("max", "<", 101.0, True),
    ("min", ">=", 9.5, True),
    ("min", ">=", 10.0, True),
    ("min", ">=", 10.5, False),
    ("D50%", ">", 59.0, True),
    ("D50%", ">", 60.0, False),
    ("D50%", ">", 61.0, False),
    ("D2cc", "<=", 69.0, False),
    ("D2cc", "<=", 70.0, True),
    ("D2cc", "<=", 71.0, True),
    ("D50%[%]", ">=", 74.0, True),
    ("D50%[%]", ">=", 75.0, True),
    ("D50%[%]", ">=", 76.0, False),
    ("V50Gy", "<", 59.0, False),
    ("V50Gy", "<", 60.0, False),
    ("V50Gy", "<", 61.0, True),
    ("V50Gy[cc]", "<=", 2.9, False),
    ("V50Gy[cc]", "<=", 3.0, True),
    ("V50Gy[cc]", "<=", 3.1, True),
    ("V100%", ">=", 29.0, True),
    ("V100%", ">=", 30.0, True),
    ("V100%", ">=", 31.0, False),
    ("max[%]", "<", 124.0, False),
    ("max[%]", "<", 125.0, False),
    ("max[%]", "<", 126.0, True),
]


def _goal(metric, comparison="<=", limit=50.0, structure="Organ", highest=False):
    return Goal(structure, DvhMetric.parse(metric), comparison, limit, "by hand", highest)


@pytest.mark.parametrize(("metric", "comparison", "limit", "met"), DECISIONS)
def test_thirty_decisions_by_hand(metric, comparison, limit, met):
    (result,) = evaluate_goals([_goal(metric, comparison, limit)], {"Organ": DOSES})
    assert result.met is met


def test_thirty_decisions_are_thirty():
    assert len(DECISIONS) == 30 and len({row[:3] for row in DECISIONS}) == 30


@pytest.mark.parametrize("limit", [59.9, 53.2, 66.5, 0.1, 73.3])
def test_a_limit_is_met_by_itself_as_a_file_holds_it(limit):
    stored = float(np.float32(limit))
    assert decide(stored, "<=", limit) and decide(stored, ">=", limit)
    assert not decide(stored, "<", limit) and not decide(stored, ">", limit)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(UsageError, match="not known"):
        decide(math.nan, "<", 1.0)
    with pytest.raises(UsageError, match="=="):
        decide(1.0, "==", 1.0)


def test_neither_met_nor_missed():
    """No such structure, not contoured, empty, no prescription, dose known in part."""
    partly = StructureDoses(np.array([10.0, 40.0]), 1000.0, voxels=3)
    structures = {"Empty": StructureDoses(np.zeros(0), 1.0), "Partly": partly}
    goals = [
        *(_goal("mean", structure=name) for name in ("Nowhere", "Left_out", "Empty")),
        *(_goal("V95%", structure="Partly"), _goal("mean", structure="Partly"), _goal("max", structure="Partly")),
    ]
    results = evaluate_goals(goals, structures, gaps={"Left_out": "not contoured"})
    assert [result.met for result in results] == [None] * 6
    reasons = [result.reason for result in results]
    assert reasons[:4] == ["there is no such structure", "not contoured", "it is empty", "no prescription is known"]
    assert "66.7 %" in reasons[4] and results[4].value == 25.0
    # What is too much already stays too much, whatever the unknown voxels receive; a mean may come down again.
    missed = evaluate_goals([_goal("max", "<=", 39.0, "Partly"), _goal("mean", "<=", 20.0, "Partly")], structures)
    assert [result.met for result in missed] == [False, None]


def test_patterns_and_the_highest_prescription():
    structures = {
        "PTV56": StructureDoses(np.array([56.0]), 1.0, prescription_gy=56.0),
        "PTV70": StructureDoses(np.array([70.0]), 1.0, prescription_gy=70.0),
        "Cord": StructureDoses(np.array([30.0]), 1.0, prescription_gy=70.0),
    }
    every = evaluate_goals([_goal("mean[%]", ">=", 100.0, "PTV*")], structures)
    assert [(result.structure, result.met) for result in every] == [("PTV56", True), ("PTV70", True)]
    highest = evaluate_goals([_goal("max[%]", "<=", 107.0, "PTV*", highest=True)], structures)
    assert [result.structure for result in highest] == ["PTV70"]


def test_rows_tell_the_goal_what_was_found_and_why_nothing_was():
    results = evaluate_goals(
        [_goal("mean"), _goal("mean", limit=60.0), _goal("mean", structure="None")], {"Organ": DOSES}
    )
    rows = goal_rows("a", results)
    assert [row.metric for row in rows] == ["mean <= 50 Gy", "mean <= 60 Gy", "mean <= 50 Gy"]
    assert [row.value for row in rows[:2]] == [0.0, 1.0] and math.isnan(rows[2].value)
    assert rows[0].convention == "found 55 Gy;cumulative" and "no such structure" in rows[2].convention


@pytest.mark.parametrize("name", preset_names())
def test_shipped_presets_are_whole(name, root):
    from mtl_med.prep.names import NameTable

    preset = load_preset(name)
    assert preset.name == name and preset.title and preset.fractionation and len(preset.goals) > 10
    known = NameTable.load(None).names
    for goal in preset.goals:
        assert goal.structure in known or goal.structure == "PTV*", f"{goal.structure} is no name of the table"
        assert len(goal.source) > 10
    units = {goal.metric.unit for item in map(load_preset, preset_names()) for goal in item.goals}
    assert units == {"Gy", "%", "cc"}
    assert json.loads((root / "mtl_med" / "dosimetry" / "goal_presets" / f"{name}.json").read_text())["name"] == name


def test_presets_of_both_sites():
    assert preset_names() == ["head_and_neck", "prostate"]
    assert load_preset("prostate").alpha_beta("PTV78", "target") == 1.5
    assert load_preset("prostate").alpha_beta("Bladder", "oar") == 3.0
    assert load_preset("head_and_neck").alpha_beta("SpinalCord", "oar") == 2.0
    assert load_preset("head_and_neck").alpha_beta("PTV70", "target") == 10.0


def test_alternatives_and_secondary_sources_say_so():
    """RTOG 0225 lets one of two limits do; a limit that was read in another paper is told as such."""
    goals = {(goal.structure, goal.metric.label): goal.source for goal in load_preset("head_and_neck").goals}
    for structure, metrics in {"SpinalCord": ("max", "D1cc"), "Brainstem": ("max", "D1%")}.items():
        assert all("one of both is enough" in goals[structure, metric] for metric in metrics)
    # No variation of PTV70: 95 % of it at 70 Gy or more, 99 % at 65.1, at most 20 % at 77, at most 5 % at 80.5.
    targets = {label for (structure, label), source in goals.items() if structure == "PTV*" and "0225" in source}
    assert targets == {"D95%", "D99%", "V110%", "V115%"}
    femur = next(goal for goal in load_preset("prostate").goals if goal.structure == "Femur_Head_L")
    assert femur.source.startswith("secondary source")


def test_a_percentage_of_the_volume_is_no_volume_in_cc():
    assert _goal("D1%", "<", 60.0).text == "D1% < 60 Gy"
    assert _goal("D_1", "<", 60.0).text == "D1% < 60 Gy" and _goal("D1cc", "<", 60.0).text == "D1cc < 60 Gy"
    for text in ("D95%", "D0.1cc", "V20Gy", "V95%", "mean", "volume"):
        metric = DvhMetric.parse(text)
        assert metric.label == text and DvhMetric.parse(metric.label) == metric


@pytest.mark.parametrize(
    ("gy", "fractions", "otherwise"),
    [(78.0, 39, False), (79.2, 44, False), (70.0, 33, False), (36.25, 5, True), (60.0, 20, True), (None, 5, False)],
)
def test_limits_of_another_fractionation_are_told(gy, fractions, otherwise):
    text, found = load_preset("prostate").about_fractions(gy, fractions)
    assert found is otherwise and "about 2 Gy per fraction" in text
    assert ("not known" if gy is None else f"{gy / fractions:.2f} Gy per fraction") in text


GOOD = {"structure": "Cord", "metric": "max", "comparison": "<=", "limit": 45, "source": "a paper"}


def _written(tmp_path, goal=None, **fields):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"schema": "mtl_med/goals/1", "goals": [GOOD | (goal or {})]} | fields))
    return path


def test_a_preset_of_ones_own(tmp_path):
    preset = load_preset(_written(tmp_path, alpha_beta_gy=[{"structure": "Cord", "gy": 0.87}]))
    assert [goal.text for goal in preset.goals] == ["max <= 45 Gy"] and preset.alpha_beta("Cord", "oar") == 0.87


@pytest.mark.parametrize(
    ("goal", "match"),
    [
        ({"metric": "V20"}, r"goal 1.*V20"),
        ({"comparison": "=<"}, "=<"),
        ({"limit": "45"}, "limit"),
        ({"limit": True}, "limit"),
        ({"limit": -1}, "limit"),
        ({"source": " "}, "source"),
        ({"which": "some"}, "which"),
        ({"limits": 3}, "Did you mean limit"),
    ],
)
def test_goals_that_cannot_be_meant(tmp_path, goal, match):
    with pytest.raises(UsageError, match=match):
        load_preset(_written(tmp_path, goal))


def test_files_that_are_no_preset(tmp_path):
    for fields, match in (
        ({"schema": "other"}, "no list of goals"),
        ({"goals": {}}, "lists"),
        ({"goals": [3]}, "no JSON object"),
        ({"goals": [{"structure": "Cord"}]}, "lacks comparison, limit, metric, source"),
        ({"alpha_beta_gy": [{"structure": "Cord"}]}, "gy"),
        ({"alpha_beta_gy": [{"structure": "Cord", "gy": 0}]}, "gy"),
        ({"gy_per_fraction": 2}, r"\[lowest, highest\]"),
        ({"gy_per_fraction": [2.2, 1.8]}, "Lowest first"),
        ({"gy_per_fraction": [0, 2]}, "above 0"),
    ):
        with pytest.raises(UsageError, match=match):
            load_preset(_written(tmp_path, **fields))
    (tmp_path / "broken.json").write_text("{")
    names = {
        tmp_path / "broken.json": "JSON",
        tmp_path / "no.json": "cannot be read",
        "prostat": "Did you mean prostate",
    }
    for name, match in names.items():
        with pytest.raises(UsageError, match=match):
            load_preset(name)
