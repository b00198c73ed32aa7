"""Dose scores on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.dose import (
    dose_at_hottest_cc,
    dose_at_volume,
    dose_rows,
    dose_score,
    dvh_metrics,
    dvh_score,
    mae_in_mask,
    mae_whole_grid,
)

NINETEEN_AND_ONE = np.array([60.0] * 19 + [40.0])


def _four_voxels() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True dose, prediction with something outside the mask, mask of two voxels."""
    true = np.array([[[10.0, 20.0, 0.0, 0.0]]])
    predicted = np.array([[[13.0, 19.0, 8.0, 0.0]]])
    return true, predicted, np.array([[[1, 1, 0, 0]]])


def test_the_three_errors_differ_by_what_they_divide_by_and_what_they_see():
    true, predicted, mask = _four_voxels()
    assert dose_score(true, predicted, mask) == pytest.approx((3 + 1) / 2)
    assert mae_in_mask(true, predicted, mask) == pytest.approx((3 + 1) / 2)
    assert mae_whole_grid(true, predicted) == pytest.approx((3 + 1 + 8) / 4)


def test_dose_score_counts_true_dose_outside_the_mask_and_the_mae_does_not():
    true, predicted, mask = _four_voxels()
    true = true + np.array([[[0, 0, 0, 6.0]]])
    assert dose_score(true, predicted, mask) == pytest.approx((3 + 1 + 6) / 2)
    assert mae_in_mask(true, predicted, mask) == pytest.approx((3 + 1) / 2)


def test_an_empty_mask_has_no_score():
    assert math.isnan(dose_score(np.ones((2, 2, 2)), np.ones((2, 2, 2)), np.zeros((2, 2, 2))))
    assert math.isnan(mae_in_mask(np.ones((2, 2, 2)), np.ones((2, 2, 2)), np.zeros((2, 2, 2))))


def test_a_dose_of_another_shape_is_refused():
    with pytest.raises(UsageError, match=r"\(2, 2, 3\).*\(2, 2, 2\)"):
        mae_whole_grid(np.ones((2, 2, 2)), np.ones((2, 2, 3)))


@pytest.mark.parametrize(("convention", "d95"), [("linear", 59.0), ("cumulative", 60.0)])
def test_d95_of_nineteen_voxels_at_60_and_one_at_40(convention, d95):
    assert dose_at_volume(NINETEEN_AND_ONE, 95, convention) == pytest.approx(d95, abs=1e-12)


@pytest.mark.parametrize(
    ("percent", "expected"), [(100, 1.0), (99, 2.0), (95, 6.0), (50, 51.0), (1, 100.0), (0.5, 100.0)]
)
def test_cumulative_dose_at_volume_is_the_largest_dose_that_so_many_voxels_reach(percent, expected):
    doses = np.arange(1.0, 101.0)
    found = dose_at_volume(doses, percent, "cumulative")
    assert found == expected
    assert (doses >= found).mean() * 100 >= percent


@pytest.mark.parametrize("count", [3, 7, 20, 41, 100, 1000])
@pytest.mark.parametrize("percent", [99, 95, 50, 1])
def test_cumulative_matches_its_definition_by_exhaustion(count, percent):
    doses = np.random.default_rng(count).gamma(3.0, 10.0, count)
    fitting = [dose for dose in doses if np.sum(doses >= dose) * 100 >= percent * count]
    assert dose_at_volume(doses, percent, "cumulative") == max(fitting)


def test_a_volume_of_exactly_so_many_voxels_needs_no_more_for_rounding():
    # 2.2 % of 1500 voxels are 33, while 2.2 * 1500 / 100 is a little more in binary.
    assert dose_at_volume(np.arange(1500.0), 2.2, "cumulative") == 1499 - 32


def test_an_unknown_convention_is_refused_with_the_known_ones():
    with pytest.raises(UsageError, match="linear"):
        dose_at_volume(NINETEEN_AND_ONE, 95, "liner")


@pytest.mark.parametrize(
    ("convention", "voxel_mm3", "expected"),
    [
        # 100 mm^3 are 10 voxels of 10 mm^3 out of 20: the 50th percentile of 1..20 lies at 10.5.
        ("linear", 10.0, 10.5),
        ("cumulative", 10.0, 11.0),
        # 2.36 voxels: OpenKBP rounds to 2, "at least 0.1 cc" needs 3.
        ("linear", 42.4, 18.1),
        ("cumulative", 42.4, 18.0),
        # A voxel above 200 mm^3 would round to none: at least one counts.
        ("linear", 500.0, 19 * 0.95 + 1),
        ("cumulative", 500.0, 20.0),
        # The structure is smaller than 0.1 cc: the percentile would be negative and is clipped.
        ("linear", 1.0, 1.0),
        ("cumulative", 1.0, 1.0),
    ],
)
def test_dose_at_the_hottest_tenth_of_a_cc(convention, voxel_mm3, expected):
    assert dose_at_hottest_cc(np.arange(1.0, 21.0), voxel_mm3, convention) == pytest.approx(expected, abs=1e-12)


