"""Photon physics of one beam and of several, on bodies simple enough to know the answer."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.phantoms.beams import ATTENUATION_PER_MM, BIXEL_MM, Beams

AXIS = np.arange(-98.0, 99.0, 4.0)
HEIGHTS = np.arange(-30.0, 31.0, 3.0)


def water(half_mm: float = 90.0) -> np.ndarray:
    """HU of a square water column in air."""
    x, y = np.abs(AXIS[:, None, None]), np.abs(AXIS[None, :, None])
    return np.where((x <= half_mm) & (y <= half_mm), 0.0, -1024.0) * np.ones(len(HEIGHTS))


def beams_over(hu: np.ndarray, count: int) -> Beams:
    return Beams(hu, [AXIS, AXIS, HEIGHTS], (0.0, 0.0), 90.0, (-30.0, 30.0), count)


def wide_open(beams: Beams) -> np.ndarray:
    return np.ones(beams.shape, dtype=np.float32)


def test_dose_falls_exponentially_with_depth_beyond_the_build_up():
    beams = beams_over(water(), count=1)  # one beam, along +y
    y = np.array([-40.0, 0.0, 40.0, 60.0])
    dose = beams.dose(wide_open(beams), np.stack([0 * y, y, 0 * y], axis=1))
    assert np.all(np.diff(dose) < 0)
    np.testing.assert_allclose(dose / dose[0], np.exp(-ATTENUATION_PER_MM * (y - y[0])), rtol=2e-3)


def test_depth_is_counted_from_where_the_beam_enters_the_body():
    beams = beams_over(water(), count=1)
    points = np.array([[0.0, -88.0, 0.0], [0.0, 0.0, 0.0], [0.0, 88.0, 0.0]])
    entrance = -92.0  # the outer face of the first voxel of water
    np.testing.assert_allclose(beams.depth_mm(0, points), points[:, 1] - entrance, atol=1.0)


def test_bone_in_front_of_a_point_lowers_its_dose_and_air_raises_it():
    def behind(hu_of_the_slab: float) -> float:
        hu = water()
        hu[:, (AXIS > -60) & (AXIS < -30)] = hu_of_the_slab
        beams = beams_over(hu, count=1)
        return float(beams.dose(wide_open(beams), np.array([[0.0, 20.0, 0.0]]))[0])

    assert behind(800.0) < behind(0.0) < behind(-950.0)


def test_build_up_lowers_the_dose_at_the_skin():
    beams = beams_over(water(), count=1)
    skin, below = beams.dose(wide_open(beams), np.array([[0.0, -91.0, 0.0], [0.0, -76.0, 0.0]]))
    assert skin < 0.9 * below


@pytest.mark.parametrize("across", [0, 2], ids=["in-plane", "along-z"])
def test_field_edge_holds_half_the_dose_within_a_penumbra_of_millimetres(across):
    beams = beams_over(water(), count=1)
    fluence = wide_open(beams)
    centres = (np.arange(beams.shape[1]) * BIXEL_MM - 90.0, np.arange(beams.shape[2]) * BIXEL_MM - 30.0)
    edge = 22.5 if across == 0 else 12.5  # half way between two bixels
    if across == 0:
        fluence[:, np.abs(centres[0]) > edge, :] = 0
    else:
        fluence[:, :, np.abs(centres[1]) > edge] = 0
    offsets = np.arange(-12.0, 15.1, 0.5)
    points = np.zeros((len(offsets), 3))
    points[:, across] = edge + offsets
    middle = beams.dose(fluence, np.zeros((1, 3)))[0]
    profile = beams.dose(fluence, points) / middle
    assert np.all(np.diff(profile) < 1e-4)
    assert np.interp(0.0, offsets, profile) == pytest.approx(0.5, abs=0.05)
    width = offsets[profile < 0.2][0] - offsets[profile > 0.8][-1]
    assert 4.0 <= width <= 16.0


def test_turning_the_patient_by_one_beam_turns_the_dose():
    hu = water(60.0)
    hu[30:40, 10:20] = 700.0  # something that breaks the symmetry
    fluence = np.random.default_rng(0).random((4, 37, 13)).astype(np.float32)
    straight, turned = beams_over(hu, count=4), beams_over(np.rot90(hu).copy(), count=4)
    points = np.random.default_rng(1).uniform(-50, 50, (200, 3)) * (1, 1, 0.5)
    moved = np.stack([-points[:, 1], points[:, 0], points[:, 2]], axis=1)  # a quarter turn, as rot90 does
    # Beam k + 1 sees the turned patient as beam k saw the straight one.
    dose = straight.dose(fluence, points)
    np.testing.assert_allclose(turned.dose(np.roll(fluence, 1, axis=0), moved), dose, rtol=2e-3, atol=1e-3)
    assert not np.allclose(straight.dose(np.roll(fluence, 1, axis=0), moved), dose, rtol=2e-2)


def test_the_matrix_of_the_fit_and_the_dose_engine_agree():
    beams = beams_over(water(70.0), count=5)
    points = np.random.default_rng(2).uniform(-60, 60, (300, 3)) * (1, 1, 0.4)
    fluence = np.random.default_rng(3).random(beams.shape).astype(np.float32)
    by_matrix = beams.matrix(points) @ beams.blur(fluence).ravel()
    np.testing.assert_allclose(by_matrix, beams.dose(fluence, points), rtol=2e-4)


def test_blur_is_its_own_adjoint():
    beams = beams_over(water(), count=2)
    first, second = np.random.default_rng(4).random((2, *beams.shape))
    assert np.vdot(beams.blur(first), second) == pytest.approx(np.vdot(first, beams.blur(second)), rel=1e-10)
