"""Intervals and p-values against scipy, published tables and what can be counted by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from mtl_med.comparison.samples import means
from mtl_med.comparison.statistics import Difference, holm, t_interval
from mtl_med.comparison.statistics import paired_bootstrap as of_samples
from mtl_med.errors import UsageError
from mtl_med.metrics.relative import relative_performance

NAN = math.nan


class TestTInterval:
    @pytest.mark.parametrize("count", [2, 3, 5, 20])
    def test_is_scipys(self, count: int) -> None:
        values = np.random.default_rng(count).normal(3.0, 0.2, count)
        found = t_interval(values.tolist())
        expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
        assert (found.mean, found.count) == (pytest.approx(values.mean()), count)

    def test_two_values_by_hand(self) -> None:
        found = t_interval([1.0, 2.0])  # t(1 degree of freedom) = 12.7062, standard error 0.5
        assert (found.low, found.high) == pytest.approx((1.5 - 6.3531, 1.5 + 6.3531), abs=1e-4)

    def test_one_value_has_no_interval(self) -> None:
        found = t_interval([2.0, NAN])
        assert (found.mean, found.count) == (2.0, 1)
        assert math.isnan(found.low) and math.isnan(found.high)

    def test_no_value(self) -> None:
        assert math.isnan(t_interval([NAN]).mean)


class TestHolm:
    def test_by_hand(self) -> None:
        # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1 = 0.04, 0.06, 0.06, 0.04, each at least the one before.
        assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])

    def test_never_above_one(self) -> None:
        assert holm([0.9, 0.8]) == [1.0, 1.0]

    def test_one_method_is_not_corrected(self) -> None:
        assert holm([0.03]) == [0.03]

    def test_what_is_undefined_is_no_comparison(self) -> None:
        found = holm([0.02, NAN, 0.03])
        assert found[0] == pytest.approx(0.04) and found[2] == pytest.approx(0.04)
        assert math.isnan(found[1])


def scores(patients: int = 30, effect: float = 0.02, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Dice and dose score of a baseline and a method that is a little better at both."""
    rng = np.random.default_rng(seed)
    base = np.stack([rng.uniform(0.5, 0.9, patients), rng.uniform(2.0, 5.0, patients)], axis=1)
    gain = rng.normal(effect, 0.05, (patients, 2)) * [1, -1]
    return base, base * (1 + gain)


def paired_bootstrap(base: np.ndarray, method: np.ndarray, higher: list[bool], **options: int) -> list[Difference]:
    """Of means over patients, (P, M)."""
    return of_samples([means(column) for column in base.T], [means(column) for column in method.T], higher, **options)


class TestPairedBootstrap:
    def test_intervals_are_those_of_scipy(self) -> None:
        base, method = scores()
        found = paired_bootstrap(base, method, [True, False], draws=20_000)
        for i in range(2):
            judge = scipy.stats.bootstrap(
                (method[:, i], base[:, i]),
                lambda a, b, axis: np.mean(a - b, axis=axis),
                paired=True,
                method="percentile",
                n_resamples=20_000,
                rng=np.random.default_rng(1),
            ).confidence_interval
            width = judge.high - judge.low
            assert (found[i].low, found[i].high) == pytest.approx((judge.low, judge.high), abs=0.03 * width)
            assert found[i].value == pytest.approx((method[:, i] - base[:, i]).mean())

    def test_last_is_equation_3_of_the_means(self) -> None:
        base, method = scores()
        found = paired_bootstrap(base, method, [True, False])[-1]
        expected = relative_performance(base.mean(0).tolist(), method.mean(0).tolist(), [True, False])
        assert found.value == pytest.approx(expected, rel=1e-12)
        assert found.low < expected < found.high

    def test_p_is_near_that_of_a_paired_t_test(self) -> None:
        for effect in (0.0, 0.012):
            base, method = scores(60, effect, seed=3)
            found = paired_bootstrap(base, method, [True, False])
            for i in range(2):
                judge = scipy.stats.ttest_rel(method[:, i], base[:, i]).pvalue
                assert found[i].p == pytest.approx(judge, abs=0.03)

    def test_a_difference_in_every_patient_has_the_smallest_p(self) -> None:
        base = np.full((5, 1), 2.0)
        (found, _) = paired_bootstrap(base, base - 0.5, [False], draws=999)
        assert (found.value, found.low, found.high, found.p) == (-0.5, -0.5, -0.5, 2 / 1000)

    def test_no_difference_at_all(self) -> None:
        base, _ = scores()
        for found in paired_bootstrap(base, base, [True, False]):
            assert (found.value, found.p) == (0.0, 1.0)
            assert found.low == found.high == 0.0

    def test_order_of_the_patients_does_not_matter(self) -> None:
        base, method = scores(200)
        turned = paired_bootstrap(base[::-1], method[::-1], [True, False])
        for one, other in zip(paired_bootstrap(base, method, [True, False]), turned, strict=True):
            assert one.value == pytest.approx(other.value)
            assert one.low == pytest.approx(other.low, abs=0.05 * abs(one.high - one.low))

    def test_undefined_in_either_is_left_out_of_that_metric(self) -> None:
        base, method = scores(6)
        base[0, 0], method[1, 0], method[2, 1] = NAN, NAN, NAN
        dice, dose, both = paired_bootstrap(base, method, [True, False])
        assert (dice.patients, dose.patients, both.patients) == (4, 5, 4)
        assert dice.value == pytest.approx((method - base)[2:, 0].mean())
        assert dose.value == pytest.approx((method - base)[[0, 1, 3, 4, 5], 1].mean())

    def test_same_seed_same_numbers(self) -> None:
        base, method = scores()
        assert paired_bootstrap(base, method, [True, False]) == paired_bootstrap(base, method, [True, False])
        assert paired_bootstrap(base, method, [True, False], seed=1) != paired_bootstrap(base, method, [True, False])

    @pytest.mark.parametrize("patients", [0, 1])
    def test_one_patient_has_no_interval(self, patients: int) -> None:
        base, method = scores(patients)
        for found in paired_bootstrap(base, method, [True, False]):
            assert math.isnan(found.p) and math.isnan(found.low)
            assert found.patients == patients

    def test_shapes_must_agree(self) -> None:
        with pytest.raises(UsageError, match=r"1 and 1 scores, 1 directions, patients: \[2, 3\]"):
            paired_bootstrap(np.ones((3, 1)), np.ones((2, 1)), [True])
