"""Anatomy of a made-up head-and-neck patient: tissues as Hounsfield units, organs at risk, and where the tumour sits.

Lengths are anatomical mm (see `Space`): x to the right, y to the front, z up, origin in the midline at the lower jaw.
Sizes and Hounsfield units are textbook averages and the medians of the public OpenKBP patients; nothing is copied from
any patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.phantoms.space import Mask, Space

__all__ = ["NERVES", "Patient", "build_anatomy", "draw_patient"]

# Heights (z), half width, front, back and boxiness of the outer contour.
_OUTLINE = np.array(
    [
        (190, 10, 10, 25, 2.0),
        (176, 46, 52, 60, 2.0),
        (150, 66, 78, 84, 2.0),
        (110, 75, 97, 95, 2.0),
        (70, 74, 100, 92, 2.0),
        (55, 72, 106, 88, 2.0),
        (25, 69, 95, 78, 2.1),
        (0, 63, 88, 76, 2.1),
        (-16, 60, 80, 76, 2.0),
        (-34, 58, 50, 78, 2.1),
        (-52, 59, 42, 82, 2.2),
        (-68, 68, 40, 90, 2.3),
        (-82, 110, 42, 98, 2.3),
        (-98, 176, 50, 105, 2.4),
        (-118, 208, 60, 112, 2.6),
        (-220, 218, 90, 122, 2.8),
    ]
)[::-1]
# Centre of the spinal canal: z, y.
_CANAL = np.array([(-220, -96), (-150, -76), (-110, -58), (-75, -42), (-40, -30), (0, -26), (25, -25), (48, -21)])
_TRACHEA = np.array([(-220, -52), (-150, -22), (-110, 4), (-72, 18)])
# Centre line (z, x, y) of what no target may touch: cord and brainstem.
NERVES = ((-215, 0, -100), (-150, 0, -80), (-75, 0, -44), (0, 0, -28), (50, 0, -20), (95, 0, -4))


@dataclass(frozen=True)
class Patient:
    """What differs between patients, apart from the deformation. Lengths in mm, the rest in HU or without unit."""

    shift_mm: tuple[float, float, float]
    scale: tuple[float, float, float]
    warp_mm: float
    scan_z: tuple[float, float]
    fat_mm: float
    lordosis: float
    gland_hu: float
    gland_size: float
    noise_hu: float
    contrast_hu: float
    shoulder: float


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw the numbers of one patient."""
    size = rng.uniform(0.94, 1.06)
    scale = tuple(float(size * rng.uniform(0.96, 1.04)) for _ in range(3))
    return Patient(
        shift_mm=(float(rng.normal(0, 4)), float(rng.normal(5, 7)), float(rng.uniform(5, 30))),
        scale=(scale[0], scale[1], scale[2]),
        warp_mm=float(rng.uniform(1.5, 3.0)),
        scan_z=(float(rng.uniform(-150, -128)), float(rng.uniform(100, 150))),
        fat_mm=float(rng.uniform(4, 9)),
        lordosis=float(rng.uniform(0.75, 1.15)),
        gland_hu=float(rng.uniform(-50, -10)),
        gland_size=float(rng.uniform(0.9, 1.12)),
        noise_hu=float(rng.uniform(8, 18)),
        contrast_hu=float(rng.uniform(110, 190)),
        shoulder=float(rng.uniform(0.9, 1.08)),
    )


def build_anatomy(
    space: Space, patient: Patient, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Mask, NDArray[np.float32], dict[str, Mask]]:
    """Paint one patient without tumour.

    Args:
        space: anatomical coordinates of the grid.
        patient: the patient's numbers.
        rng: source of texture.

    Returns:
        HU (X, Y, Z) without noise, -1024 outside the body; the body; depth below the skin, mm, roughly; organs at risk
        by their OpenKBP names.
    """
    body, depth = _outline(space, patient)
    hu = np.where(body, np.float32(45), np.float32(-1024))
    hu[body & (depth < patient.fat_mm)] = -95
    _soft_tissue(space, patient, hu, body, depth)
    organs = _glands(space, patient, hu)
    organs |= _head(space, patient, hu)
    organs |= _spine(space, patient, hu, organs["Brainstem"])
    organs |= _jaw(space, hu, rng)
    _shoulders(space, patient, hu)
    organs |= _throat(space, hu)
    hu[~body] = -1024
    return hu, body, depth, {name: mask & body for name, mask in organs.items()}


def _canal_y(z: float | NDArray, patient: Patient) -> NDArray:
    y = np.interp(z, _CANAL[:, 0], _CANAL[:, 1])
    return -25 + (y + 25) * patient.lordosis


