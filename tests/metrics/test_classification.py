"""Classification scores on counts that can be done by hand."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.calibration import ece
from mtl_med.metrics.classification import (
    accuracy,
    auc,
    auc_one_vs_rest,
    balanced_accuracy,
    class_scores,
    confusion_matrix,
    roc_curve,
    sensitivity_at,
)


def test_always_saying_the_common_class_is_accurate_but_not_balanced():
    truth, predicted = np.array([0] * 9 + [1]), np.zeros(10, dtype=int)
    assert accuracy(truth, predicted) == pytest.approx(0.9)
    assert balanced_accuracy(truth, predicted) == pytest.approx(0.5)


def test_balanced_accuracy_leaves_out_classes_that_do_not_occur():
    assert balanced_accuracy(np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])) == pytest.approx((0.5 + 1.0) / 2)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [([0.1, 0.2, 0.8, 0.9], 1.0), ([0.9, 0.8, 0.2, 0.1], 0.0), ([0.5] * 4, 0.5), ([0.1, 0.6, 0.4, 0.9], 0.75)],
    ids=["perfect", "inverted", "ties", "one pair wrong"],
)
def test_auc_of_two_against_two(scores, expected):
    assert auc(np.array([0, 0, 1, 1]), np.array(scores)) == pytest.approx(expected)


def test_auc_is_the_share_of_ordered_pairs_with_ties_as_half():
    generator = np.random.default_rng(3)
    positive, score = generator.random(60) < 0.3, generator.integers(0, 8, 60)
    pairs = [float(p > n) + 0.5 * float(p == n) for p in score[positive] for n in score[~positive]]
    assert auc(positive, score) == pytest.approx(np.mean(pairs), abs=1e-12)


def test_one_vs_rest_is_the_mean_over_classes():
    truth = np.array([0, 0, 1, 1, 2, 2])
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 6)
    expected = np.mean([auc(truth == k, probabilities[:, k]) for k in range(3)])
    assert auc_one_vs_rest(truth, probabilities) == pytest.approx(expected)


def repeated(weights: np.ndarray, *arrays: np.ndarray) -> list[np.ndarray]:
    """Each case as often as it counts."""
    return [np.repeat(array, weights.astype(int), axis=0) for array in arrays]


def made_up(cases: int = 60, classes: int = 4, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, decisions that are not always the most probable class, probabilities with ties."""
    generator = np.random.default_rng(seed)
    truth, decided = generator.integers(0, classes, cases), generator.integers(0, classes, cases)
    decided[: cases // 2] = truth[: cases // 2]
    return truth, decided, np.round(generator.dirichlet(np.ones(classes), cases), 1)


def test_confusion_matrix_counts_pairs_of_true_and_decided():
    found = confusion_matrix([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2], 3)
    assert found.tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 2]]


def test_scores_of_a_binary_task_by_hand():
    # Three positives, of which two are found; seven negatives, of which one is taken for a positive.
    truth, decided = np.array([1, 1, 1] + [0] * 7), np.array([1, 1, 0, 1] + [0] * 6)
    chance = np.array([0.9, 0.8, 0.4, 0.6] + [0.1] * 6)
    found = {
        key: float(value[0]) for key, value in class_scores(truth, decided, np.stack([1 - chance, chance], 1)).items()
    }
    assert found["accuracy"] == pytest.approx(0.8)
    assert (found["sensitivity/1"], found["specificity/1"]) == pytest.approx((2 / 3, 6 / 7))
    assert (found["sensitivity/0"], found["specificity/0"]) == pytest.approx((6 / 7, 2 / 3))
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 6 / 7) / 2)
    assert (found["f1/1"], found["f1/0"]) == pytest.approx((4 / 6, 12 / 14))
    assert found["f1_macro"] == pytest.approx((4 / 6 + 12 / 14) / 2)
    assert found["auc"] == found["auc/1"] == pytest.approx(20 / 21)


