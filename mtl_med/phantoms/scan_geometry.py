"""Where the pixels of a made-up scan lie, in RAS mm: patient positions, oblique planes, gantry tilt, uneven slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError, nearest
from mtl_med.geometry import Grid
from mtl_med.phantoms.outlines import Plane
from mtl_med.phantoms.solids import Array

__all__ = ["POSITIONS", "Scan", "image_axes", "place_scan"]

# Towards where the columns and the rows of a transverse image count, per Patient Position (PS3.3 C.7.6.2.1.1).
POSITIONS = {
    "HFS": "LP",
    "HFP": "RA",
    "HFDL": "AL",
    "HFDR": "PR",
    "FFS": "RP",
    "FFP": "LA",
    "FFDL": "PL",
    "FFDR": "AR",
}
_DIRECTIONS = {
    "R": (1.0, 0.0, 0.0),
    "L": (-1.0, 0.0, 0.0),
    "A": (0.0, 1.0, 0.0),
    "P": (0.0, -1.0, 0.0),
}


@dataclass(frozen=True, eq=False)
class Scan:
    """A stack of image planes.

    Args:
        size: columns and rows of each image.
        spacing_mm: distance between columns and between rows.
        axes: (3, 3) unit vectors of the untilted image as columns: as the column index grows, as the row index grows,
            and their cross product.
        tilt_deg: angle by which the images are turned about their first axis, while the slices advance as before.
        origins: (S, 3) centre of the first pixel of every slice, ascending along the slice direction.
    """

    size: tuple[int, int]
    spacing_mm: tuple[float, float]
    axes: Array
    tilt_deg: float
    origins: Array

    @cached_property
    def along(self) -> Array:
        """Unit vector in which the column index grows."""
        return self.axes[:, 0]

    @cached_property
    def across(self) -> Array:
        """Unit vector in which the row index grows."""
        angle = np.deg2rad(self.tilt_deg)
        return np.cos(angle) * self.axes[:, 1] + np.sin(angle) * self.axes[:, 2]

    @cached_property
    def normal(self) -> Array:
        """Unit vector across the images."""
        return np.cross(self.along, self.across)

    @cached_property
    def heights_mm(self) -> Array:
        """Position of every slice along the normal."""
        return self.origins @ self.normal

    @cached_property
    def thickness_mm(self) -> Array:
        """How much of the normal belongs to every slice: half the way to its neighbours on both sides."""
        if len(self.origins) == 1:
            return np.ones(1)
        gaps = np.diff(self.heights_mm)
        return (np.concatenate([gaps[:1], gaps]) + np.concatenate([gaps, gaps[-1:]])) / 2

    @cached_property
    def grid(self) -> Grid | None:
        """Grid of (columns, rows, slices); None where tilt or uneven slices leave none."""
        steps = np.diff(self.origins, axis=0)
        if self.tilt_deg or (len(steps) > 1 and np.abs(steps - steps[0]).max() > 1e-6):
            return None
        affine = np.eye(4)
        affine[:3, 0] = self.along * self.spacing_mm[0]
        affine[:3, 1] = self.across * self.spacing_mm[1]
        affine[:3, 2] = steps[0] if len(steps) else self.normal
        affine[:3, 3] = self.origins[0]
        return Grid((*self.size, len(self.origins)), affine)

    def plane(self, number: int) -> Plane:
        """The plane of a slice, its origin in the first pixel."""
        return Plane(self.origins[number], self.along, self.across)

    def pixel_ras(self, number: int, column: NDArray, row: NDArray) -> Array:
        """RAS mm (N, 3) of pixels of a slice."""
        return (
            self.origins[number]
            + np.asarray(column)[:, None] * self.along * self.spacing_mm[0]
            + np.asarray(row)[:, None] * self.across * self.spacing_mm[1]
        )


def image_axes(position: str, oblique_deg: Sequence[float] = (0, 0, 0)) -> Array:
    """Unit vectors of an image as the columns of (3, 3): along a row, down a column, and their cross product.

    Args:
        position: Patient Position, such as "HFS".
        oblique_deg: turns about R, then A, then S.

    Raises:
        UsageError: an unknown position.
    """
    if position not in POSITIONS:
        raise UsageError(f"there is no patient position '{position}'", fix=nearest(position, POSITIONS))
    along, across = (np.array(_DIRECTIONS[letter]) for letter in POSITIONS[position])
    axes = np.stack([along, across, np.cross(along, across)], axis=1)
    for axis, degrees in enumerate(oblique_deg):
        if degrees:
            axes = _turn(axis, np.deg2rad(degrees)) @ axes
    return axes


def place_scan(
    grid: Grid,
    axes: Array,
    *,
    tilt_deg: float = 0.0,
    spacing_mm: tuple[float | None, float | None, float | None] = (None, None, None),
    size: tuple[int, int, int] | None = None,
    upper_pitch: float = 1.0,
) -> Scan:
    """Lay image planes over a phantom: the same middle and field of view, where nothing else is asked for.

    Args:
        grid: RAS grid of the phantom.
        axes: of the images, from `image_axes`.
        tilt_deg: gantry tilt.
        spacing_mm: between columns, rows and slices; None keeps the phantom's.
        size: columns, rows and slices; None keeps the field of view.
        upper_pitch: factor of the slice distance in the upper half; 1 is even.
    """
    nearest_axis = np.abs(axes).argmax(axis=0)
    own = np.array(grid.spacing_mm)[nearest_axis]
    spacing = np.array([mm or own[i] for i, mm in enumerate(spacing_mm)], dtype=float)
    extent = own * np.array(grid.shape)[nearest_axis]
    count = np.array(size) if size else np.maximum(np.rint(extent / spacing).astype(int), 1)
    steps = np.arange(count[2]) * spacing[2]
    half = steps[count[2] // 2]
    steps = np.where(steps > half, half + (steps - half) * upper_pitch, steps)
    middle = grid.points_ras((np.array([grid.shape]) - 1) / 2)[0]
    scan = Scan(
        (int(count[0]), int(count[1])), (float(spacing[0]), float(spacing[1])), axes, tilt_deg, np.zeros((1, 3))
    )
    corner = (
        middle
        - scan.along * spacing[0] * (count[0] - 1) / 2
        - scan.across * spacing[1] * (count[1] - 1) / 2
        - axes[:, 2] * steps[-1] / 2
    )
    return Scan(scan.size, scan.spacing_mm, axes, tilt_deg, corner + steps[:, None] * axes[:, 2])


def _turn(axis: int, angle: float) -> Array:
    """Rotation about one RAS axis."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn = np.eye(3)
    turn[first, first] = turn[second, second] = np.cos(angle)
    turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
    return turn