def _outline(space: Space, patient: Patient) -> tuple[Mask, NDArray[np.float32]]:
    """The body within the scanned slices, and the depth below the skin, mm (first order)."""
    fine = np.arange(-220.0, 191.0, 4.0)
    kernel = np.hanning(9) / np.hanning(9).sum()
    padded = np.pad(fine, 4, mode="edge")
    width, front, back, power = (
        np.convolve(np.interp(padded, _OUTLINE[:, 0], column), kernel, mode="valid") for column in _OUTLINE[:, 1:].T
    )
    width = np.where(fine < -75, 72 + (width - 72) * patient.shoulder, width)
    a = np.interp(space.z, fine, width).astype(np.float32)
    b = np.where(space.y > 0, np.interp(space.z, fine, front), np.interp(space.z, fine, back)).astype(np.float32)
    p = np.interp(space.z, fine, power).astype(np.float32)
    level = ((np.abs(space.x) / a) ** p + (np.abs(space.y) / b) ** p) ** (1 / p)
    scanned = (space.axes[2] >= patient.scan_z[0]) & (space.axes[2] <= patient.scan_z[1])
    depth = (1 - level) * np.minimum(a, b)
    return (level <= 1) & scanned, depth.astype(np.float32)


def _soft_tissue(space: Space, patient: Patient, hu: NDArray, body: Mask, depth: NDArray) -> None:
    """Fat between the muscles of the neck, the big muscles, vessels and the tongue."""
    hu[space.ellipsoid((0, 62, 8), (34, 34, 26)) & body] = -40
    for side in (1, -1):
        knots = [(-105, side * 40, 2), (-60, side * 36, 2), (0, side * 38, 2), (38, side * 38, 4)]
        hu[space.tube(knots, 20, 22) & (depth > patient.fat_mm)] = -75
        hu[space.tube([(-100, side * 18, 26), (-40, side * 44, 6), (34, side * 56, -22)], 11, 8)] = 60
        hu[space.tube([(-115, side * 22, 2), (-40, side * 27, 4), (40, side * 27, 2)], 4.5, 4.5)] = patient.contrast_hu
        hu[space.tube([(-115, side * 32, 6), (-40, side * 34, 2), (45, side * 33, -4)], 6.5, 6)] = (
            patient.contrast_hu - 15
        )
        hu[space.ellipsoid((side * 24, 44, -14), (10, 16, 11))] = patient.gland_hu + 45  # submandibular gland
    hu[space.ellipsoid((0, 50, 12), (25, 31, 19))] = 60


def _glands(space: Space, patient: Patient, hu: NDArray) -> dict[str, Mask]:
    """Parotids: fatty glands behind and beside the ramus of the jaw, with a tail."""
    glands = {}
    for side, name in ((1, "RightParotid"), (-1, "LeftParotid")):
        radii = np.array([11.5, 16.5, 25.0]) * patient.gland_size
        mask = space.ellipsoid((side * 55, -2, 24), radii, 2.3)
        mask |= space.ellipsoid((side * 48, -6, 2), (9 * patient.gland_size, 11, 13))
        hu[mask] = patient.gland_hu
        glands[name] = mask
    return glands


def _head(space: Space, patient: Patient, hu: NDArray) -> dict[str, Mask]:
    """Skull, brain, brainstem, face, nose and its sinuses."""
    skull = space.ellipsoid((0, -4, 108), (71, 89, 70), 2.2)
    brain = space.ellipsoid((0, -4, 109), (65, 82, 63), 2.2)
    face = space.ellipsoid((0, 62, 46), (36, 30, 22), 2.5) & ~skull
    hu[face] = 420  # upper jaw and facial bones
    hu[space.ellipsoid((0, 60, 46), (31, 26, 18), 2.5) & face] = 60
    hu[skull] = 950
    hu[brain] = 40
    stem = space.tube([(46, 0, -20), (64, 0, -13), (88, 0, -6)], 13, 12.5, end=9)
    stem |= space.ellipsoid((0, -6, 74), (16.5, 14, 13))
    around = space.tube([(38, 0, -21), (64, 0, -13), (94, 0, -6)], 20.5, 19.5, end=9)
    around |= space.ellipsoid((0, -6, 74), (23.5, 20.5, 18))
    hu[around & (skull | (space.z > 40))] = 0  # the fluid that makes it visible
    hu[stem] = 34
    for x, y, z, rx, ry, rz in (
        (0, 66, 58, 9, 26, 15),
        (27, 62, 54, 12, 14, 13),
        (-27, 62, 54, 12, 14, 13),
        (0, 70, 88, 12, 8, 9),
    ):
        hu[space.ellipsoid((x, y, z), (rx, ry, rz), 2.5)] = -950
    for side in (1, -1):
        hu[space.ellipsoid((side * 58, -36, 52), (10, 13, 14))] = -250  # mastoid cells
    return {"Brainstem": stem}


