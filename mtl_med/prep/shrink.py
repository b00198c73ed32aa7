"""Volumes made coarser by whole factors: means over blocks of voxels, so that noise and fine detail do not alias."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid

__all__ = ["block_grid", "block_mean", "factors_for"]

Factors = tuple[int, int, int]


def factors_for(grid: Grid, spacing_mm: float) -> Factors:
    """Voxels along each axis that can be one without being longer than a spacing; 1 where a voxel is longer already."""
    x, y, z = (max(1, int(spacing_mm / mm + 1e-3)) for mm in grid.spacing_mm)
    return min(x, grid.shape[0]), min(y, grid.shape[1]), min(z, grid.shape[2])


def block_grid(grid: Grid, factors: Factors) -> Grid:
    """Grid of the blocks, with their middles as voxel centres; what fills no block at the far ends is left out."""
    affine = grid.affine.copy()
    affine[:3, :3] *= factors
    affine[:3, 3] = grid.points_ras((np.array(factors) - 1)[None] / 2)[0]
    x, y, z = (size // factor for size, factor in zip(grid.shape, factors, strict=True))
    return Grid((x, y, z), affine)


def block_mean(array: NDArray, factors: Factors) -> NDArray[np.float32]:
    """Means over blocks.

    Args:
        array: (X, Y, Z); fast where axis 0 is the fastest in memory.
        factors: voxels of a block along each axis.

    Returns:
        (X // factor, Y // factor, Z // factor) float32, axis 0 fastest in memory.
    """
    x, y, z = (size // factor for size, factor in zip(array.shape, factors, strict=True))
    whole = array[: x * factors[0], : y * factors[1], : z * factors[2]].T  # (Z, Y, X)
    total: NDArray[np.float32] = np.zeros((z, y, x), dtype=np.float32)
    for k in range(factors[2]):
        for j in range(factors[1]):
            for i in range(factors[0]):
                total += whole[k :: factors[2], j :: factors[1], i :: factors[0]]
    return (total / np.float32(np.prod(factors))).T
