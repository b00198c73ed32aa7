"""Masks brought from the grid of a study or prediction onto the slices of a CT."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid, reorient, resample, same_grid
from mtl_med.io.dicom_reference import CtReference, affine_of
from mtl_med.io.dicom_slices import TOLERANCE_MM

__all__ = ["mask_on_slices"]

log = logging.getLogger(__name__)

TIE = 1e-3  # of a voxel: centres on the border between two voxels of a mask all belong to the same side


def mask_on_slices(
    mask: NDArray, grid: Grid, reference: CtReference, *, name: str = "a structure"
) -> NDArray[np.bool_]:
    """A mask on the slices of a CT, (X, Y, Z) as the CT stores them.

    Where the mask lies on the CT's own voxels, whatever the order of its axes, they are turned and nothing else.
    Otherwise a voxel of the CT belongs to the structure when its centre lies in a voxel of the mask. Interpolation
    with a threshold would make smoother outlines, but cut convex corners.

    Args:
        mask: (X, Y, Z) on `grid`.
        grid: its grid, RAS mm.
        reference: the CT.
        name: of the structure, for a warning that part of it lies beyond the CT.

    Raises:
        GeometryError: the mask has another shape than the grid.
    """
    if mask.shape != grid.shape:
        raise GeometryError(f"mask of shape {mask.shape} on a grid of shape {grid.shape}")
    own = reference.grid
    if own is not None:
        turned, new = reorient(np.asarray(mask, dtype=bool), grid, own.axis_codes)
        if same_grid(new, own, tolerance_mm=2 * TOLERANCE_MM):
            return turned
    result = np.zeros(reference.shape, dtype=bool)
    part, place = _cropped(mask, grid)
    if part is None:
        return result
    if own is not None:
        low, high = _extent(place, own)
        outside = float(max((-0.5 - low).max(), (high - own.shape).max() + 0.5))
        # A grid of other voxels may jut out by less than half of one, as `spacing_grid` does: no centre is lost there.
        half = np.abs(np.linalg.inv(own.affine)[:3, :3] @ place.affine[:3, :3]).sum(axis=1) / 2
        if max((-0.5 - low - half).max(), (high - half - own.shape).max() + 0.5) > TIE:
            log.warning("%s reaches %g voxels beyond the CT; that part of it is lost", name, round(outside, 1))
        _sample(part, place, own, result)
    else:
        for number in range(len(reference.slices)):
            _sample(part, place, reference.slice_grid(number), result[:, :, number : number + 1])
    return result


def _cropped(mask: NDArray, grid: Grid) -> tuple[NDArray[np.uint8] | None, Grid]:
    """The part of a mask that holds its voxels, and its grid; None when it is empty."""
    indices = [np.flatnonzero(np.any(mask, axis=tuple(other for other in range(3) if other != n))) for n in range(3)]
    if not len(indices[0]):
        return None, grid
    low = np.array([used[0] for used in indices])
    high = np.array([used[-1] + 1 for used in indices])
    part = mask[low[0] : high[0], low[1] : high[1], low[2] : high[2]].astype(np.uint8)
    return part, _moved(grid, low, part.shape)


def _moved(grid: Grid, start: NDArray, shape: Iterable[int]) -> Grid:
    """The grid whose first voxel is the one at index `start` of `grid`."""
    x, y, z = shape
    return Grid((x, y, z), affine_of(grid.affine[:3, :3], grid.points_ras(np.asarray(start)[None])[0]))


def _extent(place: Grid, target: Grid) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lowest and highest indices of `target` that the voxels of `place` reach."""
    ends = np.array(np.meshgrid(*[(-0.5, size - 0.5) for size in place.shape], indexing="ij")).reshape(3, -1).T
    inverse = np.linalg.inv(target.affine)
    corners = place.points_ras(ends) @ inverse[:3, :3].T + inverse[:3, 3]
    return corners.min(axis=0), corners.max(axis=0)


def _sample(part: NDArray[np.uint8], place: Grid, target: Grid, result: NDArray[np.bool_]) -> None:
    """Fill `result`, on `target`, where centres lie in voxels of the mask `part`."""
    first, last = _extent(place, target)
    low = np.clip(np.floor(first).astype(int), 0, target.shape)
    high = np.clip(np.ceil(last).astype(int) + 1, 0, target.shape)
    if (high > low).all():
        values = resample(part, place, _moved(target, low + TIE, high - low), order="nearest")
        result[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = values > 0
