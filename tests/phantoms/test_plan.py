"""What the fitted plans of phantoms do for targets, organs and the rest of the body."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.geometry import Grid
from mtl_med.phantoms import make_phantom
from mtl_med.phantoms.plan import plan_dose
from mtl_med.phantoms.space import axes_mm

SHAPE = (64, 64, 64)


@pytest.fixture(scope="module", params=range(6), ids=lambda seed: f"seed{seed}")
def patient(request):
    return make_phantom((11, request.param), shape=SHAPE, all_contours=True)


@pytest.fixture(scope="module")
def column():
    """A water column with a target in the middle and two organs beside it, of which one is to be spared."""
    spacing = 4.0
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = -spacing * np.array([23.5, 23.5, 11.5])
    grid = Grid((48, 48, 24), affine)
    x, y, z = np.meshgrid(*axes_mm(grid), indexing="ij")
    body = x**2 + y**2 <= 80**2
    target = {"PTV70": x**2 + y**2 + z**2 <= 20**2}
    spared, other = ((x - side * 38) ** 2 + y**2 + z**2 <= 13**2 for side in (1, -1))
    hu = np.where(body, 0.0, -1024.0).astype(np.float32)
    dose = plan_dose(hu, grid, target, {"PTV70": 70.0}, {"SpinalCord": spared}, body)
    return dose, body, target["PTV70"], spared, other


def test_target_gets_its_dose_and_the_organ_less_than_its_mirror_image(column):
    dose, body, target, spared, other = column
    assert np.percentile(dose[target], 5) > 66
    assert dose[spared].mean() < 25
    assert dose[spared].mean() < 0.7 * dose[other].mean()
    assert np.all(dose[~body] == 0)


def test_dose_falls_off_outside_the_target(column):
    dose, body, target, _, other = column
    assert dose[body & ~target].mean() < 0.3 * dose[target].mean()
    assert dose[other].mean() > 5


def test_primary_target_reaches_its_prescription(patient):
    assert 66 <= np.percentile(patient.dose_gy[patient.structures["PTV70"]], 5) <= 71


def test_every_target_reaches_its_prescription(patient):
    for name, gy in patient.prescriptions_gy.items():
        dose = patient.dose_gy[patient.structures[name]]
        assert 0.94 * gy <= np.percentile(dose, 5), name
        assert gy <= dose.mean() <= gy * 1.14, name


def test_dose_has_no_hot_spots_and_none_below_zero(patient):
    assert 70 < patient.dose_gy.max() < 82
    assert patient.dose_gy.min() >= 0


def test_no_dose_outside_the_mask_and_some_almost_everywhere_inside(patient):
    assert not patient.dose_gy[~patient.possible_dose_mask].any()
    assert (patient.dose_gy[patient.possible_dose_mask] > 0.01).mean() > 0.8


def test_organs_are_spared(patient):
    dose, structures = patient.dose_gy, patient.structures
    targets = np.logical_or.reduce([structures[name] for name in patient.prescriptions_gy])
    for name in ("RightParotid", "LeftParotid"):
        assert dose[structures[name]].mean() < 0.9 * dose[targets].mean()
        outside = structures[name] & ~targets
        assert dose[outside].mean() < 0.75 * dose[targets].mean()
    assert np.percentile(dose[structures["SpinalCord"]], 99) < 48
    assert np.percentile(dose[structures["Brainstem"]], 90) < 54


def test_high_dose_conforms_to_the_targets(patient):
    """Volume of the 95 % isodose of the highest level over the volume of its target, and of half of it."""
    primary = patient.structures["PTV70"].sum()
    assert 0.9 <= (patient.dose_gy >= 0.95 * 70).sum() / primary <= 1.9
    assert 2 <= (patient.dose_gy >= 35).sum() / primary <= 14


def test_mask_is_the_body_in_the_slices_around_the_targets(patient):
    body = patient.ct_hu > -1024
    used = np.flatnonzero(patient.possible_dose_mask.any(axis=(0, 1)))
    assert np.array_equal(used, np.arange(used[0], used[-1] + 1))
    assert np.array_equal(patient.possible_dose_mask[:, :, used], body[:, :, used])
    for name in patient.prescriptions_gy:
        assert not (patient.structures[name] & ~patient.possible_dose_mask).any(), name