@pytest.mark.parametrize("classes", [2, 4])
def test_a_case_that_counts_twice_is_a_case_that_is_there_twice(classes):
    truth, decided, chances = made_up(classes=classes)
    weights = np.random.default_rng(2).integers(0, 3, (60, 5)).astype(float)
    found = class_scores(truth, decided, chances, weights)
    for draw in range(5):
        again = class_scores(*repeated(weights[:, draw], truth, decided, chances))
        for name, values in found.items():
            assert values[draw] == pytest.approx(float(again[name][0]), nan_ok=True), name


def test_scores_at_once_are_the_single_ones():
    truth, decided, chances = made_up()
    found = class_scores(truth, decided, chances)
    assert found["accuracy"][0] == pytest.approx(accuracy(truth, decided))
    assert found["balanced_accuracy"][0] == pytest.approx(balanced_accuracy(truth, decided))
    assert found["auc"][0] == pytest.approx(auc_one_vs_rest(truth, chances))
    assert found["ece"][0] == pytest.approx(ece(truth, chances))


def test_auc_is_that_of_the_rank_sum_test():
    from scipy.stats import mannwhitneyu

    truth, _, chances = made_up(200, 2)
    judge = mannwhitneyu(chances[truth == 1, 1], chances[truth == 0, 1]).statistic
    assert auc(truth == 1, chances[:, 1]) == pytest.approx(judge / ((truth == 1).sum() * (truth == 0).sum()))


def test_a_draw_without_a_class_is_undefined_where_classes_are_compared_and_nowhere_else():
    truth, decided, chances = made_up(classes=3)
    weights = np.stack([np.ones(60), (truth != 2).astype(float)], axis=1)
    found = class_scores(truth, decided, chances, weights)
    assert np.isnan([found[name][1] for name in ("balanced_accuracy", "auc", "f1_macro", "sensitivity/2")]).all()
    assert np.isfinite([found[name][1] for name in ("accuracy", "ece", "sensitivity/0", "specificity/2")]).all()
    assert np.isfinite(found["balanced_accuracy"][0])


def test_one_class_only_has_an_accuracy_and_nothing_that_compares():
    found = class_scores([1, 1, 1], [1, 0, 1], [[0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])
    assert found["accuracy"][0] == pytest.approx(2 / 3)
    assert np.isnan([found[name][0] for name in ("balanced_accuracy", "auc", "f1_macro", "sensitivity/0")]).all()
    assert np.isnan(class_scores([], [], np.zeros((0, 3)))["accuracy"][0])


def test_roc_curve_has_one_point_for_each_threshold_and_the_area_of_the_auc():
    across, up, threshold = roc_curve([1, 0, 1, 0], [0.9, 0.8, 0.8, 0.1])
    assert across.tolist() == [0, 0, 0.5, 1] and up.tolist() == [0, 0.5, 1, 1]
    assert threshold.tolist() == [np.inf, 0.9, 0.8, 0.1]
    truth, _, chances = made_up(200, 2)
    across, up, _ = roc_curve(truth, chances[:, 1])
    assert np.trapezoid(up, across) == pytest.approx(auc(truth == 1, chances[:, 1]))
    assert np.isnan(roc_curve([1, 1], [0.1, 0.2])[0]).all()


def test_sensitivity_at_a_rate_is_the_curve_of_the_cases_as_often_as_they_count():
    truth, _, chances = made_up(80, 2)
    weights = np.random.default_rng(0).integers(0, 4, (80, 3)).astype(float)
    rates = np.linspace(0, 1, 21)
    found = sensitivity_at(rates, truth == 1, chances[:, 1], weights)
    for draw in range(3):
        across, up, _ = roc_curve(*repeated(weights[:, draw], truth == 1, chances[:, 1]))
        assert found[:, draw] == pytest.approx(np.interp(rates, across, up))
    assert np.isnan(sensitivity_at(rates, truth == 1, chances[:, 1], (truth == 1)[:, None].astype(float))).all()


def test_lengths_have_to_agree():
    with pytest.raises(UsageError, match="3 labels against 2 predictions"):
        accuracy(np.zeros(3), np.zeros(2))
    with pytest.raises(UsageError, match=r"shape \(2, 2\), expected \(3, classes\)"):
        class_scores(np.zeros(3), np.zeros(3), np.zeros((2, 2)))
