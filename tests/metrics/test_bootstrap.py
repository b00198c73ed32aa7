"""Intervals over groups: what is drawn together, and that the intervals are those of scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.metrics.bootstrap import bootstrap, dice_rows, drawn_together, group_draws
from mtl_med.metrics.rows import Row


def mean_of(values: np.ndarray):
    return lambda weights: {"mean": values @ weights / np.maximum(weights.sum(axis=0), 1)}


def test_a_group_is_drawn_as_a_whole_and_as_many_groups_as_there_are():
    groups = ["a", "b", "a", "c", "b", "a"]
    (weights,) = group_draws(groups, draws=200)
    assert weights.shape == (6, 200)
    assert (weights[0] == weights[2]).all() and (weights[0] == weights[5]).all() and (weights[1] == weights[4]).all()
    assert (weights[[0, 1, 3]].sum(axis=0) == 3).all()
    assert weights[0].mean() == pytest.approx(1, abs=0.15)


def test_all_draws_come_and_the_seed_decides_them():
    parts = list(group_draws(list("abcde"), draws=600, seed=3))
    assert [part.shape[1] for part in parts] == [250, 250, 100]
    again, other = (np.concatenate(list(group_draws(list("abcde"), 600, seed)), axis=1) for seed in (3, 4))
    assert (np.concatenate(parts, axis=1) == again).all() and (again != other).any()


def test_interval_is_that_of_scipy_where_each_case_stands_alone():
    from scipy.stats import bootstrap as judged

    values = np.random.default_rng(0).gamma(2.0, size=80)
    found = bootstrap(mean_of(values), [str(i) for i in range(80)], draws=8000)["mean"]
    judge = judged((values,), np.mean, method="percentile", n_resamples=8000, rng=np.random.default_rng(1))
    low, high = judge.confidence_interval
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04 * (high - low))
    assert (found.groups, found.draws, found.undefined) == (80, 8000, 0)


def test_copies_of_a_case_make_no_interval_narrower_when_they_are_one_group():
    values = np.random.default_rng(0).normal(size=30)
    single = bootstrap(mean_of(values), [str(i) for i in range(30)])["mean"]
    copied = np.tile(values, 4)
    grouped = bootstrap(mean_of(copied), [str(i) for i in range(30)] * 4)["mean"]
    alone = bootstrap(mean_of(copied), [str(i) for i in range(120)])["mean"]
    assert grouped.high - grouped.low == pytest.approx(single.high - single.low)
    assert alone.high - alone.low < 0.65 * (single.high - single.low)


def test_draws_in_which_a_score_is_undefined_are_left_out_and_told():
    rare = np.array([1.0] + [0.0] * 9)

    def share(weights: np.ndarray) -> dict[str, np.ndarray]:
        with np.errstate(invalid="ignore"):
            return {"share": (rare @ weights) / (rare @ weights)}

    found = bootstrap(share, [str(i) for i in range(10)], draws=1000)["share"]
    assert found.undefined == pytest.approx(1000 * 0.9**10, abs=60)
    assert (found.low, found.high) == (1.0, 1.0)
    assert f"{1000 - found.undefined} draws;{found.undefined} undefined left out" in found.convention


@pytest.mark.parametrize("groups", [[], ["a"], ["a", "a"]])
def test_one_group_has_no_interval(groups):
    found = bootstrap(mean_of(np.ones(len(groups))), groups)["mean"]
    assert math.isnan(found.low) and math.isnan(found.high)
    assert found.convention.startswith("undefined: ")


def test_an_id_that_is_the_name_of_a_group_is_not_in_it():
    assert len(set(drawn_together(["x", "y", "z"], {"x": "y", "z": "y"}))) == 2


def test_dice_has_an_interval_over_groups_and_undefined_cases_do_not_count():
    values = {"a": 0.8, "b": 0.9, "c": math.nan, "d": 0.7}
    rows = [Row(case, "lesion", "Lesion", "dice", value, "1") for case, value in values.items()]
    dice, low, high = dice_rows(rows, {"a": "one", "b": "one", "d": "two"})
    assert (dice.case, dice.structure, dice.metric, dice.value) == ("", "Lesion", "dice", pytest.approx(0.8))
    assert (low.metric, low.value, high.metric, high.value) == ("dice_low", 0.7, "dice_high", pytest.approx(0.85))
    assert "2 groups" in low.convention
