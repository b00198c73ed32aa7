"""Doses of several grids add up on the finest one, where all of them are known, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid
from mtl_med.io.rtdose_sum import DoseSum

FINE = Grid((9, 8, 7), np.diag([2.0, 2.0, 2.0, 1.0]))


def _linear(grid: Grid, slopes: tuple[float, float, float] = (0.3, 0.2, 0.1)) -> np.ndarray:
    """10 Gy plus some per mm: linear interpolation gives it back exactly."""
    points = grid.points_ras(np.argwhere(np.ones(grid.shape)))
    return (10 + points @ slopes).reshape(grid.shape).astype(np.float32)


def _total(*grids: Grid) -> tuple[np.ndarray, Grid, tuple[str, ...]]:
    added = DoseSum()
    for grid in grids:
        added.add(_linear(grid), grid)
    return added.total("a.dcm, b.dcm")


def _grid(shape: tuple[int, int, int], spacing: float, first: tuple[float, float, float]) -> Grid:
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = first
    return Grid(shape, affine)


@pytest.mark.parametrize("finest", [0, 1], ids=["finest first", "finest last"])
def test_a_coarser_dose_comes_onto_the_finest_grid_as_far_as_both_are_known(finest: int):
    coarse = _grid((5, 5, 5), 3.5, (3.0, 1.0, -3.0))  # x 3..17, y 1..15, z -3..11: fine voxels 2..8, 1..7, 0..5
    dose_gy, grid, notes = _total(*((FINE, coarse) if finest == 0 else (coarse, FINE)))
    assert grid.shape == dose_gy.shape == (7, 7, 6) and np.allclose(grid.affine[:3, 3], (4, 2, 0))
    np.testing.assert_allclose(dose_gy, 2 * _linear(grid), rtol=1e-6)
    assert notes == (
        "the doses lie on 2 grids: they were interpolated linearly onto the finest, of 2 x 2 x 2 mm, and added where "
        "all of them are known, in 7 x 7 x 6 of its 9 x 8 x 7 voxels",
    )


def test_doses_of_one_grid_are_added_as_they_are_and_stay_what_they_were():
    dose_gy, added = _linear(FINE), DoseSum()
    for _ in range(3):
        added.add(dose_gy, Grid(FINE.shape, FINE.affine.copy()))
    total, grid, notes = added.total()
    np.testing.assert_array_equal(total, 3 * dose_gy)
    np.testing.assert_array_equal(dose_gy, _linear(FINE))
    assert grid.shape == FINE.shape and notes == ()


def test_adding_on_several_grids_changes_none_of_the_doses():
    coarse = _grid((4, 4, 4), 5.0, (0.0, 0.0, 0.0))
    doses = [(_linear(FINE), FINE), (_linear(coarse), coarse)]
    added = DoseSum()
    for dose_gy, grid in doses:
        added.add(dose_gy, grid)
    added.total()
    assert all(np.array_equal(dose_gy, _linear(grid)) for dose_gy, grid in doses)


def test_other_directions_of_the_axes_do_not_matter():
    turn = np.array([[0, 0, -1, 8], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    flipped = Grid((7, 8, 9), FINE.affine @ turn)
    dose_gy, grid, _ = _total(FINE, flipped)
    assert grid.shape == FINE.shape
    np.testing.assert_allclose(dose_gy, 2 * _linear(FINE), rtol=1e-5)


def test_of_grids_that_are_turned_against_each_other_no_unknown_voxel_is_left():
    turned = np.eye(4)
    turned[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    turned[:3, :3] *= 3.0
    turned[:3, 3] = (3.0, -1.0, 0.0)
    oblique = Grid((6, 6, 5), turned)
    dose_gy, grid, _ = _total(FINE, oblique)
    places = grid.points_ras(np.argwhere(np.ones(grid.shape)))
    index = (places - turned[:3, 3]) @ np.linalg.inv(turned[:3, :3]).T
    assert ((index > -0.01) & (index < np.array(oblique.shape) - 0.99)).all()
    assert dose_gy.size > 60
    np.testing.assert_allclose(dose_gy, 2 * _linear(grid), rtol=1e-4)


@pytest.mark.parametrize(
    "grids",
    [
        (FINE, _grid((5, 5, 5), 3.0, (100.0, 0.0, 0.0))),
        (FINE, _grid((3, 8, 7), 2.5, (0.0, 0.0, 0.0)), _grid((3, 8, 7), 2.5, (11.0, 0.0, 0.0))),
    ],
    ids=["two", "each of two meets the finest, but not the other"],
)
def test_grids_that_do_not_overlap_are_refused(grids: tuple[Grid, ...]):
    with pytest.raises(GeometryError, match=r"a\.dcm, b\.dcm: the grids of the doses to be added do not overlap"):
        _total(*grids)
