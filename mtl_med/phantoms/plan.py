"""Inverse planning in outline: what a plan asks for, voxel by voxel, and the fluence maps that come close to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.geometry import Grid
from mtl_med.phantoms.beams import Beams
from mtl_med.phantoms.space import Floats, Mask, axes_mm

__all__ = ["Goal", "fit_fluence", "plan_dose"]

BEAMS = 9  # equispaced, as in OpenKBP
FIELD_MARGIN_MM = 15.0  # beamlets reach this far beyond the targets
FIT_IN_PLANE_MM = 8.0  # the fit looks at every n-th voxel in plane, about this far apart
# Around a target the limit is the prescription for the first millimetres, then falls to a share of it.
FREE_MM, FALL_MM, FLOOR = 6.0, 14.0, 0.30
LIMITS = {  # organ: dose it should stay below, Gy, and the weight of that
    "SpinalCord": (30.0, 6.0),
    "Brainstem": (25.0, 4.0),
    "RightParotid": (14.0, 1.0),
    "LeftParotid": (14.0, 1.0),
    "Larynx": (38.0, 0.6),
    "Esophagus": (32.0, 0.6),
    "Mandible": (45.0, 0.6),
    "Rectum": (32.0, 1.2),
    "Bladder": (38.0, 0.6),
    "Femur_Head_L": (28.0, 1.0),
    "Femur_Head_R": (28.0, 1.0),
}


@dataclass(frozen=True)
class Goal:
    """Dose at least and at most, Gy, and the weights of both, at the N points of a fit."""

    at_least_gy: Floats
    at_most_gy: Floats
    weight_least: Floats
    weight_most: Floats


def plan_dose(
    hu: Floats,
    grid: Grid,
    targets: Mapping[str, Mask],
    prescriptions_gy: Mapping[str, float],
    organs: Mapping[str, Mask],
    mask: Mask,
) -> Floats:
    """Fit beams to a patient.

    Args:
        hu: CT (X, Y, Z), HU, -1024 outside the body.
        grid: its RAS grid.
        targets: target masks, exclusive.
        prescriptions_gy: target name -> prescribed dose.
        organs: organ masks; those in `LIMITS` are spared.
        mask: voxels that get a dose.

    Returns:
        Dose (X, Y, Z), Gy, zero outside `mask`.
    """
    stride = max(1, round(FIT_IN_PLANE_MM / grid.spacing_mm[0]))
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    seen = tuple(slice(part.start, part.stop, stride if axis < 2 else 1) for axis, part in enumerate(box))
    axes = axes_mm(grid)
    points = _points(axes, mask, seen)
    goal = _goal(
        mask[seen],
        [axis[part] for axis, part in zip(axes, seen, strict=True)],
        {name: (target[seen], prescriptions_gy[name]) for name, target in targets.items()},
        {name: organ[seen] for name, organ in organs.items()},
    )
    aimed = points[goal.weight_least > 0]
    centre = (aimed[:, :2].max(axis=0) + aimed[:, :2].min(axis=0)) / 2
    beams = Beams(
        hu[seen],
        [axis[part] for axis, part in zip(axes, seen, strict=True)],
        (float(centre[0]), float(centre[1])),
        float(np.linalg.norm(aimed[:, :2] - centre, axis=1).max()) + FIELD_MARGIN_MM,
        (float(aimed[:, 2].min()) - FIELD_MARGIN_MM, float(aimed[:, 2].max()) + FIELD_MARGIN_MM),
        BEAMS,
    )
    dose = np.zeros(grid.shape, dtype=np.float32)
    dose[mask] = beams.dose(fit_fluence(beams, points, goal), _points(axes, mask, box))
    return dose


def fit_fluence(beams: Beams, points_mm: NDArray, goal: Goal, steps: int = 50) -> NDArray:
    """Fluence maps (beam, u, z) >= 0 that come close to a goal.

    Projected gradient steps with momentum on the one-sided weighted squares. The step of each bixel is the separable
    majoriser 1 / (A^T W A 1), which needs no line search since nothing in A is negative.
    """
    matrix = beams.matrix(points_mm)
    back = matrix.T.tocsr()

    def forward(fluence: NDArray) -> NDArray:
        return matrix @ beams.blur(fluence).ravel()

    def adjoint(values: NDArray) -> NDArray:
        return beams.blur((back @ values).reshape(beams.shape))

    weight = np.maximum(goal.weight_least, goal.weight_most)
    step = 1 / (adjoint(weight * forward(np.ones(beams.shape, np.float32))) + 1e-6)
    open_field = adjoint((goal.weight_least > 0).astype(np.float32))
    open_field = open_field > 0.05 * open_field.max(axis=(1, 2), keepdims=True)
    fluence = open_field * np.float32(goal.at_least_gy.max() / forward(open_field.astype(np.float32)).max())
    looked, momentum = fluence, 1.0
    for _ in range(steps):
        dose = forward(looked)
        slope = goal.weight_most * np.maximum(dose - goal.at_most_gy, 0)
        slope -= goal.weight_least * np.maximum(goal.at_least_gy - dose, 0)
        nearer = open_field * np.maximum(looked - step * adjoint(slope), 0)
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        looked = nearer + (momentum - 1) / following * (nearer - fluence)
        fluence, momentum = nearer, following
    return fluence


def _points(axes: Sequence[NDArray], mask: Mask, part: tuple[slice, ...]) -> NDArray:
    """RAS mm of the voxels of a mask within a part of the array, (N, 3)."""
    indices = np.nonzero(mask[part])
    return np.stack([axis[one][index] for axis, one, index in zip(axes, part, indices, strict=True)], axis=1)


def _goal(
    inside: Mask, axes: Sequence[NDArray], targets: Mapping[str, tuple[Mask, float]], organs: Mapping[str, Mask]
) -> Goal:
    """Prescriptions in the targets, limits in the organs, and a dose that falls off around the targets."""
    spacing = [axis[1] - axis[0] for axis in axes]
    around = np.zeros(inside.shape, dtype=np.float32)
    for target, gy in targets.values():
        away = np.maximum(ndimage.distance_transform_edt(~target, sampling=spacing) - FREE_MM, 0)
        np.maximum(around, gy * (FLOOR + (1 - FLOOR) * np.exp(-away / FALL_MM)), out=around)
    least, weight_least = np.zeros_like(around), np.zeros_like(around)
    most, weight_most = around.copy(), np.full_like(around, 0.3)
    for name, (gy, weight) in LIMITS.items():
        if name in organs:
            most[organs[name]] = np.minimum(most[organs[name]], gy)
            weight_most[organs[name]] = weight
    for target, gy in targets.values():
        least[target], weight_least[target] = gy + 2, 20.0
        # A lower dose level may be warmer where a higher one is near: there its upper limit matters less.
        most[target] = np.maximum(around[target], gy + 3)
        weight_most[target] = np.where(around[target] > gy + 3, 3.0, 8.0)
    return Goal(least[inside], most[inside], weight_least[inside], weight_most[inside])
