"""Outlines in which planes of any direction cut a solid: what a planning system would hold as its contours.

The corners of an outline lie on the surface itself, so that what it encloses is known without a mask.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike

from mtl_med.phantoms.solids import Array, MaskSolid, Solid

__all__ = ["Plane", "outlines", "polygon_moments"]

NEWTON_STEPS = 4
CLOSE_MM = 1e-4  # the step that follows such a small one would be next to nothing
SMALLEST_MM2 = 0.5  # outlines around less are left out, as a planning system does


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane through a point (RAS mm) with two perpendicular unit vectors in it."""

    origin: Array
    along: Array
    across: Array

    @cached_property
    def normal(self) -> Array:
        """Unit vector along x across."""
        return np.cross(self.along, self.across)

    def ras(self, points: ArrayLike) -> Array:
        """RAS mm (N, 3) of points (N, 2) in the plane, mm from its origin."""
        return self.origin + np.asarray(points) @ np.stack([self.along, self.across])


def outlines(solid: Solid, plane: Plane, step_mm: float = 2.0) -> list[Array]:
    """Outlines of a solid in a plane, without a repeated last corner; holes wind the other way round.

    Marching squares find the outlines and how they hang together; Newton steps then move every corner onto the
    surface, within rounding.

    Args:
        solid: the solid.
        plane: the plane.
        step_mm: corners lie about as far apart, and what is smaller may be missed.

    Returns:
        Polygons (N, 2), mm from the plane's origin.
    """
    from skimage.measure import find_contours

    corners = np.array(list(itertools.product(*np.transpose(solid.bounds)))) - plane.origin
    depth = corners @ plane.normal
    if depth.min() > 0 or depth.max() < 0:
        return []
    u, v = (
        np.arange(projected.min() - 1.37 * step_mm, projected.max() + 2 * step_mm, step_mm)
        for projected in (corners @ plane.along, corners @ plane.across)
    )
    level = _level(solid, plane, u[:, None], v[None, :])
    found = []
    for raw in find_contours(np.clip(level, 0, 2), 1.0):
        polygon = np.array([u[0], v[0]]) + raw * step_mm
        if not isinstance(solid, MaskSolid):
            polygon = _onto_surface(solid, plane, polygon, step_mm)
        polygon = polygon[np.linalg.norm(polygon - np.roll(polygon, 1, axis=0), axis=1) > 1e-3]
        if len(polygon) >= 3 and abs(polygon_moments(polygon)[0]) >= SMALLEST_MM2:
            found.append(polygon)
    return found


def _level(solid: Solid, plane: Plane, u: Array, v: Array) -> Array:
    x, y, z = (o + u * a + v * c for o, a, c in zip(plane.origin, plane.along, plane.across, strict=True))
    return solid.level(x, y, z)


def _onto_surface(solid: Solid, plane: Plane, points: Array, step_mm: float) -> Array:
    """Move points along the gradient of the level in the plane until the level is 1."""
    tiny = 1e-3
    for _ in range(NEWTON_STEPS):
        u, v = points.T
        excess = _level(solid, plane, u, v) - 1
        slope = np.stack(
            [
                _level(solid, plane, u + tiny, v) - _level(solid, plane, u - tiny, v),
                _level(solid, plane, u, v + tiny) - _level(solid, plane, u, v - tiny),
            ],
            axis=1,
        ) / (2 * tiny)
        move = excess[:, None] * slope / np.maximum((slope**2).sum(axis=1), 1e-12)[:, None]
        length = np.linalg.norm(move, axis=1, keepdims=True)
        points = points - move * np.minimum(1, 0.5 * step_mm / np.maximum(length, 1e-12))
        if length.max() < CLOSE_MM:
            break
    return points


def polygon_moments(polygon: Array) -> tuple[float, Array]:
    """Signed area, mm^2, and centre of gravity of a polygon (N, 2), exactly (shoelace formula)."""
    shift = polygon.mean(axis=0)  # near the origin, the products lose no digits
    here = polygon - shift
    following = np.roll(here, -1, axis=0)
    cross = here[:, 0] * following[:, 1] - following[:, 0] * here[:, 1]
    area = cross.sum() / 2
    if area == 0:
        return 0.0, shift
    return float(area), shift + ((here + following) * cross[:, None]).sum(axis=0) / (6 * area)
