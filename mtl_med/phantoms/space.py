"""The patient's own space: anatomical millimetres at every voxel, and the few solids that anatomy is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_med.geometry import Grid

__all__ = ["Floats", "Mask", "Space", "axes_mm"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

WARP_NODE_MM = 45.0  # distance between the nodes of the random deformation
BOX_MARGIN_MM = 25.0  # the deformation and the scale move nothing further than this


def axes_mm(grid: Grid) -> list[NDArray[np.float64]]:
    """RAS mm of the voxel centres along the three axes of a RAS grid."""
    return [grid.affine[i, 3] + grid.affine[i, i] * np.arange(grid.shape[i]) for i in range(3)]


class Space:
    """Anatomical coordinates of the voxels of a RAS grid, after size, position and a smooth random deformation.

    Anatomical axes: x to the right, y to the front, z up, mm; the origin lies in the midline at the height of the
    lower jaw. Every solid is drawn in these coordinates, so that one deformation bends the whole patient.

    Args:
        grid: RAS grid with axes along the array axes.
        shift_mm: where the anatomical origin lies, RAS mm.
        scale: size of the patient along the three axes, 1 is average.
        warp_mm: standard deviation of the deformation, mm.
        rng: source of the deformation.
    """

    def __init__(
        self,
        grid: Grid,
        shift_mm: Sequence[float],
        scale: Sequence[float],
        warp_mm: float,
        rng: np.random.Generator,
    ) -> None:
        self.shape = grid.shape
        self.axes = [(axis - shift_mm[i]) / scale[i] for i, axis in enumerate(axes_mm(grid))]
        coordinates = np.meshgrid(*self.axes, indexing="ij", copy=False)
        self.x, self.y, self.z = (
            (coordinate + warp_mm * _smooth_field(self.axes, rng)).astype(np.float32) for coordinate in coordinates
        )

    def empty(self) -> Mask:
        """A mask with nothing in it."""
        return np.zeros(self.shape, dtype=bool)

    def box(self, low: ArrayLike, high: ArrayLike) -> tuple[slice, slice, slice]:
        """Array slices that hold everything between two anatomical corners, mm."""
        slices = []
        for axis, lowest, highest in zip(self.axes, np.asarray(low), np.asarray(high), strict=True):
            first, last = np.searchsorted(axis, [lowest - BOX_MARGIN_MM, highest + BOX_MARGIN_MM])
            slices.append(slice(int(first), int(last)))
        return slices[0], slices[1], slices[2]

    def ellipsoid(self, centre: ArrayLike, radii: ArrayLike, power: float = 2.0) -> Mask:
        """A solid |dx/rx|^p + |dy/ry|^p + |dz/rz|^p <= 1; a power above 2 is boxier. All in mm."""
        middle, half = np.asarray(centre, dtype=np.float32), np.asarray(radii, dtype=np.float32)
        box = self.box(middle - half, middle + half)
        level = sum(
            np.abs((axis[box] - c) / r) ** np.float32(power)
            for axis, c, r in zip((self.x, self.y, self.z), middle, half, strict=True)
        )
        mask = self.empty()
        mask[box] = level <= 1
        return mask

    def tube(self, knots: Sequence[Sequence[float]], rx: float, ry: float, end: float | None = None) -> Mask:
        """A tube along z with an elliptic section and rounded ends.

        Args:
            knots: (z, x, y) of the centre line, mm, from low to high z; straight between.
            rx: half width, mm.
            ry: half depth, mm.
            end: length of the rounded caps, mm; the smaller radius by default.
        """
        z, x, y = np.asarray(knots, dtype=float).T
        end = min(rx, ry) if end is None else end
        box = self.box(
            (x.min() - rx, y.min() - ry, z[0] - end),
            (x.max() + rx, y.max() + ry, z[-1] + end),
        )
        here = self.z[box]
        beyond = np.maximum(np.maximum(z[0] - here, here - z[-1]), 0) / end
        level = ((self.x[box] - np.interp(here, z, x)) / rx) ** 2 + ((self.y[box] - np.interp(here, z, y)) / ry) ** 2
        mask = self.empty()
        mask[box] = level + beyond**2 <= 1
        return mask


def _smooth_field(axes: Sequence[NDArray], rng: np.random.Generator) -> NDArray:
    """A random field with unit standard deviation, by cubic B-splines on nodes that do not depend on the grid."""
    reach = 400.0
    count = int(2 * reach / WARP_NODE_MM)
    field = rng.standard_normal((count, count, count))
    for axis in axes:
        weights = _bspline((axis[:, None] + reach) / WARP_NODE_MM - np.arange(count)[None, :])
        field = np.tensordot(field, weights, axes=(0, 1))  # the axes rotate: after three turns they stand as before
    return field / (151 / 315) ** 1.5  # 151/315: mean over a node distance of the sum of the squared weights


def _bspline(distance: NDArray) -> NDArray:
    """Cubic B-spline of the distance in nodes."""
    d = np.abs(distance)
    near = 2 / 3 - d**2 + d**3 / 2
    far = np.clip(2 - d, 0, None) ** 3 / 6
    return np.where(d < 1, near, far)
