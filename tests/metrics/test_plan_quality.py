"""Homogeneity, conformity, spill, fractionation and signed errors on numbers that can be worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import UsageError
from mtl_med.metrics.dose_errors import gradient_gy_per_mm, signed_error_rows
from mtl_med.metrics.plan_quality import homogeneity_index, paddick_conformity, r50
from mtl_med.metrics.radiobiology import bed_gy, dose_per_fraction_gy, eqd2_gy


def test_homogeneity_of_icru_83():
    assert homogeneity_index(np.full(50, 60.0)) == 0.0
    # 1..100 Gy: D2 = 99, D98 = 3, D50 = 51 (cumulative).
    assert homogeneity_index(np.arange(1.0, 101.0)) == pytest.approx(96 / 51)
    assert math.isnan(homogeneity_index(np.zeros(0))) and math.isnan(homogeneity_index(np.zeros(5)))


def test_paddick_and_r50_count_voxels():
    target, dose = np.zeros((4, 4, 4)), np.zeros((4, 4, 4))
    target[:2] = 1  # 32 voxels
    dose[0:3] = 60.0  # 48 voxels, 32 of them in the target
    dose[3] = 30.0
    assert paddick_conformity(target, dose, 60.0) == pytest.approx(32**2 / (32 * 48))
    assert r50(target, dose, 60.0) == pytest.approx(64 / 32)
    assert paddick_conformity(target, np.where(target, 60.0, 0.0), 60.0) == 1.0
    assert paddick_conformity(target, dose, 61.0) == 0.0
    assert math.isnan(paddick_conformity(np.zeros((4, 4, 4)), dose, 60.0)) and math.isnan(r50(dose * 0, dose, 60.0))


def test_bed_and_eqd2_by_hand():
    # 60 Gy in 20 fractions of 3 Gy at alpha/beta 3 Gy: BED 60 (1 + 3/3) = 120, EQD2 120 / (1 + 2/3) = 72.
    assert bed_gy(60.0, 20, 3.0) == pytest.approx(120.0) and eqd2_gy(60.0, 20, 3.0) == pytest.approx(72.0)
    # Fractions of 2 Gy change nothing, whatever the tissue.
    assert eqd2_gy(np.array([50.0]), 25, 1.5) == pytest.approx([50.0])
    assert dose_per_fraction_gy(70.0, 35) == pytest.approx(2.0)
    # The mean of the voxels' EQD2 is not the EQD2 of the mean.
    doses = np.array([0.0, 60.0])
    assert eqd2_gy(doses, 20, 3.0).mean() == pytest.approx(36.0) and eqd2_gy(30.0, 20, 3.0) == pytest.approx(27.0)


@pytest.mark.parametrize(
    ("fractions", "alpha_beta"), [(0, 3.0), (2.5, 3.0), (-1, 3.0), (10, 0.0), (10, math.nan), (10, math.inf)]
)
def test_fractions_and_tissues_that_cannot_be(fractions, alpha_beta):
    with pytest.raises(UsageError):
        bed_gy(50.0, fractions, alpha_beta)


def _rows(true, predicted, mask, reference_gy=100.0, spacing=(2.0, 1.0, 1.0)):
    rows = signed_error_rows("a", true, predicted, mask, spacing, reference_gy)
    return {row.metric: row.value for row in rows}


def test_signed_errors_by_band():
    true = np.array([5.0, 20.0, 40.0, 60.0, 80.0, 95.0, 110.0, 20.0]).reshape(8, 1, 1)
    predicted = true + np.array([1.0, 2.0, -4.0, 0.0, 6.0, -3.0, 5.0, -10.0]).reshape(8, 1, 1)
    mask = np.ones((8, 1, 1))
    found = _rows(true, predicted, mask)
    assert (found["signed_error"], found["overdose"], found["underdose"]) == pytest.approx((-3 / 8, 14 / 8, 17 / 8))
    assert (found["overdose_10-30%"], found["underdose_10-30%"], found["signed_error_10-30%"]) == pytest.approx(
        (1, 5, -4)
    )
    assert found["signed_error_107%up"] == pytest.approx(5.0) and found["voxels_share_10-30%"] == pytest.approx(25.0)
    assert found["signed_error_30-50%"] == pytest.approx(-4.0)
    mask[2] = 0
    assert math.isnan(_rows(true, predicted, mask)["signed_error_30-50%"])
    for name in ("", "_gradient", "_10-30%", "_107%up"):
        assert found[f"overdose{name}"] - found[f"underdose{name}"] == pytest.approx(found[f"signed_error{name}"])


def test_the_gradient_region_is_where_the_planned_dose_falls_by_three_percent_per_mm():
    true = np.zeros((12, 3, 3))
    true[:] = np.array([0, 0, 0, 0, 12, 24, 36, 48, 48, 48, 48, 48.0])[:, None, None]  # 6 Gy/mm at 2 mm
    predicted = true.copy()
    predicted[5] += 3.0
    found = _rows(true, predicted, np.ones(true.shape), reference_gy=100.0)
    # Central differences: 3 Gy/mm at both ends of the ramp (indices 3 and 7), 6 Gy/mm at 4, 5 and 6.
    assert found["voxels_share_gradient"] == pytest.approx(100 * 5 / 12)
    assert found["signed_error_gradient"] == pytest.approx(3 / 5)
    assert gradient_gy_per_mm(true, (2.0, 1.0, 1.0))[:, 1, 1].tolist() == [0, 0, 0, 3, 6, 6, 6, 3, 0, 0, 0, 0]


def test_the_gradient_knows_what_lies_beside_the_mask():
    true = np.zeros((12, 3, 3))
    true[6:] = 60.0
    mask = np.zeros(true.shape)
    mask[6, 1, 1] = 1
    assert _rows(true, true, mask)["voxels_share_gradient"] == 100.0


def test_an_empty_mask_and_bad_arguments():
    dose = np.ones((3, 3, 3))
    assert all(math.isnan(value) for value in _rows(dose, dose, np.zeros((3, 3, 3))).values())
    for bad in (np.ones((2, 3, 3)), np.ones(3)):
        with pytest.raises(UsageError, match="shape"):
            _rows(dose, bad, np.ones((3, 3, 3)))
    with pytest.raises(UsageError, match="reference"):
        _rows(dose, dose, dose, reference_gy=0.0)
