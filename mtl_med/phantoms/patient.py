"""One phantom: anatomy, tumour, targets and dose, put together from a seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.errors import UsageError
from mtl_med.geometry import Grid
from mtl_med.phantoms.anatomy import NERVES, build_anatomy, draw_patient
from mtl_med.phantoms.plan import plan_dose
from mtl_med.phantoms.space import Floats, Mask, Space
from mtl_med.phantoms.targets import PRESCRIPTIONS_GY, build_targets, draw_disease

__all__ = ["OUTSIDE_HU", "Phantom", "make_phantom"]

OUTSIDE_HU = -1024
FULL_GRID = 128  # voxels per axis of OpenKBP; other shapes keep its field of view
MASK_MARGIN_MM = 25.0  # dose is given in slices this far above and below the targets
DOSE_CEILING_GY = 80.0  # as in OpenKBP
PARTIAL_VOLUME_MM = 1.6
_IN_PLANE_MM = (3.516, 3.75, 3.906, 3.906, 4.12, 4.297, 4.5)
_SLICE_MM = (2.0, 2.5, 2.5, 2.5, 3.0)
_LEFT_OUT = {  # share of the patients in whom an organ is not contoured
    "Brainstem": 0.03,
    "SpinalCord": 0.02,
    "RightParotid": 0.05,
    "LeftParotid": 0.05,
    "Esophagus": 0.25,
    "Larynx": 0.2,
    "Mandible": 0.1,
}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A made-up patient on a RAS grid.

    Args:
        seed: what it was made from.
        grid: the grid of all arrays; their axes run to R, A, S.
        ct_hu: (X, Y, Z) int16, -1024 outside the body.
        structures: contoured structures by OpenKBP name, bool (X, Y, Z); one that is not here was not contoured.
        dose_gy: (X, Y, Z) float32, zero outside `possible_dose_mask`.
        possible_dose_mask: bool (X, Y, Z).
        prescriptions_gy: target name -> prescribed dose, Gy.
    """

    seed: tuple[int, ...]
    grid: Grid
    ct_hu: NDArray[np.int16]
    structures: dict[str, Mask]
    dose_gy: Floats
    possible_dose_mask: Mask
    prescriptions_gy: dict[str, float]


def make_phantom(
    seed: int | Sequence[int],
    *,
    shape: tuple[int, int, int] = (FULL_GRID, FULL_GRID, FULL_GRID),
    all_contours: bool = False,
) -> Phantom:
    """Make one patient; the same seed gives the same patient, and the same bytes for the same shape.

    Args:
        seed: integers from 0 up.
        shape: number of voxels along R, A, S. The field of view stays, so that fewer voxels are larger ones.
        all_contours: keep every organ; by default some are not contoured, as in real data.

    Raises:
        UsageError: a negative seed, or fewer than 32 voxels along an axis.
    """
    words = (int(seed),) if isinstance(seed, int | np.integer) else tuple(int(word) for word in seed)
    if not words or min(words) < 0:
        raise UsageError(f"a phantom's seed is made of integers from 0 up, found {seed}", fix="Choose another seed")
    if len(shape) != 3 or min(shape) < 32:
        raise UsageError(f"a phantom needs at least 32 voxels along each of three axes, found {shape}")
    # One stream per purpose, so that a change in one does not reshuffle the others.
    sequences = np.random.SeedSequence(words).spawn(7)
    body_rng, disease_rng, grid_rng, warp_rng, tissue_rng, plan_rng, noise_rng = map(np.random.default_rng, sequences)

    patient, disease, grid = draw_patient(body_rng), draw_disease(disease_rng), _draw_grid(grid_rng, shape)
    space = Space(grid, patient.shift_mm, patient.scale, patient.warp_mm, warp_rng)
    hu, body, depth_mm, organs = build_anatomy(space, patient, tissue_rng)
    allowed = body & ~space.tube(NERVES, 24, 20)
    targets = build_targets(space, disease, hu, allowed, depth_mm)
    prescriptions = {name: PRESCRIPTIONS_GY[name] for name in targets}
    mask = body & _slices_near(targets, grid)
    dose = plan_dose(hu, grid, targets, prescriptions, organs, mask)
    dose *= plan_rng.uniform(69.2, 70.4) / np.percentile(dose[targets["PTV70"]], 5)  # D95, as accepted in the clinic
    left_out = {name for name, share in _LEFT_OUT.items() if plan_rng.random() < share and not all_contours}
    return Phantom(
        seed=words,
        grid=grid,
        ct_hu=_scan(hu, body, grid, patient.noise_hu, noise_rng),
        structures={name: m for name, m in (organs | targets).items() if name not in left_out and m.any()},
        dose_gy=np.minimum(dose, np.float32(DOSE_CEILING_GY)),
        possible_dose_mask=mask,
        prescriptions_gy=prescriptions,
    )


def _draw_grid(rng: np.random.Generator, shape: tuple[int, int, int]) -> Grid:
    """A centred RAS grid; its field of view is that of 128 voxels of a usual size."""
    plane, height = float(rng.choice(_IN_PLANE_MM)), float(rng.choice(_SLICE_MM))
    spacing = np.array([plane, plane, height]) * FULL_GRID / np.array(shape)
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = -spacing * (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def _slices_near(targets: Mapping[str, Mask], grid: Grid) -> Mask:
    """Slices that hold a target or lie near one, (1, 1, Z)."""
    used = np.flatnonzero(np.logical_or.reduce([target.any(axis=(0, 1)) for target in targets.values()]))
    margin = round(MASK_MARGIN_MM / grid.spacing_mm[2])
    near = np.zeros(grid.shape[2], dtype=bool)
    near[max(used[0] - margin, 0) : used[-1] + margin + 1] = True
    return near[None, None, :]


def _scan(hu: Floats, body: Mask, grid: Grid, noise_hu: float, rng: np.random.Generator) -> NDArray[np.int16]:
    """What the scanner makes of it: partial volume, grainy noise, whole numbers; -1024 only outside the body."""
    blurred = ndimage.gaussian_filter(hu, [PARTIAL_VOLUME_MM / mm for mm in grid.spacing_mm])
    coarse = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 1.0)
    fine = rng.standard_normal(hu.shape, dtype=np.float32)
    noisy = blurred + noise_hu * (0.7 * coarse / coarse.std() + 0.5 * fine)
    return np.where(body, np.clip(np.rint(noisy), OUTSIDE_HU + 1, 3071), OUTSIDE_HU).astype(np.int16)
