"""Scores as functions of weights: they are the scores of an evaluation, and their intervals and differences hold."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from mtl_med.metrics.dose import OAR_METRICS, TARGET_METRICS
from mtl_med.metrics.image_rows import image_rows
from mtl_med.metrics.rows import Row
from mtl_med.metrics.summary import overall
from mtl_med.report.headline import badness, headline, ranked_by
from mtl_med.report.score_samples import compare, intervals, score_list

CASES = [f"p{number}" for number in range(12)]


def made_up_rows(seed: int = 0, worse_by: float = 0.0) -> list[Row]:
    """Doses, structures and classes of 12 cases, with gaps: a structure that is not contoured, one that is missed."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, case in enumerate(CASES):
        for metric in ("dose_score", "mae_in_mask", "mae_whole_grid"):
            rows.append(Row(case, "dose", "", metric, float(rng.uniform(1, 5)) + worse_by, "Gy"))
        for structure, metrics in (("SpinalCord", OAR_METRICS), ("PTV70", TARGET_METRICS)):
            if (structure, number) == ("SpinalCord", 3):
                continue
            for metric in metrics:
                true, error = float(rng.uniform(20, 70)), float(rng.normal(0, 3)) + worse_by
                for convention in ("linear", "cumulative"):
                    values = {"true": true, "predicted": true + error, "abs_error": abs(error)}
                    rows += [Row(case, "dose", structure, f"{metric}_{name}", value, "Gy", convention)
                             for name, value in values.items()]  # fmt: skip
        for structure in ("SpinalCord", "Parotid_L"):
            value = math.nan if (structure, number) == ("Parotid_L", 5) else float(rng.uniform(0.4, 0.9))
            missed = (structure, number) == ("SpinalCord", 7)
            rows.append(Row(case, "oar", structure, "dice", 0.0 if missed else value, "1"))
            rows.append(Row(case, "oar", structure, "hd95", math.nan if missed else 10 * value, "mm"))
            rows.append(Row(case, "oar", structure, "surface_dice_2mm", 0.0 if missed else value, "1"))
        chances = rng.dirichlet([1, 1, 1])
        rows += image_rows(case, "diagnosis", number % 3, int(chances.argmax()), list(chances), ("a", "b", "c"))
    return rows


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return made_up_rows()


def test_every_score_is_that_of_the_evaluation(rows: list[Row]) -> None:
    expected = overall(rows)
    found = {score.key: score for score in score_list(rows)}
    for key in ("dose_score", "dvh_score", "mae_in_mask", "mae_whole_grid"):
        assert found[key].value == pytest.approx(expected[key], rel=1e-12)
    assert found["dice"].value == pytest.approx(expected["mean_dice"], rel=1e-12)
    for key in ("accuracy/diagnosis", "balanced_accuracy/diagnosis", "auc/diagnosis"):
        assert found[key].value == pytest.approx(expected[key], rel=1e-12)
    assert set(found) == {key.replace("mean_dice", "dice") for key in expected if "dice/" not in key} | {
        "hd95",
        "surface_dice",
    }
    assert (found["hd95"].unit, found["surface_dice"].label) == ("mm", "mean surface Dice at 2 mm")


def test_a_case_that_counts_twice_is_like_two_cases(rows: list[Row]) -> None:
    """Weights are numbers of patients: the score with a weight of 2 is that of the cohort with a copy."""
    copies = [replace(row, case="copy") for row in rows if row.case == "p2"]
    weights = np.array([[2.0 if case == "p2" else 1.0] for case in CASES])
    doubled = {score.key: score.value for score in score_list([*rows, *copies])}
    for score in score_list(rows):
        found = float(score.sample.score(weights * score.sample.defined[:, None])[0])
        assert found == pytest.approx(doubled[score.key], rel=1e-12), score.key


def test_intervals_surround_the_score_and_groups_widen_them(rows: list[Row]) -> None:
    scores = score_list(rows)
    alone = intervals(scores, {})
    together = intervals(scores, {case: f"group {number // 6}" for number, case in enumerate(CASES)})
    for score in scores:
        assert alone[score.key].low <= score.value <= alone[score.key].high, score.key
        assert alone[score.key].groups == 12 and together[score.key].groups == 2
    values = np.array([row.value for row in rows if row.metric == "dose_score"])
    half = 1.96 * values.std(ddof=1) / math.sqrt(12)
    assert alone["dose_score"].high - alone["dose_score"].low == pytest.approx(2 * half, rel=0.15)


def test_the_same_predictions_differ_by_nothing(rows: list[Row]) -> None:
    for item in compare(rows, {"again": rows}, {})["again"]:
        assert (item.difference.value, item.difference.low, item.difference.high) == (0, 0, 0)
        assert item.p_adjusted == 1 and item.cases == 12


def test_a_known_difference_is_found_over_the_cases_of_both(rows: list[Row]) -> None:
    worse = [row for row in made_up_rows(worse_by=0.25) if row.case != "p11"]
    found = compare(rows, {"worse": worse, "again": rows}, {})
    item = next(item for item in found["worse"] if item.score.key == "dose_score")
    assert item.cases == 11
    assert item.difference.value == pytest.approx(0.25) and item.difference.low == pytest.approx(0.25)
    assert item.p_adjusted == pytest.approx(2 * item.difference.p), "two folders are compared with the first"


def test_nothing_in_common_is_no_difference(rows: list[Row]) -> None:
    other = [replace(row, case=f"other {row.case}") for row in rows]
    assert compare(rows, {"other": other, "empty": []}, {}) == {"other": [], "empty": []}
    assert score_list([]) == [] and intervals([], {}) == {}


def test_the_headline_of_a_case(rows: list[Row]) -> None:
    cells = headline([row for row in rows if row.case == "p7"])
    errors = {(row.structure, row.metric): row.value for row in rows if row.case == "p7" and row.convention == "linear"}
    worst = max((key for key in errors if key[1].endswith("abs_error")), key=lambda key: errors[key])
    assert cells["worst DVH error, Gy"].value == pytest.approx(errors[worst])
    assert worst == ("PTV70", "D_99_abs_error")
    assert cells["worst DVH error, Gy"].detail == "PTV70 D99%"
    assert (cells["mean Dice"].mark, cells["mean Dice"].detail) == ("bad", "missed: SpinalCord")
    assert cells["diagnosis"].text in ("a", "b", "c")


@pytest.mark.parametrize(
    ("metrics", "by"),
    [
        ({"dose_score", "dice", "correct"}, "the dose score"),
        ({"dice", "hd95", "correct"}, "the probability of the true class"),
        ({"dice", "hd95"}, "the mean Dice"),
        ({"nothing"}, ""),
    ],
    ids=["dose", "classes", "structures", "nothing"],
)
def test_cases_are_ranked_by_what_they_have(rows: list[Row], metrics: set[str], by: str) -> None:
    classes = {"correct", "probability_of_truth", "probability_of_decision", "probability"} & (
        {"correct", "probability_of_truth", "probability_of_decision", "probability"} if "correct" in metrics else set()
    )
    cells = {
        case: headline([row for row in rows if row.case == case and row.metric in metrics | classes]) for case in CASES
    }
    assert ranked_by(list(cells.values())) == by
    order = sorted(CASES, key=lambda case: -badness(cells[case], by))
    if by == "the dose score":
        scores = {row.case: row.value for row in rows if row.metric == "dose_score"}
        assert order == sorted(CASES, key=lambda case: -scores[case])
    assert badness({}, by) == math.inf, "a case without a score has to be looked at"
