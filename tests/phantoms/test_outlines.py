"""Outlines of solids: corners on the exact surface, areas as geometry books give them, holes turned the other way."""

from __future__ import annotations

import numpy as np
import pytest

from mtl_med.geometry import Grid
from mtl_med.phantoms.outlines import Plane, outlines, polygon_moments
from mtl_med.phantoms.solids import Barrel, Capsule, Cut, Ellipsoid, MaskSolid, Tube, Union, inside

AXIAL = Plane(np.array([0.0, 0.0, 5.0]), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))
SOLIDS = {
    "ellipsoid": Ellipsoid((3, -4, 5), (20, 12, 16)),
    "boxy": Ellipsoid((3, -4, 5), (20, 12, 16), power=3.0),
    "turned": Ellipsoid((3, -4, 5), (20, 8, 16), turn_deg=30, lean_deg=20),
    "tube": Tube(((-30, -4, 2, 12, 10), (0, 0, 0, 15, 12), (40, 9, -3, 10, 14)), end=6),
    "capsule": Capsule((-20, 0, -10), (25, 10, 20), 9, 12),
    "barrel": Barrel(((-40, 60, 30, 35), (0, 70, 40, 30), (50, 65, 42, 38))),
    "union": Union((Ellipsoid((-12, 0, 5), (15, 10, 10)), Ellipsoid((12, 0, 5), (15, 10, 10)))),
    "cut": Cut(Ellipsoid((0, 0, 5), (25, 20, 20)), Ellipsoid((2, 1, 5), (15, 12, 12))),
}


def oblique() -> Plane:
    along = np.array([0.9, 0.1, -0.3])
    along /= np.linalg.norm(along)
    across = np.cross([0.2, 0.1, 1.0], along)
    return Plane(np.array([1.0, 2.0, 4.0]), along, across / np.linalg.norm(across))


def total_area(polygons: list[np.ndarray]) -> float:
    return abs(sum(polygon_moments(polygon)[0] for polygon in polygons))


@pytest.mark.parametrize("plane", [AXIAL, oblique()], ids=["axial", "oblique"])
@pytest.mark.parametrize("name", SOLIDS)
def test_corners_lie_on_the_surface_and_in_the_plane(name, plane):
    polygons = outlines(SOLIDS[name], plane)
    assert polygons
    for polygon in polygons:
        points = plane.ras(polygon)
        assert np.abs(SOLIDS[name].level(*points.T) - 1).max() < 1e-6
        assert np.abs((points - plane.origin) @ plane.normal).max() < 1e-9


@pytest.mark.parametrize("plane", [AXIAL, oblique()], ids=["axial", "oblique"])
@pytest.mark.parametrize("name", SOLIDS)
def test_area_is_that_of_fine_counting(name, plane):
    """Points of a fine lattice in the plane that lie inside."""
    step = 0.25
    lattice = np.arange(-120, 120, step)
    u, v = np.meshgrid(lattice, lattice, indexing="ij")
    x, y, z = (plane.ras(np.stack([u.ravel(), v.ravel()], axis=1))).T
    counted = inside(SOLIDS[name], x, y, z).sum() * step**2
    assert total_area(outlines(SOLIDS[name], plane, 1.0)) == pytest.approx(counted, rel=4e-3)


def test_section_of_an_ellipsoid_is_an_ellipse():
    (polygon,) = outlines(Ellipsoid((3, -4, 5), (20, 12, 16)), AXIAL, 1.0)
    area, centre = polygon_moments(polygon)
    assert abs(area) == pytest.approx(np.pi * 20 * 12, rel=2e-3)
    assert AXIAL.ras(centre[None])[0] == pytest.approx([3, -4, 5], abs=1e-3)


def test_sections_of_an_ellipsoid_add_up_to_its_volume():
    solid = Ellipsoid((1, 2, 3), (20, 15, 24), turn_deg=15)
    planes = [Plane(np.array([0, 0, z]), AXIAL.along, AXIAL.across) for z in np.arange(-30, 40, 0.5)]
    volume = sum(0.5 * total_area(outlines(solid, plane, 1.0)) for plane in planes)
    assert volume == pytest.approx(solid.volume_mm3, rel=3e-3)


def test_a_hole_winds_the_other_way_round():
    areas = [polygon_moments(polygon)[0] for polygon in outlines(SOLIDS["cut"], AXIAL)]
    assert len(areas) == 2
    assert areas[0] * areas[1] < 0


def test_islands_are_outlines_of_their_own():
    apart = Union((Ellipsoid((-30, 0, 5), (10, 10, 10)), Ellipsoid((30, 0, 5), (10, 10, 10))))
    assert len(outlines(apart, AXIAL)) == 2


def test_a_plane_beside_the_solid_cuts_nothing():
    assert outlines(Ellipsoid((0, 0, 60), (20, 20, 20)), AXIAL) == []


def test_mask_becomes_a_solid_of_nearly_its_size():
    grid = Grid((40, 36, 20), np.diag([2.0, 2.0, 3.0, 1.0]))
    x, y = np.meshgrid(*(2.0 * np.arange(size) for size in (40, 36)), indexing="ij")
    disc = (x - 38) ** 2 + (y - 34) ** 2 <= 24**2
    mask = np.repeat(disc[:, :, None], 20, axis=2)
    plane = Plane(np.array([0.0, 0.0, 30.0]), AXIAL.along, AXIAL.across)
    (polygon,) = outlines(MaskSolid(mask, grid), plane, 1.0)
    area, centre = polygon_moments(polygon)
    assert abs(area) == pytest.approx(disc.sum() * 4, rel=0.02)
    assert centre == pytest.approx([38, 34], abs=0.1)


def test_moments_of_a_triangle_far_from_the_origin():
    area, centre = polygon_moments(np.array([[1e4, 2e4], [1e4 + 3, 2e4], [1e4, 2e4 + 6]]))
    assert area == pytest.approx(9)
    assert centre == pytest.approx([1e4 + 1, 2e4 + 2])
