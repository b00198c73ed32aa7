"""Temperature and operating point against values that are known without fitting."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.calibration import Calibration, ece, fit_calibration, reliability

FAIR = (0.5, 0.5)


def drawn(cases: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from the softmax of the logits: the temperature of these logits is 1."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(scale=1.5, size=(cases, classes))
    chances = np.cumsum(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), axis=1)
    return (generator.random((cases, 1)) > chances[:, :-1]).sum(axis=1), logits


def test_temperature_of_two_kinds_of_cases_is_known_in_closed_form():
    # Nine of twelve cases are as their logits (0, 2) say: sigmoid(2 / T) = 3/4, hence T = 2 / ln 3.
    found = fit_calibration([1] * 9 + [0] * 3, np.tile([0.0, 2.0], (12, 1)), FAIR)
    assert found.temperature == pytest.approx(2 / math.log(3), rel=1e-9)
    assert found.probabilities([[0.0, 2.0]])[0] == pytest.approx([0.25, 0.75])
    assert found.cases == 12


def test_temperature_is_the_minimum_of_the_likelihood_and_follows_the_scale_of_the_logits():
    from scipy.optimize import minimize_scalar

    truth, logits = drawn(400, 4)

    def loss(temperature: float) -> float:
        probabilities = Calibration((0.25,) * 4, temperature).probabilities(5 * logits)
        return -np.log(probabilities[np.arange(400), truth]).mean()

    found = fit_calibration(truth, 5 * logits, (1, 1, 1, 1))
    judge = minimize_scalar(loss, bounds=(0.05, 100), method="bounded", options={"xatol": 1e-10})
    assert found.temperature == pytest.approx(judge.x, abs=1e-5)
    assert found.temperature == pytest.approx(5 * fit_calibration(truth, logits, (1, 1, 1, 1)).temperature, rel=1e-9)
    assert (
        ece(truth, found.probabilities(5 * logits)) < 0.07 < ece(truth, Calibration.absent(4).probabilities(5 * logits))
    )


def test_threshold_lies_half_way_between_the_neighbouring_probabilities_of_the_best_split():
    chance = np.array([0.05] * 6 + [0.1, 0.3, 0.2, 0.7, 0.8, 0.9])
    truth = np.array([0] * 8 + [1] * 4)
    # Youden's J: above 0.1: 1 + 7/8; above 0.3: 3/4 + 1. The first is the larger.
    logits = np.stack([np.zeros(12), np.log(chance / (1 - chance))], axis=1)
    found = fit_calibration(truth, logits, FAIR)
    calibrated = found.probabilities(logits)[:, 1]
    assert found.threshold == pytest.approx((calibrated[6] + calibrated[8]) / 2)
    assert found.decide(logits).tolist() == [0] * 7 + [1] * 5


def test_threshold_beats_every_other_threshold():
    truth, logits = drawn(80, 2, seed=3)
    found = fit_calibration(truth, logits, FAIR)
    chance = found.probabilities(logits)[:, 1]

    def youden(threshold: float) -> float:
        return (chance[truth == 1] >= threshold).mean() + (chance[truth == 0] < threshold).mean()

    assert youden(found.threshold) == pytest.approx(max(youden(value) for value in chance))


def test_prior_exponent_undoes_the_favour_of_a_common_class():
    # Logits shifted by the log of the priors, as a network that has seen the classes so often gives them.
    truth, logits = drawn(600, 3, seed=5)
    priors = np.array([0.9, 0.08, 0.02])
    found = fit_calibration(truth, logits + np.log(priors), priors)
    assert 0.8 < found.prior_exponent * found.temperature < 1.3
    assert (found.decide(logits + np.log(priors)) == truth).mean() > (
        Calibration.absent(3).decide(logits + np.log(priors)) == truth
    ).mean()


def test_prior_exponent_is_zero_where_all_is_right_without():
    logits = 4 * np.eye(3)[[0, 1, 2] * 5]
    found = fit_calibration([0, 1, 2] * 5, logits, (8, 1, 1))
    assert (found.prior_exponent, found.temperature) == (0.0, 1.0)
    assert "no temperature is the best" in found.reason


def test_a_class_that_was_never_fitted_to_is_not_decided_for_by_its_prior():
    found = Calibration((0.6, 0.4, 0.0), prior_exponent=1.0)
    assert found.decide([[0.0, 0.0, -5.0]]).tolist() == [1]


@pytest.mark.parametrize(
    ("truth", "reason"),
    [
        ([0, 1] * 4, "8 cases, of at least 10 needed"),
        ([1] * 12, "only class 1 is present in 12 cases"),
        ([], "0 cases"),
    ],
    ids=["few", "one class", "none"],
)
def test_nothing_is_fitted_to_too_little_and_it_says_so(truth, reason):
    found = fit_calibration(truth, np.random.default_rng(0).normal(size=(len(truth), 2)), (3, 1))
    assert (found.temperature, found.threshold, found.cases) == (1.0, 0.5, 0)
    assert found.priors == (0.75, 0.25)
    assert reason in found.reason


def test_extreme_logits_stay_finite():
    truth, logits = drawn(60, 3)
    found = fit_calibration(truth, 1e30 * logits, (1, 1, 1))
    assert found.temperature == 100.0
    assert "limit 100" in found.reason
    assert np.isfinite(found.probabilities(1e30 * logits)).all()
    weak = fit_calibration(truth, 1e-6 * logits, (1, 1, 1))
    assert weak.temperature == 0.05


def test_logits_that_are_not_finite_are_left_out_counted_and_never_decided():
    truth, logits = drawn(40, 3)
    broken = logits.copy()
    broken[3], broken[7, 1] = np.nan, np.inf
    found = fit_calibration(truth, broken, (1, 1, 1))
    kept = np.delete(np.arange(40), [3, 7])
    assert found.temperature == fit_calibration(truth[kept], logits[kept], (1, 1, 1)).temperature
    assert "2 of 40" in found.reason
    assert np.isnan(found.probabilities(broken)[[3, 7]]).all()
    with pytest.raises(UsageError, match="2 of 40 images are not finite"):
        found.decide(broken)


@pytest.mark.parametrize("classes", [2, 3])
def test_json_form_gives_the_same_calibration(classes):
    truth, logits = drawn(50, classes, seed=1)
    found = fit_calibration(truth, logits, range(1, classes + 1))
    fields = json.loads(json.dumps(found.to_dict()))
    assert Calibration.from_dict(fields) == found
    assert ("threshold" in fields) == (classes == 2) != ("prior_exponent" in fields)


@pytest.mark.parametrize(
    "change", [{"temperature": 0}, {"temperature": "hot"}, {"threshold": math.nan}, {"priors": [1.0]}]
)
def test_an_impossible_json_form_is_refused(change):
    with pytest.raises(UsageError, match="calibration"):
        Calibration.from_dict(Calibration(FAIR).to_dict() | change)


@pytest.mark.parametrize(
    ("truth", "logits", "priors", "message"),
    [
        ([0] * 3, np.zeros((4, 2)), FAIR, "3 labels against 4"),
        ([0, 2] * 5, np.zeros((10, 2)), FAIR, "indices 0 to 1"),
        ([0] * 10, np.zeros((10, 3)), FAIR, r"expected \(images, 2\)"),
        ([0] * 10, np.zeros((10, 2)), (0, 0), "priors"),
    ],
    ids=["count", "label", "classes", "priors"],
)
def test_what_does_not_fit_together_is_refused(truth, logits, priors, message):
    with pytest.raises(UsageError, match=message):
        fit_calibration(truth, logits, priors)


def test_ece_of_two_bins_by_hand():
    # Called 0.4 five times, so once: 0.2; called 1 five times, so three times: 0.4.
    probabilities = np.array([[0.6, 0.4]] * 5 + [[0.0, 1.0]] * 5)
    truth = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0]
    assert ece(truth, probabilities) == pytest.approx(0.3)
    chance, share, count = reliability(truth, probabilities, bins=5)
    assert count.tolist() == [0, 5, 0, 0, 5]
    assert (chance[1], share[1], chance[4], share[4]) == pytest.approx((0.4, 0.2, 1.0, 0.6))
    assert math.isnan(ece([], np.zeros((0, 2))))


def test_absent_calibration_is_softmax_and_the_most_probable_class():
    logits = np.array([[0.0, math.log(3)], [1.0, 0.0]])
    plain = Calibration.absent(2)
    assert plain.probabilities(logits)[0] == pytest.approx([0.25, 0.75])
    assert plain.decide(logits).tolist() == [1, 0]
