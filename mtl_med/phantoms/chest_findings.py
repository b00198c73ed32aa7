"""What is wrong in made-up lungs: COVID-19 as radiologists describe it, and what must not be taken for it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.phantoms.chest_anatomy import HILUM, LUNGS, Scene
from mtl_med.phantoms.solids import Ellipsoid
from mtl_med.phantoms.space import Floats, Mask

__all__ = ["FINDINGS", "draw_findings"]

FINDINGS = ("none", "none", "nodules", "lobe", "oedema", "emphysema")  # of patients without COVID-19
_MOST_PATCHES = 400  # of a lung
_GROUND_GLASS_HU, _CONSOLIDATED_HU = -560.0, -20.0


def draw_findings(
    scene: Scene, lungs: Mapping[str, Mask], finding: str, extent: float, rng: np.random.Generator
) -> Mask:
    """Draw one finding into healthy lungs.

    Args:
        scene: the patient, changed in place.
        lungs: "right" and "left".
        finding: "covid" or one of `FINDINGS`.
        extent: share of the lungs that COVID-19 makes opaque.
        rng: source of all that is drawn.

    Returns:
        (X, Y, Z) bool, what is opaque now.
    """
    opaque = np.zeros(scene.grid.shape, dtype=bool)
    if finding == "covid":
        _draw_covid(scene, lungs, extent, opaque, rng)
    elif finding == "nodules":
        for _ in range(int(rng.integers(1, 4))):
            side = _side(rng)
            centre = _some_point(scene, lungs[side], rng)
            _patch(scene, lungs[side], centre, rng.uniform(5, 13, 3), 35.0, opaque, edge=0.0, rng=rng)
    elif finding == "lobe":
        side, low = _side(rng), bool(rng.random() < 0.6)
        height = rng.uniform(-45, -15) if low else rng.uniform(35, 60)
        part = lungs[side] & ((scene.z + 0.5 * scene.y < height) == low)
        opaque |= part
        scene.hu[part & (scene.hu < _CONSOLIDATED_HU)] = rng.uniform(-120, 20)
    elif finding == "oedema":
        strength = rng.uniform(0.5, 0.9)
        for side, mask in lungs.items():
            sign = 1 if side == "right" else -1
            away = np.sqrt((scene.x - sign * HILUM[0]) ** 2 + (scene.y - HILUM[1]) ** 2 + (scene.z - HILUM[2]) ** 2)
            veil = np.clip(strength * (1.25 - away / 62), 0, 0.55)
            _fill(scene, mask, veil.astype(np.float32), 0.0)
            opaque |= mask & (veil > 0.3)
    elif finding == "emphysema":
        for mask in lungs.values():
            scene.hu[mask & (scene.hu < -700)] -= rng.uniform(45, 70)
            for _ in range(12):
                _patch(scene, mask, _some_point(scene, mask, rng), rng.uniform(5, 14, 3), -985.0, None, 0.1, rng)
    return opaque


def _draw_covid(scene: Scene, lungs: Mapping[str, Mask], extent: float, opaque: Mask, rng: np.random.Generator) -> None:
    """Patches of ground glass at the border and the back of both lungs; the more there is, the more is consolidated."""
    wanted = {side: extent * float(mask.sum()) for side, mask in lungs.items()}
    uneven = rng.uniform(-0.15, 0.15)
    wanted["right"], wanted["left"] = wanted["right"] * (1 + uneven), wanted["left"] * (1 - uneven)
    consolidated = np.clip(0.1 + 0.9 * extent + rng.uniform(-0.1, 0.1), 0, 0.8)
    for side, mask in lungs.items():
        filled = 0
        for centre in _border_points(scene, side, mask, rng):
            if filled >= wanted[side]:
                break
            radii = rng.uniform(9, 24, 3) * (1 + 0.5 * extent)
            hu = _GROUND_GLASS_HU + rng.uniform(-110, 130)
            filled += _patch(scene, mask, centre, radii, hu, opaque, 0.35, rng)
            if rng.random() < consolidated:
                _patch(scene, mask, centre, radii * rng.uniform(0.4, 0.8), _CONSOLIDATED_HU, None, 0.25, rng)


def _border_points(scene: Scene, side: str, mask: Mask, rng: np.random.Generator) -> NDArray[np.float64]:
    """Points of a lung in an order that is drawn: those at its outside, at the back and below come first."""
    at = np.flatnonzero(mask)
    x, y, z = (axis.reshape(-1)[at].astype(np.float64) for axis in (scene.x, scene.y, scene.z))
    level = LUNGS[side].level(x, y, z)
    weight = np.clip(level, 0.02, 1) ** 3 * np.exp(-(y + 4) / 45) * np.exp(-z / 110)
    order = np.argsort(rng.exponential(size=len(at)) / weight)
    return np.stack([x, y, z], axis=1)[order[:_MOST_PATCHES]]


def _some_point(scene: Scene, mask: Mask, rng: np.random.Generator) -> NDArray[np.float64]:
    at = np.flatnonzero(mask)
    place = at[rng.integers(len(at))]
    return np.array([axis.reshape(-1)[place] for axis in (scene.x, scene.y, scene.z)], dtype=np.float64)


def _patch(
    scene: Scene,
    lung: Mask,
    centre: NDArray,
    radii: NDArray,
    hu: float,
    opaque: Mask | None,
    edge: float,
    rng: np.random.Generator,
) -> int:
    """An ellipsoid of one HU within a lung, with a ragged border where `edge` is above 0.

    Returns:
        how many voxels are opaque that were not.
    """
    a, b, c = (float(value) for value in centre)
    u, v, w = (float(value) * (1 + edge) for value in radii)
    solid = Ellipsoid((a, b, c), (u, v, w))
    box = scene.box(solid)
    level = solid.level(scene.x[box], scene.y[box], scene.z[box])
    if edge and level.size:
        level = level + edge * 2 * ndimage.gaussian_filter(rng.standard_normal(level.shape), 1.2)
    here = (level <= 1) & lung[box]
    if hu < -900:
        scene.hu[box][here] = hu
    else:
        scene.hu[box][here] = np.maximum(scene.hu[box][here], hu)  # vessels stay to be seen
    if opaque is None:
        return 0
    new = int(np.count_nonzero(here & ~opaque[box]))
    opaque[box] |= here
    return new


def _fill(scene: Scene, mask: Mask, share: Floats, hu: float) -> None:
    """Mix lung with something else, by shares."""
    scene.hu[mask] += (share * np.maximum(hu - scene.hu, 0))[mask]


def _side(rng: np.random.Generator) -> str:
    return ("right", "left")[int(rng.integers(2))]
