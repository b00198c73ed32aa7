"""Masks of any grid on the slices of a CT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid, reorient
from mtl_med.io.dicom_reference import find_ct_series
from mtl_med.io.slice_masks import mask_on_slices
from tests.io.small_ct import AXIAL, SHAPE, SPACING_MM, ras_affine, write_ct

COS, SIN = np.cos(0.3), np.sin(0.3)
ORIENTATIONS = {
    "supine": AXIAL,
    "prone": (-1, 0, 0, 0, -1, 0),
    "decubitus": (0, 1, 0, -1, 0, 0),
    "feet-first": (-1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (COS, SIN * COS, SIN * SIN, -SIN, COS * COS, COS * SIN),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_masks_on_the_same_voxels_are_only_turned(tmp_path: Path, orientation: str) -> None:
    affine = write_ct(tmp_path, orientation=ORIENTATIONS[orientation])
    (ct,) = find_ct_series(tmp_path).values()
    mask = np.random.default_rng(0).random(SHAPE) < 0.5
    for codes in ("RAS", "LPS", "SAR"):
        turned, grid = reorient(mask, Grid(SHAPE, ras_affine(affine)), codes)
        assert np.array_equal(mask_on_slices(turned, grid, ct), mask)


def test_masks_of_another_grid_keep_volume_and_place(tmp_path: Path) -> None:
    """Balls of 12 mm radius on voxels of 0.9 mm: on the CT their mean volume is the same within half a percent."""
    affine = write_ct(tmp_path, shape=(60, 50, 24), spacing_mm=(1.0, 1.3, 2.0))
    (ct,) = find_ct_series(tmp_path).values()
    volumes, shifts, rng = [], [], np.random.default_rng(0)
    for _ in range(10):
        fine = np.array(ras_affine(affine))
        fine[:3, :3] = fine[:3, :3] / np.array([1.0, 1.3, 2.0]) * 0.9
        fine[:3, 3] += rng.random(3)
        grid = Grid((66, 72, 53), fine)
        centre = ct.grid.points_ras(np.array([[29.0, 24.0, 11.0]]) + rng.random(3))
        points = grid.points_ras(np.argwhere(np.ones(grid.shape)))
        ball = (np.linalg.norm(points - centre, axis=1) < 12).reshape(grid.shape)
        found = mask_on_slices(ball, grid, ct)
        volumes.append(found.sum() * ct.grid.voxel_volume_mm3)
        shifts.append(ct.grid.centroid_ras(found) - centre[0])
    assert np.mean(volumes) == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.005)
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.1


def test_centres_on_a_border_go_to_one_side(tmp_path: Path) -> None:
    """On voxels of twice the size every second centre of the CT lies between two of them."""
    write_ct(tmp_path, shape=(40, 40, 12), spacing_mm=(1.0, 1.0, 3.0))
    (ct,) = find_ct_series(tmp_path).values()
    coarse = np.array(ct.grid.affine)
    coarse[:3, :2] *= 2
    mask = np.zeros((20, 20, 12), dtype=bool)
    mask[5:11, 7:15, 4:6] = True
    found = mask_on_slices(mask, Grid(mask.shape, coarse), ct)
    assert found.sum() == 4 * mask.sum()


def test_each_of_uneven_slices_gets_what_lies_there(tmp_path: Path) -> None:
    write_ct(tmp_path, shape=(20, 20, 5), spacing_mm=(2.0, 2.0, 3.0), offsets_mm=[0, 3, 5, 11, 12])
    (ct,) = find_ct_series(tmp_path).values()
    grid = Grid((20, 20, 13), ct.slice_grid(0).affine)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[4:9, 5:12, 3:12] = True
    found = mask_on_slices(mask, grid, ct)
    assert found.any(axis=(0, 1)).tolist() == [False, True, True, True, False]
    assert np.array_equal(found[:, :, 2], mask[:, :, 5])


def test_masks_that_leave_the_ct(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ct(tmp_path)
    (ct,) = find_ct_series(tmp_path).values()
    affine = np.array(ct.grid.affine)
    affine[0, 3] += 20 * SPACING_MM[0] * (1 if affine[0, 0] < 0 else -1)
    half = mask_on_slices(np.ones(SHAPE), Grid(SHAPE, affine), ct)
    assert half.sum() == 28 * SHAPE[1] * SHAPE[2]
    assert "a structure reaches 20 voxels beyond the CT" in caplog.text
    affine[2, 3] += 1000
    assert not mask_on_slices(np.ones(SHAPE), Grid(SHAPE, affine), ct).any()
    assert not mask_on_slices(np.zeros((4, 4, 4)), Grid((4, 4, 4), np.eye(4)), ct).any()


@pytest.mark.parametrize(("beyond_mm", "is_lost"), [(3.0, True), (1.4, False)])
def test_a_last_slice_that_the_ct_lacks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, beyond_mm: float, is_lost: bool
) -> None:
    """A whole slice less is told; a grid that juts out by less than half a voxel loses nothing."""
    write_ct(tmp_path)
    (ct,) = find_ct_series(tmp_path).values()
    affine = np.array(ct.grid.affine)
    affine[2, 3] += beyond_mm
    mask_on_slices(np.ones(SHAPE), Grid(SHAPE, affine), ct, name="Bladder")
    assert ("Bladder reaches 1 voxels beyond the CT; that part of it is lost" in caplog.text) == is_lost


def test_a_mask_of_another_shape_than_its_grid(tmp_path: Path) -> None:
    write_ct(tmp_path)
    (ct,) = find_ct_series(tmp_path).values()
    with pytest.raises(GeometryError, match=r"mask of shape \(2, 2, 2\) on a grid of shape \(48, 40, 12\)"):
        mask_on_slices(np.zeros((2, 2, 2)), ct.grid, ct)
