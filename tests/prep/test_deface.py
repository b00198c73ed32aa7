"""Faces: gone from a made-up head, while brain, organs and all other CTs stay as they were."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid
from mtl_med.prep.deface import AIR_HU, DEPTH_MM, deface, find_head

SPACING_MM = (2.0, 2.0, 3.0)
SHAPE = (120, 130, 90)  # 240 x 260 x 270 mm
BONE_HU, BRAIN_HU, TISSUE_HU = 800, 35, 40
GRID = Grid(SHAPE, np.array([[2.0, 0, 0, -119], [0, 2.0, 0, -129], [0, 0, 3.0, -100], [0, 0, 0, 1]]))


def axes() -> list[NDArray]:
    """RAS mm of all voxels, one array per axis."""
    indices = np.meshgrid(*[np.arange(size) for size in SHAPE], indexing="ij", sparse=True)
    return [index * mm + start for index, mm, start in zip(indices, SPACING_MM, (-119.0, -129.0, -100.0), strict=True)]


def ellipsoid(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> NDArray[np.bool_]:
    return sum(((axis - at) / radius) ** 2 for axis, at, radius in zip(axes(), centre, radii, strict=True)) < 1


@dataclass
class Person:
    """A head and neck with a nose 112 mm in front of the origin; its skull is closed from z = 0 mm upwards."""

    def __post_init__(self) -> None:
        x, _, z = axes()
        head = ellipsoid((0, 0, 60), (76, 95, 110)) & (z < 165)
        neck = ellipsoid((0, -15, -80), (55, 60, 120))
        self.nose = ellipsoid((0, 92, 10), (15, 20, 20)) & ~ellipsoid((0, 0, 60), (76, 90, 110))
        self.ears = ellipsoid((-80, -5, 15), (10, 12, 25)) | ellipsoid((80, -5, 15), (10, 12, 25))
        self.eyes = ellipsoid((-30, 68, 35), (12, 12, 12)) | ellipsoid((30, 68, 35), (12, 12, 12))
        self.mask = ellipsoid((0, 0, 60), (84, 103, 118)) & ~ellipsoid((0, 0, 60), (80, 99, 114)) & (z < 150)
        outer, inner = ellipsoid((0, -5, 60), (70, 82, 100)), ellipsoid((0, -5, 60), (63, 75, 93))
        self.brain = inner & (z >= 0)
        self.headrest = np.broadcast_to((np.abs(x) < 60) & (axes()[1] < -112), SHAPE)
        self.body = head | neck | self.nose | self.ears
        self.ct = np.full(SHAPE, AIR_HU, dtype=np.int16)
        self.ct[self.mask & ~self.body] = 100
        self.ct[self.headrest] = -200
        self.ct[self.body] = TISSUE_HU
        self.ct[outer & ~inner & (z >= 0)] = BONE_HU
        self.ct[self.brain] = BRAIN_HU


@pytest.fixture(scope="module")
def person() -> Person:
    return Person()


def test_the_head_is_found(person: Person) -> None:
    head = find_head(person.ct, GRID, person.body)
    assert head is not None
    base_mm, top_mm = (GRID.affine[2, 2] * index - 100 for index in (head.base, head.top))
    assert abs(base_mm) <= 6 and 120 < top_mm < 155
    assert head.lowest < head.base and abs(2 * head.middle - 129 + 5) < 15


def test_the_face_is_gone_and_the_rest_stays(person: Person) -> None:
    before = person.ct.copy()
    found = deface(person.ct, GRID, person.body)
    assert np.array_equal(person.ct, before), "the array that came in is not changed"
    assert found.ct.dtype == np.int16
    y_mm = np.broadcast_to(axes()[1], SHAPE)
    tip_mm = y_mm[person.nose].max()
    front = (y_mm > tip_mm - DEPTH_MM + 2) & ~person.brain
    lower = np.broadcast_to(axes()[2] >= -90, SHAPE)
    assert (found.ct[person.nose & front] == AIR_HU).all()
    assert (found.ct[front & lower] == AIR_HU).all(), "nothing in front of the plane, no mask either"
    assert (found.ct[person.ears & ~ellipsoid((0, 0, 60), (79, 95, 110))] == AIR_HU).mean() > 0.9
    behind = person.body & (y_mm < tip_mm - DEPTH_MM - 2) & ~person.ears
    assert (found.ct[behind & ~found.removed] == person.ct[behind & ~found.removed]).all()
    assert found.removed[behind].mean() < 0.01
    assert np.array_equal(found.ct[person.brain], person.ct[person.brain])
    assert np.array_equal(found.ct[person.headrest & ~person.body], person.ct[person.headrest & ~person.body])
    assert (found.ct[found.removed] == AIR_HU).all()
    assert np.array_equal(found.ct[~found.removed], person.ct[~found.removed])
    assert "30 mm behind" in found.note and " cc of the body" in found.note


def test_its_surface_is_flat(person: Person) -> None:
    """What a rendering shows of the face from the front varies by less than the nose stood out."""
    found = deface(person.ct, GRID, person.body)
    columns = np.abs(axes()[0][:, 0, 0]) < 25
    slices = np.abs(axes()[2][0, 0] - 25) < 25

    def relief_mm(ct: NDArray) -> float:
        solid = (ct[columns][:, :, slices] > -300) & person.body[columns][:, :, slices]
        return float(np.ptp(SHAPE[1] - 1 - np.argmax(solid[:, ::-1], axis=1)) * 2.0)

    assert relief_mm(person.ct) > 30
    assert relief_mm(found.ct) < 15


def test_what_is_to_be_kept_is_kept(person: Person) -> None:
    target = ellipsoid((10, 95, 10), (15, 15, 15)) & person.body
    found = deface(person.ct, GRID, person.body, keep=person.eyes | target)
    kept = person.eyes | target
    assert np.array_equal(found.ct[kept], person.ct[kept]) and not found.removed[kept].any()
    assert found.removed[person.nose & ~kept].any()


def test_a_mirrored_skull_changes_nothing_but_sides(person: Person) -> None:
    mirrored = deface(person.ct[::-1], GRID, person.body[::-1])
    assert np.array_equal(mirrored.removed[::-1], deface(person.ct, GRID, person.body).removed)


def test_other_values_of_the_ct_are_kept(person: Person) -> None:
    found = deface(person.ct.astype(np.float32) + 0.25, GRID, person.body)
    assert found.ct.dtype == np.float32 and found.ct[person.brain].min() == BRAIN_HU + 0.25


def pelvis() -> tuple[NDArray, NDArray]:
    """A wide body with a closed ring of bone around bowel and fat."""
    body = np.broadcast_to(ellipsoid((0, 0, 0), (118, 90, 1e6)), SHAPE)
    ct = np.where(body, -90, AIR_HU).astype(np.int16)
    ct[np.broadcast_to(ellipsoid((0, 0, 0), (90, 70, 1e6)) & ~ellipsoid((0, 0, 0), (80, 60, 1e6)), SHAPE)] = BONE_HU
    return ct, body


def child_chest() -> tuple[NDArray, NDArray]:
    """A section as small as a head's with ribs around lungs."""
    body = np.broadcast_to(ellipsoid((0, 0, 0), (90, 75, 1e6)), SHAPE)
    ct = np.where(body, 20, AIR_HU).astype(np.int16)
    ct[np.broadcast_to(ellipsoid((0, 0, 0), (80, 65, 1e6)), SHAPE)] = BONE_HU
    ct[np.broadcast_to(ellipsoid((0, 0, 0), (74, 59, 1e6)), SHAPE)] = -750
    return ct, body