def test_oars_and_targets_have_their_own_metrics():
    dose = np.arange(27.0).reshape(3, 3, 3)
    everywhere = np.ones((3, 3, 3))
    assert dvh_metrics(dose, everywhere, kind="oar", voxel_mm3=100.0) == pytest.approx(
        {"D_0.1cc": np.percentile(dose, 100 - 100 / 27), "mean": 13.0}
    )
    assert dvh_metrics(dose, everywhere, kind="target", voxel_mm3=100.0) == pytest.approx(
        {"D_99": 0.26, "D_95": 1.3, "D_1": 25.74}
    )


def test_d99_is_the_cold_end_and_d1_the_hot_end():
    doses = np.arange(101.0)
    assert (dose_at_volume(doses, 99), dose_at_volume(doses, 1)) == (1.0, 99.0)


def _row_value(rows, metric, structure="", convention="linear"):
    (value,) = [r.value for r in rows if (r.metric, r.structure, r.convention) == (metric, structure, convention)]
    return value


def test_rows_of_a_case_and_the_flat_mean_over_structures_and_metrics():
    true = np.full((2, 2, 2), 50.0)
    predicted = true + 2.0
    predicted[0] = 45.0
    first, second = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    first[0], second[1] = 1, 1
    structures = {"Cord": ("oar", first), "PTV": ("target", second), "Empty": ("oar", np.zeros((2, 2, 2)))}
    rows = dose_rows("a", true, predicted, np.ones((2, 2, 2)), structures, voxel_mm3=30.0)
    assert _row_value(rows, "mean_abs_error", "Cord", "") == pytest.approx(5.0)
    assert _row_value(rows, "mean_signed_error", "Cord", "") == pytest.approx(-5.0)
    assert _row_value(rows, "mean_true", "Cord", "") == pytest.approx(50.0)
    assert _row_value(rows, "D_95_signed_error", "PTV") == pytest.approx(2.0)
    assert _row_value(rows, "D_95_predicted", "PTV") == pytest.approx(52.0)
    assert {row.structure for row in rows} == {"", "Cord", "PTV"}
    # Two values of 5 Gy for the organ and three of 2 Gy for the target: the mean is flat, not per structure.
    assert dvh_score(rows) == pytest.approx((2 * 5 + 3 * 2) / 5)
    assert dvh_score(rows, "cumulative") == pytest.approx((2 * 5 + 3 * 2) / 5)
    assert all(row.unit == "Gy" and (row.convention or row.metric.startswith("mean_")) for row in rows)
    assert len({(row.structure, row.metric, row.convention) for row in rows}) == len(rows)
    assert [row.metric for row in rows if row.metric.startswith("mean_")] == [
        *("mean_true", "mean_predicted", "mean_abs_error", "mean_signed_error")
    ]


def test_the_prediction_outside_the_mask_changes_no_dvh():
    mask = np.zeros((2, 2, 2))
    mask[0] = 1
    cord = {"Cord": ("oar", np.ones((2, 2, 2)))}
    quiet, loud = np.zeros((2, 2, 2)), np.zeros((2, 2, 2))
    loud[1] = 70.0
    both = [dose_rows("a", np.zeros((2, 2, 2)), dose, mask, cord, voxel_mm3=30.0) for dose in (quiet, loud)]
    assert _row_value(both[1], "D_0.1cc_predicted", "Cord") == 0.0
    assert dvh_score(both[0]) == dvh_score(both[1]) == 0.0


def test_voxels_whose_planned_dose_is_unknown_count_in_no_dvh():
    """An organ half outside of the dose grid would get half its mean, and half its error."""
    true, predicted, mask = _four_voxels()
    organ, known = np.array([[[0, 1, 1, 0]]]), mask > 0
    structures = {"Rectum": ("oar", organ), "Femur": ("oar", np.array([[[0, 0, 0, 1]]]))}
    rows = dose_rows("a", true, predicted, mask, structures, voxel_mm3=1000.0, known=known)
    found = {(row.structure, row.metric): row.value for row in rows}
    assert (found["Rectum", "mean_true"], found["Rectum", "mean_abs_error"]) == (20.0, 1.0)
    assert ("Femur", "mean_true") not in found
    plain = dose_rows("a", true, predicted, mask, structures, voxel_mm3=1000.0)
    assert {(row.structure, row.metric): row.value for row in plain}["Rectum", "mean_true"] == 10.0
    assert dvh_score(rows) > dvh_score(plain)


def test_no_structure_gives_no_dvh_score():
    assert math.isnan(dvh_score([]))
