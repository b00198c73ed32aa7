"""The gamma index against closed forms, and every parameter passed on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mtl_med.errors import CaseError, GeometryError, UsageError
from mtl_med.geometry import Grid
from mtl_med.metrics.gamma import NOT_EVALUATED, GammaOptions, gamma_index, gamma_rows

SHAPE, SPACING_MM = (14, 7, 7), (2.0, 2.5, 2.5)
GRID = Grid(SHAPE, np.diag([*SPACING_MM, 1.0]))
MIDDLE = np.s_[5:9, 3:4, 3:4]  # far enough from the border for the search, and few voxels
MASK = np.zeros(SHAPE)
MASK[MIDDLE] = 1
GRADIENT = 1.2  # Gy per mm


@pytest.fixture(autouse=True)
def _pymedphys(require_judge):
    require_judge("pymedphys")


def _ramp(shift_mm: float = 0.0, grid: Grid = GRID) -> np.ndarray:
    x = grid.points_ras(np.argwhere(np.ones(grid.shape)))[:, 0].reshape(grid.shape)
    return (20.0 + GRADIENT * (x - shift_mm)).astype(np.float32)


def test_identical_doses_have_gamma_zero():
    gamma = gamma_index(_ramp(), GRID, _ramp(), GRID)
    assert gamma.values.max() == 0.0 and gamma.values.min() == 0.0 and gamma.pass_percent == 100.0


@pytest.mark.parametrize(("percent", "distance_mm", "shift_mm"), [(3, 3, 2.0), (2, 2, 1.0), (3, 3, 4.0), (5, 2, 2.0)])
def test_a_shifted_linear_gradient(percent, distance_mm, shift_mm):
    options = GammaOptions(percent, distance_mm, normalisation_gy=60.0)
    gamma = gamma_index(_ramp(), GRID, _ramp(shift_mm), GRID, options, mask=MASK)
    expected = GRADIENT * shift_mm / math.hypot(percent / 100 * 60.0, GRADIENT * distance_mm)
    assert gamma.values[MIDDLE] == pytest.approx(expected, abs=0.02)


def test_a_uniform_dose_two_percent_too_high_at_three_percent():
    dose = np.full(SHAPE, 50.0, dtype=np.float32)
    assert gamma_index(dose, GRID, dose * 1.02, GRID, mask=MASK).values[MIDDLE] == pytest.approx(2 / 3, abs=0.02)
    assert gamma_index(dose, GRID, dose * 1.04, GRID, mask=MASK).pass_percent == 0.0


def test_cropping_changes_no_value():
    """A small hot region in a larger grid: gamma there is that of the region alone."""
    rng = np.random.default_rng(1)
    reference = np.zeros(SHAPE, dtype=np.float32)
    reference[6:8, 3:5, 3:5] = 50 + rng.normal(0, 2, (2, 2, 2))
    evaluated = (reference + rng.normal(0, 1, SHAPE)).astype(np.float32)
    whole = gamma_index(reference, GRID, evaluated, GRID)
    assert np.array_equal(whole.values >= 0, reference > 10)
    affine = GRID.affine.copy()
    affine[0, 3] = 8.0
    small = gamma_index(reference[4:10], Grid((6, 7, 7), affine), evaluated, GRID)
    assert np.array_equal(small.values, whole.values[4:10])


def _gamma(**changed):
    return gamma_index(_ramp(), GRID, _ramp(2.0), GRID, GammaOptions(**changed), mask=MASK)


CHANGES = {"dose_percent": 1.0, "distance_mm": 1.0, "local": True, "normalisation_gy": 20.0, "max_gamma": 0.3}


@pytest.mark.parametrize("name", CHANGES)
def test_an_option_changes_the_result(name):
    changed = _gamma(**{name: CHANGES[name]})
    assert not np.array_equal(changed.values, _gamma().values)
    assert f"{name} {CHANGES[name]}" in gamma_rows("a", changed)[0].convention


def test_gamma_is_capped_and_the_cutoff_leaves_voxels_out():
    assert _gamma(max_gamma=0.3).values.max() == np.float32(0.3)
    reference = _ramp()[MIDDLE]
    above = _gamma(cutoff_percent=95.0)
    assert np.array_equal(above.values[MIDDLE] == NOT_EVALUATED, reference < 0.95 * reference.max())
    told = gamma_rows("a", above)[0].convention
    for word in ("pymedphys 0", "dose_percent 3", "distance_mm 3", "cutoff_percent 95", "local False", "max_gamma 2"):
        assert word in told
    assert f"normalisation_gy {float(reference.max())}" in told
    assert "interpolation scipy" in told or "interpolation pymedphys" in told


def test_a_random_subset_of_nothing_is_refused():
    with pytest.raises(UsageError, match="random_subset is 0, expected more than 0"):
        GammaOptions(random_subset=0)


def test_a_mask_and_a_random_subset_choose_the_voxels():
    reference, evaluated = _ramp(), _ramp(0.5)
    masked = gamma_index(reference, GRID, evaluated, GRID, mask=MASK)
    assert np.array_equal(masked.values >= 0, MASK > 0)
    assert masked.options.normalisation_gy == pytest.approx(float(reference[MIDDLE].max()))
    some, again, other = (
        gamma_index(reference, GRID, evaluated, GRID, GammaOptions(random_subset=9, seed=seed)) for seed in (1, 1, 2)
    )
    assert some.evaluated.size == 9 and np.array_equal(some.values, again.values)
    assert not np.array_equal(some.values, other.values)


def test_other_grids_with_parallel_axes_and_axes_that_run_backwards():
    options = GammaOptions(normalisation_gy=60.0)
    fine = Grid((27, 16, 16), np.eye(4))
    gamma = gamma_index(_ramp(), GRID, _ramp(2.0, fine), fine, options, mask=MASK)
    assert gamma.values[MIDDLE] == pytest.approx(GRADIENT * 2.0 / math.hypot(1.8, GRADIENT * 3), abs=0.02)
    flipped = np.diag([-2.0, 2.5, 2.5, 1.0])
    flipped[0, 3] = 26.0
    same = gamma_index(_ramp(), GRID, _ramp(2.0)[::-1], Grid(SHAPE, flipped), options, mask=MASK)
    usual = gamma_index(_ramp(), GRID, _ramp(2.0), GRID, options, mask=MASK)
    assert np.array_equal(same.values, usual.values)
    turned = GRID.affine.copy()
    turned[:2, :2] = np.array([[1.96, -0.5], [0.4, 2.45]])
    with pytest.raises(GeometryError, match="parallel"):
        gamma_index(_ramp(), GRID, _ramp(), Grid(SHAPE, turned))


def test_voxels_out_of_reach_are_counted_and_not_passed():
    far = GRID.affine.copy()
    far[0, 3] = 500.0
    gamma = gamma_index(_ramp(), GRID, _ramp(), Grid(SHAPE, far))
    assert gamma.outside == int((_ramp() >= 0.1 * _ramp().max()).sum()) and math.isnan(gamma.pass_percent)
    row = np.zeros(SHAPE)
    row[:, 3, 3] = 1
    near = GRID.affine.copy()
    near[0, 3] = 11.0  # covers x from 11 mm on, and gamma reaches 6 mm further: x = 6 mm is the first
    part = gamma_index(_ramp(), GRID, _ramp(-11.0), Grid(SHAPE, near), mask=row)
    assert np.array_equal(part.values[:, 3, 3] >= 0, np.arange(14) * 2.0 >= 5.0)
    assert (part.outside, part.evaluated.size) == (3, 11)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"dose_percent": 0.0}, "dose_percent"),
        ({"distance_mm": -1.0}, "distance_mm"),
        ({"max_gamma": math.nan}, "max_gamma"),
        ({"cutoff_percent": 100.0}, "cutoff"),
        ({"normalisation_gy": 0.0}, "normalisation"),
        ({"interpolation": "cubic"}, "interpolation"),
        ({"random_subset": -3}, "random_subset"),
    ],
)
def test_parameters_that_cannot_be_meant(changed, match):
    with pytest.raises(UsageError, match=match):
        GammaOptions(**changed)


def test_doses_that_cannot_be_compared():
    bad = _ramp()
    bad[3, 3, 3] = np.nan
    with pytest.raises(CaseError, match="not finite"):
        gamma_index(_ramp(), GRID, bad, GRID)
    with pytest.raises(CaseError, match="0 everywhere"):
        gamma_index(np.zeros(SHAPE), GRID, _ramp(), GRID)
    with pytest.raises(UsageError, match="shape"):
        gamma_index(_ramp(), GRID, _ramp()[1:], GRID)


def test_without_pymedphys_or_numba_the_error_names_what_to_install(monkeypatch):
    from mtl_med.metrics import gamma

    monkeypatch.setattr(gamma.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pymedphys.*pip install mtl_med\[gamma\]"):
        gamma_index(_ramp(), GRID, _ramp(), GRID)
    monkeypatch.setattr(gamma.importlib.util, "find_spec", lambda name: object() if name == "pymedphys" else None)
    with pytest.raises(UsageError, match="numba"):
        gamma_index(_ramp(), GRID, _ramp(), GRID, GammaOptions(interpolation="pymedphys"))
    assert gamma_index(_ramp(), GRID, _ramp(), GRID, mask=MASK).options.interpolation == "scipy"
