"""Arrays turned to RAS without a second copy of them, and parts of grids."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid

__all__ = ["Box", "bounding_box", "part_of", "ras_view", "turn_to_ras"]

Box = tuple[slice, slice, slice]


def ras_view(array: NDArray, grid: Grid) -> tuple[NDArray, Grid]:
    """The same voxels with axes towards RAS: a view with other strides, and its grid.

    Args:
        array: (X, Y, Z) on `grid`.
        grid: its grid.
    """
    from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform

    transform = ornt_transform(io_orientation(grid.affine), axcodes2ornt(("R", "A", "S")))
    view = apply_orientation(array, transform)
    return view, Grid(view.shape, grid.affine @ inv_ornt_aff(transform, grid.shape))


def turn_to_ras(array: NDArray, grid: Grid) -> tuple[NDArray, Grid]:
    """An array with axes towards RAS, in the order in memory that it had; the given one is used up.

    Where axes only have to be flipped, which is so for nearly every CT, that happens in place, a plane at a time.

    Args:
        array: (X, Y, Z) on `grid`; its content is no longer what it was.
        grid: its grid.

    Returns:
        the array, axis 0 fastest in memory where it was so before, and its grid.
    """
    view, turned = ras_view(array, grid)
    signs = [step if here > 0 else -step for step, here in zip(view.strides, array.strides, strict=True)]
    if tuple(map(abs, signs)) != tuple(map(abs, array.strides)) or not array.flags.writeable:
        return view.copy(order="K"), turned
    flipped = [there != here for there, here in zip(view.strides, array.strides, strict=True)]
    slowest = int(np.argmax(np.abs(array.strides)))
    planes = np.moveaxis(array, slowest, 0)
    inner = tuple(slice(None, None, -1 if flip else 1) for axis, flip in enumerate(flipped) if axis != slowest)
    count = len(planes)
    for first in range(count if not flipped[slowest] else (count + 1) // 2):
        last = count - 1 - first if flipped[slowest] else first
        kept = planes[first].copy()
        planes[first] = planes[last][inner]
        planes[last] = kept[inner]
    return array, turned


def bounding_box(mask: NDArray) -> Box:
    """Slices of the smallest box that holds everything that is not zero; the first voxel where all is zero."""
    sides = [slice(0, size) for size in mask.shape]
    for axis in np.argsort([-abs(step) for step in mask.strides]).tolist():  # slowest first: the rest is then small
        part = mask[sides[0], sides[1], sides[2]]
        hit = np.flatnonzero(part.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(hit):
            return slice(0, 1), slice(0, 1), slice(0, 1)
        sides[axis] = slice(int(hit[0]), int(hit[-1]) + 1)
    return sides[0], sides[1], sides[2]


def part_of(grid: Grid, box: Box) -> Grid:
    """Grid of a box of voxels."""
    affine = grid.affine.copy()
    affine[:3, 3] = grid.points_ras(np.array([[side.start for side in box]]))[0]
    return Grid((box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start), affine)
