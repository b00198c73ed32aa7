"""One made-up pelvis with a prostate plan: CT, contours with exact surfaces, and the dose of fitted beams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.errors import UsageError
from mtl_med.geometry import Grid
from mtl_med.phantoms.patient import OUTSIDE_HU, Phantom
from mtl_med.phantoms.pelvis_anatomy import Pelvis, contoured_solids, draw_pelvis
from mtl_med.phantoms.pelvis_tissues import build_pelvis
from mtl_med.phantoms.plan import plan_dose
from mtl_med.phantoms.solids import Ellipsoid, Solid, inside
from mtl_med.phantoms.space import Floats, Mask, axes_mm

__all__ = ["SCHEDULES", "PelvisPhantom", "make_pelvis"]

SCHEDULES = ((60.0, 20), (70.0, 28), (70.0, 35), (78.0, 39))  # prescribed dose, Gy, and its number of fractions
FIELD_OF_VIEW_MM = (448.0, 448.0, 240.0)
MIDDLE_Z_MM = 8.0  # height of the scan's middle above the femoral heads
DOSE_MARGIN_MM = 25.0  # dose is given in slices this far above and below the PTV
PLAN_SHAPE = (80, 80, 60)  # voxels for which beams are fitted, at most; a finer phantom interpolates between them
PARTIAL_VOLUME_MM = 1.2
AIR_HU = -1000
SMALLEST = (32, 32, 16)


@dataclass(frozen=True, eq=False)
class PelvisPhantom(Phantom):
    """A made-up pelvis on a RAS grid; for the other fields see `Phantom`.

    Args:
        solids: the contoured structures by TG-263 name, as solids with exact surfaces.
        fractions: planned number of fractions.
    """

    solids: dict[str, Solid] = field(default_factory=dict)
    fractions: int = 1


def make_pelvis(
    seed: int | Sequence[int], *, shape: tuple[int, int, int] = (128, 128, 80), walls: bool = False
) -> PelvisPhantom:
    """Make one patient; the same seed gives the same patient, and the same bytes for the same shape.

    Args:
        seed: integers from 0 up.
        shape: number of voxels along R, A, S. The field of view stays, so that fewer voxels are larger ones.
        walls: contour the walls of bladder and rectum as well, which are hollow.

    Raises:
        UsageError: a negative seed, or too few voxels along an axis.
    """
    words = (int(seed),) if isinstance(seed, int | np.integer) else tuple(int(word) for word in seed)
    if not words or min(words) < 0:
        raise UsageError(f"a phantom's seed is made of integers from 0 up, found {seed}", fix="Choose another seed")
    if len(shape) != 3 or any(size < least for size, least in zip(shape, SMALLEST, strict=True)):
        raise UsageError(f"a pelvis needs at least {SMALLEST} voxels, found {tuple(shape)}", fix="Ask for more")
    # One stream per purpose, so that a change in one does not reshuffle the others.
    streams = np.random.SeedSequence((*words, 0x9E1)).spawn(3)
    body_rng, plan_rng, noise_rng = map(np.random.default_rng, streams)

    pelvis, grid = draw_pelvis(body_rng), _grid(body_rng, shape)
    axes = axes_mm(grid)
    solids = contoured_solids(pelvis, walls=walls)
    structures = {name: inside(solid, *np.ix_(*axes)) for name, solid in solids.items()}
    hu, body = build_pelvis(pelvis, axes)
    gy, fractions = SCHEDULES[int(plan_rng.integers(len(SCHEDULES)))]
    mask = body & _slices_near(structures["PTV"], grid)
    dose = np.where(mask, _plan(pelvis, grid, solids, gy), np.float32(0))
    d95, d50 = np.percentile(dose[structures["PTV"]], (5, 50))
    dose *= np.float32(gy * min(plan_rng.uniform(0.97, 1.0) / d95, 1.045 / d50))
    return PelvisPhantom(
        seed=words,
        grid=grid,
        ct_hu=_scan(hu, body, pelvis, axes, noise_rng),
        structures=structures,
        dose_gy=np.minimum(dose, np.float32(1.1 * gy)),
        possible_dose_mask=mask,
        prescriptions_gy={"CTV": gy, "PTV": gy},
        solids=solids,
        fractions=fractions,
    )


def _grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> Grid:
    """A RAS grid whose middle lies near the patient's, never in it."""
    spacing = np.array(FIELD_OF_VIEW_MM) / np.array(shape)
    affine = np.diag([*spacing, 1.0])
    middle = np.array([0, -2, MIDDLE_Z_MM]) + rng.uniform(-4, 4, 3)
    affine[:3, 3] = np.round(middle - spacing * (np.array(shape) - 1) / 2, 2)
    return Grid(shape, affine)


def _plan(pelvis: Pelvis, grid: Grid, solids: Mapping[str, Solid], gy: float) -> Floats:
    """Dose everywhere in the slices near the PTV and just outside the body, planned on a grid of few voxels."""
    count = np.minimum(grid.shape, PLAN_SHAPE)
    ratio = (np.array(grid.shape) / count).astype(float)
    affine = grid.affine.copy()
    affine[:3, 3] += np.diag(affine)[:3] * (ratio - 1) / 2
    affine[:3, :3] *= ratio
    coarse = Grid((int(count[0]), int(count[1]), int(count[2])), affine)
    axes = axes_mm(coarse)
    masks = {name: inside(solid, *np.ix_(*axes)) for name, solid in solids.items()}
    hu, body = build_pelvis(pelvis, axes)
    near = _slices_near(masks["PTV"], coarse)
    organs = {name: mask for name, mask in masks.items() if name not in ("External", "CTV", "PTV")}
    around = ndimage.binary_dilation(body) & ndimage.binary_dilation(near, iterations=2)
    dose = plan_dose(hu, coarse, {"PTV": masks["PTV"]}, {"PTV": gy}, organs, around)
    return ndimage.affine_transform(
        dose, 1 / ratio, offset=(1 / ratio - 1) / 2, output_shape=grid.shape, order=1, mode="nearest"
    )


def _slices_near(target: Mask, grid: Grid) -> Mask:
    """Slices that hold the target or lie near it, (1, 1, Z)."""
    used = np.flatnonzero(target.any(axis=(0, 1)))
    margin = round(DOSE_MARGIN_MM / grid.spacing_mm[2])
    near = np.zeros(grid.shape[2], dtype=bool)
    near[max(used[0] - margin, 0) : used[-1] + margin + 1] = True
    return near[None, None, :]


def _scan(
    hu: Floats, body: Mask, pelvis: Pelvis, axes: Sequence[NDArray], rng: np.random.Generator
) -> NDArray[np.int16]:
    """What the scanner makes of it: the couch below, air around, partial volume, grainy noise, whole numbers."""
    scene = np.where(body, hu, np.float32(AIR_HU))
    back = -112 * pelvis.size[1] - 4
    for half, value in ((22.0, -650), (19.0, -900)):
        couch = Ellipsoid((0, back - 22, 0), (210 - 22 + half, half, 1000), power=8)
        scene[inside(couch, *np.ix_(*axes)) & ~body] = value
    blurred = ndimage.gaussian_filter(scene, [PARTIAL_VOLUME_MM / (axis[1] - axis[0]) for axis in axes])
    coarse = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 1.0)
    fine = rng.standard_normal(hu.shape, dtype=np.float32)
    noisy = blurred + pelvis.noise_hu * (0.7 * coarse / coarse.std() + 0.5 * fine)
    return np.clip(np.rint(noisy), OUTSIDE_HU, 3071).astype(np.int16)
