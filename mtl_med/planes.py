"""Slices of a volume in RAS order, turned as people look at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid

__all__ = ["PLANES", "PLANE_AXES", "aspect_of", "box_around", "cut"]

PLANES = ("axial", "coronal", "sagittal")
PLANE_AXES = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
"""Plane -> the array axis that runs across a slice, up in it, and through the slices."""


def box_around(region: NDArray, margin: int = 8) -> tuple[slice, ...]:
    """The box around a region, wider by `margin` voxels; the whole grid for an empty region."""
    sides = []
    for axis, size in enumerate(region.shape):
        hits = np.flatnonzero(region.any(axis=tuple(other for other in range(region.ndim) if other != axis)))
        first, last = (int(hits[0]), int(hits[-1])) if hits.size else (0, size - 1)
        sides.append(slice(max(0, first - margin), min(size, last + margin + 1)))
    return tuple(sides)


def aspect_of(grid: Grid, plane: str) -> float:
    """Height of a pixel over its width, of a slice that `cut` makes of a volume on `grid`."""
    across, up, _ = PLANE_AXES[plane]
    return grid.spacing_mm[up] / grid.spacing_mm[across]


def cut(volume: NDArray, plane: str, centre: Sequence[int]) -> NDArray:
    """A slice (rows, columns) as people look at it: patient's right on the left, up or front at the top.

    Args:
        volume: (X, Y, Z), RAS.
        plane: one of `PLANES`.
        centre: voxel (x, y, z) that the slice goes through.
    """
    x, y, z = centre
    part = {"axial": volume[:, :, z], "coronal": volume[:, y, :], "sagittal": volume[x]}[plane]
    # RAS axes: columns run right -> left (x falls), or front -> back in the sagittal plane; rows from the top.
    return part.T[::-1, ::-1]
