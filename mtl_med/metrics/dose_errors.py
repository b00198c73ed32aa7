"""Where a predicted dose is too low and where too high: signed errors by dose band and where the dose falls steeply."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError
from mtl_med.metrics.rows import Row

__all__ = ["BANDS_PERCENT", "STEEP_PERCENT_PER_MM", "gradient_gy_per_mm", "signed_error_rows"]

BANDS_PERCENT = (0.0, 10.0, 30.0, 50.0, 70.0, 90.0, 107.0)
"""Lower edges of the bands of planned dose, percent of the reference; the last is open."""

STEEP_PERCENT_PER_MM = 3.0
"""Steep from here on: 30 % per cm, as in J. Van Dyk et al., Int J Radiat Oncol Biol Phys 26 (1993)."""


def gradient_gy_per_mm(dose_gy: NDArray, spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """Size of the dose's gradient by central differences, one-sided at the border.

    Args:
        dose_gy: (X, Y, Z) Gy.
        spacing_mm: voxel spacing along the axes, mm; an axis of one voxel has no gradient.
    """
    dose = np.asarray(dose_gy, dtype=np.float64)
    parts = [np.gradient(dose, mm, axis=axis) for axis, mm in enumerate(spacing_mm) if dose.shape[axis] > 1]
    return np.sqrt(sum((part**2 for part in parts), np.zeros_like(dose)))


def signed_error_rows(
    case: str,
    true_gy: NDArray,
    predicted_gy: NDArray,
    mask: NDArray,
    spacing_mm: Sequence[float],
    reference_gy: float,
    *,
    task: str = "dose",
) -> list[Row]:
    """Signed errors over the whole mask, by band of planned dose, and in the gradient.

    Args:
        case: id of the case.
        true_gy: (X, Y, Z) planned dose, Gy.
        predicted_gy: (X, Y, Z) predicted dose, Gy.
        mask: (X, Y, Z) where the dose counts.
        spacing_mm: voxel spacing along the axes, mm.
        reference_gy: what the bands are in percent of: the prescription, or the highest planned dose.
        task: name of the task.

    Returns:
        Per region `signed_error` (mean of predicted - planned), `overdose` and `underdose` (means of what is too much
        and of what is too little, over all voxels of the region, both positive: their difference is the signed error),
        all in Gy, and `voxels_share` in % of the mask. The region stands behind the name, such as
        `underdose_50-70%`, `underdose_gradient`; the whole mask has none. NaN where a region has no voxel.

    Raises:
        UsageError: other shapes, or a reference that is not positive.
    """
    true, predicted, inside = np.asarray(true_gy), np.asarray(predicted_gy), np.asarray(mask, dtype=bool)
    if not true.shape == predicted.shape == inside.shape:
        raise UsageError(
            f"doses of {true.shape} and {predicted.shape} and a mask of {inside.shape}, expected one shape"
        )
    if not 0 < reference_gy < math.inf:
        raise UsageError(f"reference dose is {reference_gy} Gy, expected more than 0")
    box = _box(inside)  # a gradient of the whole grid of a CT would take a gigabyte
    true, predicted, inside = true[box], predicted[box], inside[box]
    planned = true[inside].astype(np.float64)
    errors = predicted[inside].astype(np.float64) - planned
    steep = gradient_gy_per_mm(true, spacing_mm)[inside] >= STEEP_PERCENT_PER_MM / 100 * reference_gy
    rows: list[Row] = []
    for ending, where, chosen in _regions(100.0 * planned / reference_gy, steep, reference_gy):
        found = errors[chosen]
        values = {
            "signed_error": _mean(found),
            "overdose": _mean(np.maximum(found, 0.0)),
            "underdose": _mean(np.maximum(-found, 0.0)),
        }
        rows += [Row(case, task, "", f"{name}{ending}", value, "Gy", where) for name, value in values.items()]
        share = 100.0 * found.size / errors.size if errors.size else math.nan
        rows.append(Row(case, task, "", f"voxels_share{ending}", share, "%", where))
    return rows


def _regions(
    percent: NDArray[np.float64], steep: NDArray[np.bool_], reference_gy: float
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Ending of the metrics' names, convention, and voxels of each region."""
    yield "", "mean over the mask", np.ones(percent.shape, dtype=bool)
    for low, high in zip(BANDS_PERCENT, (*BANDS_PERCENT[1:], math.inf), strict=True):
        ending = f"_{low:g}-{high:g}%" if high < math.inf else f"_{low:g}%up"
        upper = f" to below {high:g} %" if high < math.inf else ""
        yield ending, f"planned dose from {low:g} % of {reference_gy:g} Gy{upper}", (percent >= low) & (percent < high)
    where = f"planned dose changes by {STEEP_PERCENT_PER_MM:g} % of {reference_gy:g} Gy per mm or more"
    yield "_gradient", where, steep


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Bounding box of a mask with one voxel around it, which central differences need."""
    spans = []
    for axis in range(mask.ndim):
        filled = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        spans.append(slice(max(filled[0] - 1, 0), filled[-1] + 2) if filled.size else slice(0, 2))
    return tuple(spans)


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan
