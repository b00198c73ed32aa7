"""The anatomy of a made-up chest, in mm: x to the right, y to the front, z up, from between the lungs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid
from mtl_med.phantoms.solids import Barrel, Capsule, Ellipsoid, Solid, Tube, Union, inside
from mtl_med.phantoms.space import Floats, Mask

__all__ = ["AIR_HU", "HILUM", "LUNGS", "Scene", "build_chest", "lung_mask"]

AIR_HU = -1000
LUNG_HU = -865.0
SIDES = {"right": 1, "left": -1}  # sign of x
HILUM = (34.0, -12.0, 12.0)  # of the right lung
LUNGS = {
    "right": Ellipsoid((77, -4, 4), (61, 83, 130), power=2.5),
    "left": Ellipsoid((-77, -4, 4), (59, 81, 128), power=2.5),
}
_BODY = Barrel(
    ((-260, 148, 98, 104), (-90, 158, 104, 107), (70, 164, 102, 108), (135, 168, 84, 104), (260, 90, 60, 80))
)
_CHEST_WALL = Barrel(((-260, 142, 86, 92), (70, 142, 84, 92), (140, 120, 66, 84), (260, 70, 45, 60)))
_SPINE = Tube(((-260, 0, -64, 19, 17), (260, 0, -64, 17, 16)))
_CANAL = Tube(((-260, 0, -86, 9, 8), (260, 0, -86, 9, 8)))
_HEART = Ellipsoid((-20, 24, -42), (60, 50, 52))
_AORTA = Tube(((-260, -16, -44, 13, 13), (70, -20, -42, 13, 13)))
_AIRWAY = Union(
    (
        Tube(((38, 0, -12, 9, 8), (260, 0, 6, 9, 8))),
        Capsule((0, -12, 42), (38, -14, 14), 7, 5),
        Capsule((0, -12, 42), (-40, -14, 10), 7, 5),
    )
)
_RIB_PITCH_MM, _RIB_SLOPE = 27.0, 0.55


class Scene:
    """Anatomical coordinates of the voxels of any grid, and the HU drawn there so far.

    Args:
        grid: where the voxels lie; axes may run in any direction.
        shift_mm: where the anatomical origin lies, RAS mm.
        scale: size of the patient along x, y and z; 1 is average.
    """

    def __init__(self, grid: Grid, shift_mm: NDArray, scale: NDArray) -> None:
        self.grid = grid
        # Anatomical from voxel indices, and back.
        self._affine = (grid.affine[:3, :3] / scale[:, None]).astype(np.float32)
        self._start = ((grid.affine[:3, 3] - shift_mm) / scale).astype(np.float32)
        i, j, k = np.ix_(*(np.arange(size, dtype=np.float32) for size in grid.shape))
        self.x, self.y, self.z = (
            row[0] * i + row[1] * j + row[2] * k + start for row, start in zip(self._affine, self._start, strict=True)
        )
        self.hu: Floats = np.full(grid.shape, AIR_HU, dtype=np.float32)

    def box(self, solid: Solid) -> tuple[slice, slice, slice]:
        """Array slices that hold all of a solid."""
        low, high = solid.bounds
        corners = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), axis=-1).reshape(-1, 3)
        indices = (corners - self._start) @ np.linalg.inv(self._affine).T
        first = np.clip(np.floor(indices.min(axis=0)), 0, self.grid.shape).astype(int)
        last = np.clip(np.ceil(indices.max(axis=0)) + 1, first, self.grid.shape).astype(int)
        return slice(first[0], last[0]), slice(first[1], last[1]), slice(first[2], last[2])

    def mask(self, solid: Solid) -> Mask:
        """Where a solid is."""
        mask = np.zeros(self.grid.shape, dtype=bool)
        box = self.box(solid)
        mask[box] = inside(solid, self.x[box], self.y[box], self.z[box])
        return mask

    def draw(self, solid: Solid, hu: float, within: Mask | None = None) -> None:
        """Give a solid, or what of it lies within a mask, its HU."""
        box = self.box(solid)
        here = inside(solid, self.x[box], self.y[box], self.z[box])
        self.hu[box][here if within is None else here & within[box]] = hu


def _dome(scene: Scene, side: str) -> Floats:
    """Height of the diaphragm below one lung."""
    sign, top = SIDES[side], -32.0 if side == "right" else -42.0
    spread = ((scene.x - sign * 72) / 62) ** 2 + ((scene.y - 14) / 78) ** 2
    return top - 78 * (1 - np.exp(-spread)).astype(np.float32)


def lung_mask(scene: Scene, side: str) -> Mask:
    """One lung: its ellipsoid above the diaphragm, without heart, spine, aorta and the middle of the chest."""
    mask = scene.mask(LUNGS[side]) & (scene.z > _dome(scene, side)) & (np.abs(scene.x) > 20)
    wider = Ellipsoid(_HEART.centre, (64, 54, 56))
    for solid in (wider, Tube(((-260, 0, -66, 27, 25), (260, 0, -66, 25, 24))), _AORTA):
        mask &= ~scene.mask(solid)
    return mask


def build_chest(scene: Scene, rng: np.random.Generator, *, arms_down: bool) -> dict[str, Mask]:
    """Draw the body; the lungs are healthy.

    Returns:
        "right" and "left" lung.
    """
    scene.draw(_BODY, -105)
    scene.draw(_CHEST_WALL, 45)
    if arms_down:
        for x in (-206, 206):
            scene.draw(Capsule((x, -10, -300), (x * 0.93, -14, 150), 38, 46), 40)
            scene.draw(Capsule((x, -10, -300), (x * 0.93, -14, 150), 11, 13), 500)
    _draw_ribs(scene)
    below = (scene.z < np.where(scene.x > 0, _dome(scene, "right"), _dome(scene, "left"))) & (scene.z < -30)
    cavity = scene.mask(Barrel(((-260, 132, 78, 84), (140, 132, 78, 84))))
    scene.hu[cavity] = -20
    scene.draw(_CHEST_WALL, 40, cavity & ~scene.mask(Barrel(((-260, 126, 72, 78), (140, 126, 72, 78)))))
    scene.hu[cavity & below] = np.where(scene.x > -25, 60, 35)[cavity & below]
    lungs = {side: lung_mask(scene, side) for side in SIDES}
    for side, mask in lungs.items():
        scene.hu[mask] = LUNG_HU - 0.45 * (scene.y[mask] + 4)  # denser at the back, where the patient lies
        _draw_vessels(scene, mask, SIDES[side], rng)
    for solid, hu in ((_HEART, 45), (_AORTA, 50), (_SPINE, 190), (_CANAL, 35)):
        scene.draw(solid, hu, ~(lungs["right"] | lungs["left"]))
    scene.draw(Capsule((0, 84, -70), (0, 76, 110), 9, 12), 180)  # sternum
    scene.draw(_AIRWAY, -995)
    gas = Ellipsoid((-68 + rng.uniform(-8, 8), 26, -72 + rng.uniform(-6, 3)), (27, 24, 13))
    scene.draw(gas, -995, cavity & below & _clear_of(scene, "left", 10))  # in the stomach
    for x, z in ((60, -128), (-50, -138), (5, -145)):
        scene.draw(Ellipsoid((x + rng.uniform(-15, 15), 45, z), (24, 16, 11)), -990, cavity & below)  # in the bowel
    return lungs


def _clear_of(scene: Scene, side: str, mm: float) -> Mask:
    """What lies further than some mm below the diaphragm."""
    return scene.z < _dome(scene, side) - mm


def _draw_ribs(scene: Scene) -> None:
    level = _CHEST_WALL.level(scene.x, scene.y, scene.z)
    phase = (scene.z - _RIB_SLOPE * scene.y) / _RIB_PITCH_MM
    ring = (level > 0.84) & (level < 1.0) & (np.abs(scene.z) < 150) & (np.abs(scene.x) > 14)
    scene.hu[ring & (np.cos(2 * np.pi * phase) > 0.25)] = 420


def _draw_vessels(scene: Scene, lung: Mask, sign: int, rng: np.random.Generator) -> None:
    """Branches from the hilum outwards, each with two smaller ones."""
    hilum = np.array([sign * HILUM[0], HILUM[1], HILUM[2]])
    for _ in range(13):
        end = np.array([sign * rng.uniform(55, 128), rng.uniform(-70, 60), rng.uniform(-95, 105)])
        middle = hilum + (end - hilum) * rng.uniform(0.4, 0.6)
        scene.draw(Capsule(tuple(hilum), tuple(end), 4.5, 1.5), 40, lung)
        for _ in range(2):
            twig = middle + (end - middle) * 0.8 + rng.uniform(-32, 32, 3)
            scene.draw(Capsule(tuple(middle), tuple(twig), 2.6, 1.2), 30, lung)
