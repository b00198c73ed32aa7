"""Tissues of a made-up pelvis, painted in Hounsfield units: fat, muscles, vessels, bowel, bones and organs.

Lengths are RAS mm, in the space of `pelvis_anatomy`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_med.phantoms import pelvis_anatomy as anatomy
from mtl_med.phantoms.pelvis_anatomy import Pelvis
from mtl_med.phantoms.solids import Capsule, Cut, Ellipsoid, Solid, Tube, inside
from mtl_med.phantoms.space import Floats, Mask

__all__ = ["build_pelvis"]

OUTSIDE_HU = -1024
FAT_HU, MUSCLE_HU, CORTEX_HU = -100, 55, 650
_SPINE_TOP = 220.0
WALL_OF_BELLY_MM = 9.0

Paint = tuple[Solid, float, Solid | None]


def build_pelvis(pelvis: Pelvis, axes: Sequence[NDArray]) -> tuple[Floats, Mask]:
    """Paint one patient.

    Args:
        pelvis: the patient's numbers.
        axes: RAS mm of the voxel centres along the three array axes.

    Returns:
        HU (X, Y, Z) without noise, -1024 outside the body; the body.
    """
    hu = np.full([len(axis) for axis in axes], OUTSIDE_HU, dtype=np.float32)
    body = anatomy.body_of(pelvis)
    outer = inside(body, *np.ix_(*axes))
    hu[outer] = FAT_HU
    for solid, value, within in _tissues(pelvis):
        low, high = solid.bounds
        box = tuple(slice(*np.searchsorted(axis, [low[i], high[i]], side="right")) for i, axis in enumerate(axes))
        part = np.ix_(*(axis[one] for axis, one in zip(axes, box, strict=True)))
        if not hu[box].size:
            continue
        mask = inside(solid, *part)
        if within is not None:
            mask &= inside(within, *part)
        hu[box][mask] = value
    hu[~outer] = OUTSIDE_HU
    return hu, outer


def _tissues(pelvis: Pelvis) -> Iterator[Paint]:
    """What is painted, one over the other: solid, HU, and a solid that it must not leave."""
    deep = anatomy.skin_of(pelvis, pelvis.fat_mm)
    yield Cut(deep, anatomy.skin_of(pelvis, pelvis.fat_mm + WALL_OF_BELLY_MM)), MUSCLE_HU, None
    for solid in _muscles(pelvis):
        yield solid, MUSCLE_HU, deep
    for side in (1, -1):
        vessel = Tube(((-10, side * 74, 50, 6, 6), (60, side * 52, 12, 7, 7), (130, side * 32, -8, 9, 9)))
        yield vessel, pelvis.vessel_hu, deep
    for x, y, z, radius, hu in pelvis.bowel:
        yield Ellipsoid((x, y, z), (radius * 1.5, radius, radius)), 40, deep
        yield Ellipsoid((x, y, z), (radius * 1.5 - 3, radius - 3, radius - 3)), hu, deep
    yield from _bones(pelvis)
    yield from _organs(pelvis)


def _muscles(pelvis: Pelvis) -> Iterator[Solid]:
    r, x = pelvis.rectum_mm, pelvis.midline_mm
    for side in (1, -1):
        yield Ellipsoid((side * 84, -72, -8), (72, 30, 78), power=2.4, turn_deg=side * 26)  # gluteus maximus
        yield Ellipsoid((side * 132, 8, 62), (30, 58, 66), turn_deg=-side * 24)  # gluteus medius
        yield Ellipsoid((side * 116, 56, -30), (36, 30, 78))  # rectus femoris, tensor
        yield Tube(  # iliopsoas
            (
                (-60, side * 108, 18, 15, 14),
                (0, side * 90, 50, 19, 14),
                (60, side * 76, 24, 27, 18),
                (130, side * 46, -2, 25, 24),
            )
        )
        yield Ellipsoid((side * 58, 4, -16), (8, 40, 32))  # obturator internus
        yield Tube(((-230, side * 84, 0, 62, 66), (-70, side * 92, -4, 68, 74)), end=24)  # thigh
        yield Ellipsoid((side * 31, 96, 70), (29, 6, 110), power=3)  # rectus abdominis
    yield Tube(((-66, x, -26, r + 9, r + 9), (-36, x, -20, r + 7, r + 10)), end=10)  # sphincter, levator


def _bones(pelvis: Pelvis) -> Iterator[Paint]:
    """Cortical shells with marrow in them."""
    for head, side in zip(anatomy.femoral_heads_of(pelvis), (1, -1), strict=True):
        x, y, z = head.centre
        socket = Ellipsoid((side * 66, y - 2, z + 16), (38, 40, 42))
        yield Ellipsoid(head.centre, (37, 37, 37)), CORTEX_HU, socket
        yield Ellipsoid(head.centre, (34, 34, 34)), 260, anatomy.shrunk(socket, 4)
        yield anatomy.shrunk(head, -3.5), 70, None  # the joint
        yield from _bone(Capsule((x, y, z), (side * 128, -4, -30), 14, 17), 4, 180)
        yield from _bone(Ellipsoid((side * 138, -10, -20), (15, 20, 24)), 3, 220)
        shaft = Tube(((-230, side * 118, 0, 14, 14), (-42, side * 131, -4, 17, 18)))
        yield shaft, 1150, None
        yield anatomy.narrowed(shaft, 6), 10, None
        yield head, CORTEX_HU - 100, None
        yield anatomy.shrunk(head, 2.5), 320, None
        wing = (side * 94, -6, 82)
        yield Ellipsoid(wing, (66, 8, 72), power=2.6, turn_deg=side * 50, lean_deg=-6), CORTEX_HU, None
        yield Ellipsoid(wing, (62, 4.5, 68), power=2.6, turn_deg=side * 50, lean_deg=-6), 200, None
        yield from _bone(Capsule((side * 74, 28, -6), (side * 13, 56, -32), 11, 10), 3, 220)
        yield from _bone(Capsule((side * 13, 50, -46), (side * 50, -20, -70), 8, 8), 2.5, 220)
        yield from _bone(Capsule((side * 66, -20, -8), (side * 56, -38, -66), 16, 16), 3.5, 220)
        yield from _bone(Ellipsoid((side * 12, 56, -38), (10, 10, 19)), 2.5, 240)
    yield Ellipsoid((0, 56, -38), (2.5, 10, 18)), 110, None
    yield from _bone(Ellipsoid((0, -76, 98), (52, 20, 46), power=2.5), 3, 200)
    yield from _bone(Ellipsoid((0, -84, 46), (33, 11, 34)), 2.5, 200)
    yield from _bone(Tube(((-14, 0, -70, 7, 5), (24, 0, -86, 13, 7))), 2, 200)
    yield from _bone(Tube(((142, 0, -58, 27, 21), (_SPINE_TOP, 0, -46, 27, 21)), end=3), 3, 190)
    yield Tube(((60, 0, -88, 9, 4), (130, 0, -86, 12, 8), (_SPINE_TOP, 0, -84, 11, 9))), 25, None


def _bone(solid: Ellipsoid | Capsule | Tube, cortex_mm: float, marrow_hu: float) -> Iterator[Paint]:
    yield solid, CORTEX_HU, None
    if isinstance(solid, Capsule):
        thin = solid.start_radius - cortex_mm, solid.stop_radius - cortex_mm
        yield Capsule(solid.start, solid.stop, *thin), marrow_hu, None
    elif isinstance(solid, Tube):
        yield anatomy.narrowed(solid, cortex_mm), marrow_hu, solid
    else:
        core = tuple(radius - cortex_mm for radius in solid.radii)
        yield Ellipsoid(solid.centre, (core[0], core[1], core[2]), power=solid.power), marrow_hu, None


def _organs(pelvis: Pelvis) -> Iterator[Paint]:
    bladder, rectum = anatomy.bladder_of(pelvis), anatomy.rectum_of(pelvis)
    yield bladder, 42, None
    yield anatomy.shrunk(bladder, anatomy.WALL_MM), 6, None
    for part in anatomy.prostate_of(pelvis):
        yield part, 45, None
    yield rectum, 45, None
    lumen = anatomy.narrowed(rectum, anatomy.WALL_MM)
    yield lumen, 15, rectum
    heights, *columns = np.array(rectum.knots).T
    for z, share in pelvis.gas:  # bubbles rise to the front of a patient who lies on the back
        x, y, rx, ry = (float(np.interp(z, heights, column)) for column in columns)
        yield Ellipsoid((x, y + 0.3 * ry, z), (share * rx, share * ry, 16.0)), -930, lumen
