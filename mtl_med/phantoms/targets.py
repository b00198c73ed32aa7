"""Where the tumour grows and what is therefore irradiated: PTV70, PTV63 and PTV56 as exclusive dose levels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtl_med.phantoms.space import Mask, Space

__all__ = ["PRESCRIPTIONS_GY", "Disease", "build_targets", "draw_disease"]

PRESCRIPTIONS_GY = {"PTV56": 56.0, "PTV63": 63.0, "PTV70": 70.0}
SKIN_MM = 4.0  # targets keep away from the skin by this depth
_SITES = {"oropharynx": (17.0, 20.0, 4.0), "hypopharynx": (12.0, 12.0, -34.0), "nasopharynx": (6.0, 18.0, 40.0)}
_CHAIN = ((-104, 44, 4), (-80, 38, 2), (-40, 36, 0), (0, 39, -2), (28, 42, -3))  # z, x, y of one side of the neck


@dataclass(frozen=True)
class Disease:
    """A made-up tumour: its side (+1 right), site, half axes, and its involved nodes as (z, half axes)."""

    side: int
    site: str
    offset_mm: tuple[float, float, float]
    radii_mm: tuple[float, float, float]
    nodes: tuple[tuple[float, tuple[float, float, float]], ...]
    levels: tuple[str, ...]
    both_sides: bool
    chain_z: tuple[float, float]


def draw_disease(rng: np.random.Generator) -> Disease:
    """Draw a tumour; most patients have all three dose levels, some two, few one."""
    levels = (("PTV56", "PTV63", "PTV70"), ("PTV56", "PTV70"), ("PTV70",))[int(rng.choice(3, p=(0.55, 0.37, 0.08)))]

    def three(low: float, high: float) -> tuple[float, float, float]:
        x, y, z = rng.uniform(low, high, 3)
        return float(x), float(y), float(z)

    nodes = tuple((float(rng.uniform(-60, 15)), three(8, 14)) for _ in range(int(rng.integers(1, 3))))
    return Disease(
        side=int(rng.choice((-1, 1))),
        site=str(rng.choice(tuple(_SITES), p=(0.6, 0.25, 0.15))),
        offset_mm=three(-5, 5),
        radii_mm=three(16, 25),
        nodes=nodes,
        levels=levels,
        both_sides=bool(rng.random() < 0.8),
        chain_z=(float(rng.uniform(-104, -85)), float(rng.uniform(15, 28))),
    )


def build_targets(
    space: Space, disease: Disease, hu: NDArray[np.float32], allowed: Mask, depth: NDArray[np.float32]
) -> dict[str, Mask]:
    """Paint the tumour and its nodes into the CT and make the targets around them.

    Args:
        space: anatomical coordinates of the grid.
        disease: the tumour.
        hu: HU (X, Y, Z), changed in place where tumour grows in soft tissue.
        allowed: where a target may lie: the body without spinal canal, brain and so on.
        depth: depth below the skin, mm.

    Returns:
        Target masks by OpenKBP name, each voxel in one target at most, the highest dose first.
    """
    side = disease.side
    site = np.array(_SITES[disease.site]) * (side, 1, 1) + disease.offset_mm
    lumps = [(site, np.array(disease.radii_mm))]
    for height, radii in disease.nodes:
        lumps.append((_on_chain(height, side), np.array(radii)))
    for centre, half in lumps:
        growth = space.ellipsoid(centre, half) & (hu > -200) & (hu < 200)
        hu[growth] = 92
        hu[growth & space.ellipsoid(centre, half * 0.45)] = 62  # poorly supplied with contrast medium
    free = allowed & (depth > SKIN_MM)

    def around(margin_mm: float, which: slice = slice(None)) -> Mask:
        return np.logical_or.reduce([space.ellipsoid(centre, half + margin_mm) for centre, half in lumps[which]])

    same, other = _chain(space, side, disease.chain_z), _chain(space, -side, disease.chain_z)
    volumes = {
        "PTV70": around(10),
        "PTV63": around(16) | (same & (space.z > -70)),
        "PTV56": around(20, slice(1)) | same | (other if disease.both_sides else space.empty()),
    }
    targets, taken = {}, ~free
    for name in ("PTV70", "PTV63", "PTV56"):
        if name in disease.levels:
            targets[name] = volumes[name] & ~taken
            taken = taken | volumes[name]
    return {name: targets[name] for name in sorted(targets) if targets[name].any()}


def _on_chain(height: float, side: int) -> NDArray:
    z, x, y = np.array(_CHAIN).T
    return np.array([side * np.interp(height, z, x), np.interp(height, z, y), height])


def _chain(space: Space, side: int, heights: tuple[float, float]) -> Mask:
    """The lymph nodes along the vessels on one side of the neck."""
    inner = [z for z, _, _ in _CHAIN if heights[0] < z < heights[1]]
    knots = [(z, *_on_chain(z, side)[:2]) for z in (heights[0], *inner, heights[1])]
    return space.tube(knots, 17, 21, end=8)
