"""Anatomy of a made-up male pelvis: solids with exact surfaces for what is contoured.

Lengths are RAS mm: x to the right, y to the front, z up, origin in the midline at the height of the femoral heads.
Sizes are textbook averages; nothing is copied from any patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mtl_med.phantoms.solids import Barrel, Cut, Ellipsoid, Solid, Tube, Union

__all__ = [
    "WALL_MM",
    "Pelvis",
    "bladder_of",
    "body_of",
    "contoured_solids",
    "draw_pelvis",
    "femoral_heads_of",
    "narrowed",
    "prostate_of",
    "rectum_of",
    "shrunk",
    "skin_of",
]

# Height, half width, front and back of the trunk above the thighs.
_TRUNK = (
    (-78, 176, 84, 106),
    (-40, 185, 95, 112),
    (0, 186, 105, 112),
    (40, 181, 112, 112),
    (90, 172, 115, 106),
    (140, 165, 118, 99),
    (220, 160, 120, 95),
)
WALL_MM = 4.0  # of bladder and rectum


@dataclass(frozen=True)
class Pelvis:
    """What differs between patients. Lengths in mm, HU in HU, sizes relative to the average."""

    size: tuple[float, float]
    fat_mm: float
    bone: float
    femur_radii_mm: tuple[float, float]
    femur_shift_mm: tuple[float, float]
    prostate_mm: tuple[float, float, float]
    midline_mm: float
    bladder_mm: tuple[float, float, float]
    rectum_mm: float
    gas: tuple[tuple[float, float], ...]
    bowel: tuple[tuple[float, float, float, float, float], ...]
    vessel_hu: float
    noise_hu: float
    margin_mm: tuple[float, float]


def draw_pelvis(rng: np.random.Generator) -> Pelvis:
    """Draw the numbers of one patient."""

    def one(low: float, high: float) -> float:
        return float(rng.uniform(low, high))

    return Pelvis(
        size=(one(0.92, 1.08), one(0.92, 1.1)),
        fat_mm=one(13, 26),
        bone=one(0.97, 1.04),
        femur_radii_mm=(one(22, 25), one(22, 25)),
        femur_shift_mm=(one(-4, 4), one(-4, 4)),
        prostate_mm=(one(21, 27), one(15, 20), one(18, 25)),
        midline_mm=one(-3, 3),
        bladder_mm=(one(34, 48), one(26, 36), one(20, 36)),
        rectum_mm=one(11, 15.5),
        gas=tuple((one(-20, 70), one(0.45, 0.75)) for _ in range(int(rng.integers(1, 4)))),
        bowel=tuple(
            (one(-80, 80), one(-5, 70), one(80, 135), one(12, 20), float(rng.choice((25, 25, 40, -700))))
            for _ in range(9)
        ),
        vessel_hu=one(40, 150),
        noise_hu=one(8, 16),
        margin_mm=(one(6, 8), one(4, 6)),
    )


def contoured_solids(pelvis: Pelvis, *, walls: bool = False) -> dict[str, Solid]:
    """What a planner contours, by TG-263 name: organs, CTV, PTV and External, with the hollow walls on request."""
    right, left = femoral_heads_of(pelvis)
    prostate, *vesicles = prostate_of(pelvis)
    bladder, rectum = bladder_of(pelvis), rectum_of(pelvis)
    solids: dict[str, Solid] = {
        "External": body_of(pelvis),
        "Bladder": bladder,
        "Rectum": rectum,
        "Femur_Head_L": left,
        "Femur_Head_R": right,
        "CTV": Union((prostate, *vesicles)),
        "PTV": Union(tuple(_grown(part, *pelvis.margin_mm) for part in (prostate, *vesicles))),
    }
    if walls:
        solids["Bladder_Wall"] = Cut(bladder, shrunk(bladder, WALL_MM))
        solids["Rectum_Wall"] = Cut(rectum, narrowed(rectum, WALL_MM))
    return solids


def body_of(pelvis: Pelvis) -> Union:
    """Trunk and, below it, two thighs."""
    return skin_of(pelvis, 0)


def skin_of(pelvis: Pelvis, depth_mm: float) -> Union:
    """The body, or what lies deeper than a thickness of fat."""
    wide, deep = pelvis.size
    trunk = Barrel(
        tuple((z, a * wide - depth_mm, f * deep - depth_mm * 0.8, b * deep - depth_mm) for z, a, f, b in _TRUNK)
    )
    thighs = (
        Tube(
            (
                (-230, side * 84 * wide, 0, 74 * wide - depth_mm / 2, 80 * deep - depth_mm / 2),
                (-66, side * 89 * wide, -6, 84 * wide - depth_mm / 2, 94 * deep - depth_mm),
            ),
            end=16,
        )
        for side in (1, -1)
    )
    return Union((trunk, *thighs))


def femoral_heads_of(pelvis: Pelvis) -> tuple[Ellipsoid, Ellipsoid]:
    """Right and left."""
    right, left = (
        Ellipsoid((side * 88 * pelvis.bone, 8.0, shift), (radius, radius, radius))
        for side, radius, shift in zip((1, -1), pelvis.femur_radii_mm, pelvis.femur_shift_mm, strict=True)
    )
    return right, left


def prostate_of(pelvis: Pelvis) -> tuple[Ellipsoid, Ellipsoid, Ellipsoid]:
    """Prostate and the two seminal vesicles behind and above its base; its back lies at y = -4 and its top at -4."""
    rx, ry, rz = pelvis.prostate_mm
    x = pelvis.midline_mm
    right, left = (Ellipsoid((x + side * 14, -8.5, -1.0), (15.0, 5.5, 8.0), turn_deg=-side * 12.0) for side in (1, -1))
    return Ellipsoid((x, ry - 4, -4 - rz), (rx, ry, rz)), right, left


def bladder_of(pelvis: Pelvis) -> Ellipsoid:
    """On top of the prostate and in front of the seminal vesicles."""
    rx, ry, rz = pelvis.bladder_mm
    return Ellipsoid((pelvis.midline_mm / 2, ry - 2.0, rz - 3.0), (rx, ry, rz))


def rectum_of(pelvis: Pelvis) -> Tube:
    """From the anal canal behind the prostate up along the sacrum to the sigmoid."""
    r, x = pelvis.rectum_mm, pelvis.midline_mm
    front = np.array([(-60, -20), (-30, -8), (5, -20), (25, -29), (50, -32), (75, -24), (92, -12)], dtype=float)
    depth = np.array([0.85, 0.85, 0.95, 1.0, 1.0, 0.95, 0.9]) * r
    width = np.array([0.9, 1.1, 1.25, 1.3, 1.3, 1.15, 1.0]) * r
    bend = np.array([0, 0, 0, 0, 2, 8, 16.0])
    return Tube(
        tuple(
            (float(z), float(x + dx), float(y - ry), float(rx), float(ry))
            for (z, y), dx, rx, ry in zip(front, bend, width, depth, strict=True)
        ),
        end=6,
    )


def _grown(part: Ellipsoid, margin_mm: float, behind_mm: float) -> Ellipsoid:
    """An ellipsoid with a margin, smaller towards the rectum."""
    x, y, z = part.centre
    rx, ry, rz = part.radii
    ry += (margin_mm + behind_mm) / 2
    return Ellipsoid(
        (x, y + (margin_mm - behind_mm) / 2, z), (rx + margin_mm, ry, rz + margin_mm), turn_deg=part.turn_deg
    )


def shrunk(part: Ellipsoid, by_mm: float) -> Ellipsoid:
    """What lies deeper than a wall."""
    rx, ry, rz = part.radii
    return Ellipsoid(part.centre, (rx - by_mm, ry - by_mm, rz - by_mm))


def narrowed(tube: Tube, by_mm: float) -> Tube:
    """The inside of a tube, open at its ends."""
    inner = [(z, x, y, rx - by_mm, ry - by_mm) for z, x, y, rx, ry in tube.knots]
    first, last = inner[0], inner[-1]
    return Tube(((first[0] - 20, *first[1:]), *inner, (last[0] + 20, *last[1:])), end=1)
