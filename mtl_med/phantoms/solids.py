"""Solids with an exact surface, in RAS mm.

A solid is told by a level: a function of the point that is at most 1 inside, 1 on the surface and above 1 outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.geometry import Grid
from mtl_med.phantoms.space import Mask

__all__ = [
    "Array",
    "Barrel",
    "Capsule",
    "Cut",
    "Ellipsoid",
    "MaskSolid",
    "Solid",
    "Tube",
    "Union",
    "inside",
]

Array = NDArray[np.float64]
Vector = tuple[float, float, float]


class Solid(Protocol):
    """Anything with a level and a box around it."""

    def level(self, x: Array, y: Array, z: Array) -> Array:
        """At most 1 inside; x, y, z in RAS mm, of shapes that broadcast."""
        ...

    @property
    def bounds(self) -> tuple[Array, Array]:
        """Lowest and highest corner of a box that holds the solid, RAS mm."""
        ...


@dataclass(frozen=True)
class Ellipsoid:
    """|u/ru|^p + |v/rv|^p + |w/rw|^p <= 1 about a centre.

    Args:
        centre: RAS mm.
        radii: half axes, mm.
        power: above 2 it is boxier.
        turn_deg: angle of the first half axis from R towards A.
        lean_deg: angle by which the third half axis leans from S towards the second.
    """

    centre: Vector
    radii: Vector
    power: float = 2.0
    turn_deg: float = 0.0
    lean_deg: float = 0.0

    @cached_property
    def _axes(self) -> Array:
        """Unit vectors of the half axes in RAS, one per row."""
        turn, lean = np.deg2rad([self.turn_deg, self.lean_deg])
        turned = np.array([[np.cos(turn), np.sin(turn), 0], [-np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
        leaned = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
        return leaned @ turned

    def level(self, x: Array, y: Array, z: Array) -> Array:
        away = [x - self.centre[0], y - self.centre[1], z - self.centre[2]]
        total: Array = np.zeros(())
        for axis, radius in zip(self._axes, self.radii, strict=True):
            along = sum(part * one for part, one in zip(away, axis, strict=True) if one)
            total = total + np.abs(along / radius) ** self.power
        return total

    @property
    def bounds(self) -> tuple[Array, Array]:
        half = np.abs(self._axes).T @ np.array(self.radii)
        return np.array(self.centre) - half, np.array(self.centre) + half

    @property
    def volume_mm3(self) -> float:
        """Volume of a plain ellipsoid (power 2)."""
        return float(4 / 3 * np.pi * np.prod(self.radii))


@dataclass(frozen=True)
class Tube:
    """A tube along z with elliptic sections and rounded ends.

    Args:
        knots: (z, x, y, half width, half depth) of the centre line, mm, from low to high z; straight between.
        end: length of the rounded ends, mm.
    """

    knots: tuple[tuple[float, float, float, float, float], ...]
    end: float = 8.0

    def level(self, x: Array, y: Array, z: Array) -> Array:
        heights, *columns = np.array(self.knots, dtype=float).T
        cx, cy, rx, ry = (np.interp(z, heights, column) for column in columns)
        beyond = np.maximum(np.maximum(heights[0] - z, z - heights[-1]), 0) / self.end
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + beyond**2

    @property
    def bounds(self) -> tuple[Array, Array]:
        z, x, y, rx, ry = np.array(self.knots, dtype=float).T
        low = [(x - rx).min(), (y - ry).min(), z[0] - self.end]
        return np.array(low), np.array([(x + rx).max(), (y + ry).max(), z[-1] + self.end])


@dataclass(frozen=True)
class Capsule:
    """All points within a radius of a straight line; the radius changes evenly along it. All in mm."""

    start: Vector
    stop: Vector
    start_radius: float
    stop_radius: float

    def level(self, x: Array, y: Array, z: Array) -> Array:
        first = np.array(self.start)
        line = np.array(self.stop) - first
        away = (x - first[0], y - first[1], z - first[2])
        part = np.clip(sum(a * b for a, b in zip(away, line, strict=True)) / (line @ line), 0, 1)
        distance2 = sum((a - part * b) ** 2 for a, b in zip(away, line, strict=True))
        return distance2 / (self.start_radius + part * (self.stop_radius - self.start_radius)) ** 2

    @property
    def bounds(self) -> tuple[Array, Array]:
        ends = np.array([self.start, self.stop])
        radii = np.array([[self.start_radius], [self.stop_radius]])
        return (ends - radii).min(axis=0), (ends + radii).max(axis=0)


@dataclass(frozen=True)
class Barrel:
    """A trunk: boxy sections about the midline whose size changes with height.

    Args:
        rings: (z, half width, front, back) in mm, from low to high z; straight between, closed by flat ends.
        power: of the sections; above 2 they are boxier.
    """

    rings: tuple[tuple[float, float, float, float], ...]
    power: float = 2.4

    def level(self, x: Array, y: Array, z: Array) -> Array:
        heights, *columns = np.array(self.rings, dtype=float).T
        width, front, back = (np.interp(z, heights, column) for column in columns)
        depth = np.where(y > 0, front, back)
        section = (np.abs(x / width) ** self.power + np.abs(y / depth) ** self.power) ** (2 / self.power)
        middle, half = (heights[0] + heights[-1]) / 2, (heights[-1] - heights[0]) / 2
        return np.maximum(section, ((z - middle) / half) ** 2)

    @property
    def bounds(self) -> tuple[Array, Array]:
        z, width, front, back = np.array(self.rings, dtype=float).T
        return np.array([-width.max(), -back.max(), z[0]]), np.array([width.max(), front.max(), z[-1]])


@dataclass(frozen=True)
class Union:
    """Everything that lies in one of several solids."""

    parts: tuple[Solid, ...]

    def level(self, x: Array, y: Array, z: Array) -> Array:
        return np.minimum.reduce(np.broadcast_arrays(*(part.level(x, y, z) for part in self.parts)))

    @property
    def bounds(self) -> tuple[Array, Array]:
        corners = [part.bounds for part in self.parts]
        return np.min([low for low, _ in corners], axis=0), np.max([high for _, high in corners], axis=0)


@dataclass(frozen=True)
class Cut:
    """What of one solid lies outside another."""

    solid: Solid
    away: Solid

    def level(self, x: Array, y: Array, z: Array) -> Array:
        return np.maximum(self.solid.level(x, y, z), 2 - self.away.level(x, y, z))

    @property
    def bounds(self) -> tuple[Array, Array]:
        return self.solid.bounds


@dataclass(frozen=True, eq=False)
class MaskSolid:
    """A mask (X, Y, Z) on a RAS grid as a solid: where its linear interpolation is at least one half."""

    mask: Mask
    grid: Grid

    def level(self, x: Array, y: Array, z: Array) -> Array:
        scale, start = np.diag(self.grid.affine)[:3], self.grid.affine[:3, 3]
        where = [(axis - start[i]) / scale[i] for i, axis in enumerate(np.broadcast_arrays(x, y, z))]
        return 1.5 - ndimage.map_coordinates(self.mask.astype(np.float64), where, order=1, mode="constant")

    @property
    def bounds(self) -> tuple[Array, Array]:
        used = np.argwhere(self.mask)
        if not len(used):
            return np.zeros(3), np.zeros(3)
        return self.grid.points_ras(used.min(axis=0) - 1), self.grid.points_ras(used.max(axis=0) + 1)


def inside(solid: Solid, x: Array, y: Array, z: Array) -> Mask:
    """Whether points lie in a solid, its surface included."""
    return solid.level(x, y, z) <= 1
