"""Classification scores on counts that can be done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.classification import (
    accuracy,
    auc,
    auc_one_vs_rest,
    balanced_accuracy,
    classification_rows,
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


def test_one_class_only_is_nan_with_a_reason():
    rows = classification_rows("diagnosis", np.array([1, 1]), np.array([[0.1, 0.9], [0.8, 0.2]]), ("nv", "mel"))
    values = {row.metric: row for row in rows}
    assert values["accuracy"].value == 0.5
    for metric in ("balanced_accuracy", "auc"):
        assert math.isnan(values[metric].value)
        assert "'mel'" in values[metric].convention


def test_rows_of_two_classes_take_the_auc_of_the_second():
    truth = np.array([0, 0, 1, 1])
    positive = np.array([0.1, 0.6, 0.4, 0.9])
    rows = classification_rows("covid", truth, np.stack([1 - positive, positive], axis=1))
    assert {row.metric: row.value for row in rows} == pytest.approx(
        {"accuracy": 0.5, "balanced_accuracy": 0.5, "auc": 0.75}
    )
    assert {row.case for row in rows} == {""}


def test_labels_that_do_not_match_the_predictions_are_refused():
    with pytest.raises(UsageError, match="3"):
        classification_rows("covid", np.zeros(3), np.zeros((2, 2)))
