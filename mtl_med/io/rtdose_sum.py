"""Doses of one patient added up, on one grid or several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid, covered, resample, same_grid

__all__ = ["DoseSum"]


class DoseSum:
    """A sum of doses. Those on one grid are added as they come, so that memory holds one array per grid."""

    def __init__(self) -> None:
        self._sums: list[NDArray[np.float32]] = []
        self._grids: list[Grid] = []
        self._own: list[bool] = []  # whether a sum is an array of ours, which may be changed

    def add(self, dose_gy: NDArray[np.float32], grid: Grid) -> None:
        """Add a dose; it is not changed.

        Args:
            dose_gy: (X, Y, Z) Gy.
            grid: its grid.
        """
        for at, known in enumerate(self._grids):
            if same_grid(known, grid):
                total = self._sums[at]
                self._sums[at] = np.add(total, dose_gy, out=total if self._own[at] else None)
                self._own[at] = True
                return
        self._sums.append(dose_gy)
        self._grids.append(grid)
        self._own.append(False)

    def total(self, where: str = "") -> tuple[NDArray[np.float32], Grid, tuple[str, ...]]:
        """The sum, its grid, and sentences about what was done.

        Doses of several grids are interpolated linearly onto the one of the smallest voxels, and added on the box of it
        where all of them are known: beyond its outermost voxel centres a dose is unknown, and not 0.

        Args:
            where: the doses, for errors.

        Raises:
            GeometryError: the grids do not overlap.
        """
        if len(self._grids) == 1:
            return self._sums[0], self._grids[0], ()
        finest = min(range(len(self._grids)), key=lambda at: self._grids[at].voxel_volume_mm3)
        grid, total = self._grids[finest], self._sums[finest].copy(order="K")
        known = np.ones(grid.shape, dtype=bool)
        for at, (dose_gy, own) in enumerate(zip(self._sums, self._grids, strict=True)):
            if at == finest:
                continue
            total += resample(dose_gy, own, grid)
            known &= covered(own, grid)
        if not known.any():
            raise GeometryError(
                "the grids of the doses to be added do not overlap",
                where=where,
                fix="Check that they belong to one treatment, or leave the one that is meant",
            )
        box = _box_within(known)
        part = _part(grid, box)
        spacing, kept, all_of_it = ("{} x {} x {}".format(*sizes) for sizes in (_short(grid), part.shape, grid.shape))
        note = (
            f"the doses lie on {len(self._grids)} grids: they were interpolated linearly onto the finest, of {spacing} "
            f"mm, and added where all of them are known, in {kept} of its {all_of_it} voxels"
        )
        return np.asfortranarray(total[box]), part, (note,)


def _short(grid: Grid) -> list[str]:
    return [f"{mm:.4g}" for mm in grid.spacing_mm]


def _part(grid: Grid, box: Sequence[slice]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, 3] = grid.points_ras(np.array([[side.start for side in box]]))[0]
    return Grid((box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start), affine)


def _box_within(known: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """A box without unknown voxels: faces with the largest unknown share go first. Of parallel grids it is all known.

    The known part is convex, so that a box whose faces are known is known throughout.
    """
    places = np.argwhere(known)
    sides = [slice(low, high + 1) for low, high in zip(places.min(axis=0), places.max(axis=0), strict=True)]
    while True:
        part = known[tuple(sides)]
        faces = [(axis, end, part.take(end, axis)) for axis in range(3) if part.shape[axis] > 1 for end in (0, -1)]
        axis, end, face = min(faces, key=lambda item: item[2].mean(), default=(0, 0, part))
        if face.all():
            return sides[0], sides[1], sides[2]
        side = sides[axis]
        sides[axis] = slice(side.start + 1, side.stop) if end == 0 else slice(side.start, side.stop - 1)