def _spine(space: Space, patient: Patient, hu: NDArray, stem: Mask) -> dict[str, Mask]:
    """Vertebrae with discs, the canal with its fluid, and the cord in it, from the brainstem downwards."""
    heights = np.arange(-215.0, 49.0, 12.0)

    def knots(dy: float, low: float, high: float) -> list[tuple[float, float, float]]:
        inner = heights[(heights > low) & (heights < high)]
        return [(float(z), 0.0, float(_canal_y(z, patient)) + dy) for z in (low, *inner, high)]

    phase = np.mod(space.z + 4, 18.0)
    disc = phase < 4.5
    vertebra = space.tube(knots(19, -215, 32), 13.5, 10, end=3)
    ring = space.tube(knots(0, -215, 36), 17, 14.5, end=3)
    spine = space.tube(knots(-25, -215, 18), 4.5, 13, end=3) & (phase > 7)
    wings = (space.tube(knots(8, -215, 34), 31, 6, end=3)) & (phase > 8) & (phase < 15)
    hu[vertebra] = np.where(disc[vertebra], 85, 430)
    hu[wings | spine] = 380
    hu[ring] = np.where(disc[ring] & (space.y[ring] < -20), 90, 620)
    canal = space.tube(knots(0, -215, 46), 11.5, 9.5, end=3) & ~stem
    cord = space.tube(knots(0, -215, 41), 7.8, 6.6, end=3) & ~stem
    hu[canal] = 6
    hu[cord] = 42
    return {"SpinalCord": cord}


def _jaw(space: Space, hu: NDArray, rng: np.random.Generator) -> dict[str, Mask]:
    """The horseshoe of the lower jaw with its rami, and the lower teeth."""
    tilt = 0.12 * (space.y - 40)

    def horseshoe(outer: tuple[float, float], inner: tuple[float, float], low: float, high: float) -> Mask:
        box = space.box((-60, 0, low - 12), (60, 100, high + 12))
        x, y, z = space.x[box], space.y[box] - 12, space.z[box] + tilt[box]
        arc = ((x / outer[0]) ** 2 + (y / outer[1]) ** 2 <= 1) & ((x / inner[0]) ** 2 + (y / inner[1]) ** 2 >= 1)
        mask = space.empty()
        mask[box] = arc & (y > 0) & (z > low) & (z < high)
        return mask

    bone = horseshoe((52, 72), (40.5, 59.5), -17, 7)
    marrow = horseshoe((49, 69), (44, 62.5), -13, 4)
    for side in (1, -1):
        ramus = [(-12, side * 46, 24), (20, side * 48, 26), (50, side * 50, 18)]
        bone |= space.tube(ramus, 5.5, 14, end=5)
        marrow |= space.tube(ramus, 2.2, 10.5, end=3)
    hu[bone] = 1150
    hu[marrow] = 480
    teeth = horseshoe((46, 68), (38, 59), 7, 24) & (space.y > 22)
    gaps = np.mod(np.arctan2(space.x[teeth], space.y[teeth] - 12), 0.17) < 0.03
    hu[teeth] = np.where(gaps, 60, rng.uniform(1500, 2100))
    return {"Mandible": bone}


def _shoulders(space: Space, patient: Patient, hu: NDArray) -> None:
    """Clavicles, upper arms, shoulder blades, first ribs and the tips of the lungs."""
    wide = patient.shoulder
    for side in (1, -1):
        hu[space.ellipsoid((side * 52, -42, -165), (42, 48, 52))] = -820
        hu[space.ellipsoid((side * 165 * wide, -28, -128), (23, 23, 27))] = 330
        hu[space.ellipsoid((side * 120 * wide, -72, -135), (38, 6, 30))] = 420
        for step in np.linspace(0, 1, 9):
            centre = (side * (22 + 110 * step * wide), 34 - 36 * step, -118 + 14 * step)
            hu[space.ellipsoid(centre, (12, 6, 6))] = 620


def _throat(space: Space, hu: NDArray) -> dict[str, Mask]:
    """Airway, larynx with its cartilage, trachea, and the oesophagus behind it."""
    hu[space.tube([(-38, 0, 12), (0, 0, 14), (30, 0, 16), (58, 0, 30)], 11, 7)] = -980
    larynx = space.tube([(-60, 0, 18), (-44, 0, 18)], 17, 15.5, end=9)
    hu[space.tube([(-68, 0, 18), (-36, 0, 18)], 22, 20, end=8) & (hu > -500)] = -60
    hu[larynx] = 170
    hu[space.tube([(-60, 0, 18), (-44, 0, 18)], 13.5, 12, end=7)] = 55
    hu[space.tube([(-74, 0, 17), (-34, 0, 14)], 6, 8)] = -980
    windpipe = [(float(z), 0.0, float(y)) for z, y in _TRACHEA]
    hu[space.tube(windpipe, 11.5, 11.5)] = 70
    hu[space.tube(windpipe, 9, 9)] = -980
    gullet = [(z, 2.0, y - 20) for z, _, y in windpipe]
    hu[space.tube(gullet, 12.5, 10.5) & (hu > -500)] = -60
    tube = space.tube(gullet, 9.5, 7.8)
    hu[tube] = 55
    hu[space.tube(gullet, 3, 2)] = -350
    return {"Larynx": larynx, "Esophagus": tube & (space.z > -150)}