def thigh() -> tuple[NDArray, NDArray]:
    body = np.broadcast_to(ellipsoid((0, 0, 0), (80, 80, 1e6)), SHAPE)
    ct = np.where(body, 50, AIR_HU).astype(np.int16)
    ct[np.broadcast_to(ellipsoid((0, 0, 0), (16, 16, 1e6)) & ~ellipsoid((0, 0, 0), (9, 9, 1e6)), SHAPE)] = BONE_HU
    return ct, body


def water() -> tuple[NDArray, NDArray]:
    body = np.broadcast_to(ellipsoid((0, 0, 30), (80, 80, 100)), SHAPE)
    return np.where(body, 0, AIR_HU).astype(np.int16), body


def nothing() -> tuple[NDArray, NDArray]:
    return np.full(SHAPE, AIR_HU, dtype=np.int16), np.zeros(SHAPE, dtype=bool)


@pytest.mark.parametrize("make", [pelvis, child_chest, thigh, water, nothing], ids=lambda make: make.__name__)
def test_what_is_no_head_stays_as_it_is(make) -> None:
    ct, body = make()
    found = deface(ct, GRID, body)
    assert find_head(ct, GRID, body) is None
    assert np.array_equal(found.ct, ct) and not found.removed.any()
    assert found.note == "no skull was found, so that nothing was defaced"


def test_another_order_of_axes_is_refused(person: Person) -> None:
    flipped = Grid(SHAPE, GRID.affine @ np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(GeometryError, match="axes run LAS, expected RAS"):
        deface(person.ct, flipped, person.body)


def test_a_scan_that_holds_the_skull_alone(person: Person) -> None:
    """Whatever the scan leaves out, nothing fails, and what there is of the face goes."""
    for first, last in ((40, 70), (30, 60), (60, 90)):
        shape = (*SHAPE[:2], last - first)
        affine = GRID.affine.copy()
        affine[2, 3] += 3.0 * first
        part = slice(first, last)
        found = deface(person.ct[:, :, part], Grid(shape, affine), person.body[:, :, part])
        assert found.ct.shape == shape
        assert np.array_equal(found.ct[person.brain[:, :, part]], person.ct[:, :, part][person.brain[:, :, part]])
