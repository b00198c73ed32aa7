"""Scores of a dose: the OpenKBP dose score and DVH score, and mean absolute errors.

Source: Babier et al., "OpenKBP: The open-access knowledge-based planning grand challenge and dataset", Med Phys 2021.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import UsageError, nearest
from mtl_med.metrics.rows import Row

__all__ = [
    "CONVENTIONS",
    "OAR_METRICS",
    "TARGET_METRICS",
    "dose_at_hottest_cc",
    "dose_at_volume",
    "dose_rows",
    "dose_score",
    "dvh_metrics",
    "dvh_score",
    "mae_in_mask",
    "mae_whole_grid",
    "volume_at_dose",
]

CONVENTIONS = ("linear", "cumulative")
"""`linear`: numpy's percentile of the voxels' doses, as OpenKBP. `cumulative`: the largest dose that at least the
volume receives, as planning systems read it off the DVH."""

OAR_METRICS = ("D_0.1cc", "mean")
TARGET_METRICS = ("D_99", "D_95", "D_1")


def dose_score(true_gy: NDArray, predicted_gy: NDArray, possible_dose_mask: NDArray) -> float:
    """OpenKBP dose score of one patient: sum of |error| over the grid per voxel of the possible-dose mask.

    As in the official code the prediction counts only inside the mask, while the true dose counts everywhere.

    Args:
        true_gy: (X, Y, Z) planned dose, Gy.
        predicted_gy: (X, Y, Z) predicted dose, Gy.
        possible_dose_mask: (X, Y, Z) where dose is possible.

    Returns:
        Gy; NaN when the mask is empty.
    """
    mask = np.asarray(possible_dose_mask, dtype=bool)
    error = _error(true_gy, np.where(mask, predicted_gy, 0.0))
    return _ratio(float(np.abs(error).sum()), int(mask.sum()))


def mae_in_mask(true_gy: NDArray, predicted_gy: NDArray, possible_dose_mask: NDArray) -> float:
    """Mean absolute error over the voxels of the possible-dose mask, Gy; NaN when it is empty."""
    mask = np.asarray(possible_dose_mask, dtype=bool)
    error = _error(np.asarray(true_gy)[mask], np.asarray(predicted_gy)[mask])
    return _ratio(float(np.abs(error).sum()), error.size)


def mae_whole_grid(true_gy: NDArray, predicted_gy: NDArray) -> float:
    """Mean absolute error over all voxels of the grid, air included, of the prediction as it is, Gy."""
    error = _error(true_gy, predicted_gy)
    return _ratio(float(np.abs(error).sum()), error.size)


def dose_at_volume(doses_gy: NDArray, percent: float, convention: str = "linear") -> float:
    """D_x: the dose that the hottest `percent` of a structure's voxels receive at least.

    Args:
        doses_gy: doses of the structure's voxels, any shape.
        percent: x, of the structure's volume, 0..100.
        convention: one of `CONVENTIONS`.

    Returns:
        Gy; NaN for no voxels. 19 voxels at 60 Gy and one at 40 Gy have a D_95 of 59 (linear) or 60 Gy (cumulative).
    """
    doses = np.asarray(doses_gy, dtype=np.float64).ravel()
    _check_convention(convention)
    if not doses.size:
        return math.nan
    if convention == "linear":
        return float(np.percentile(doses, 100.0 - percent))
    # A volume of exactly x % must not need one voxel more because x n / 100 was rounded up in binary.
    return _hottest(doses, math.ceil(percent * doses.size / 100.0 - 1e-9))


def dose_at_hottest_cc(
    doses_gy: NDArray, voxel_mm3: float, convention: str = "linear", volume_cc: float = 0.1
) -> float:
    """D_0.1cc: the dose that the hottest 0.1 cc of a structure receive at least.

    Args:
        doses_gy: doses of the structure's voxels, any shape.
        voxel_mm3: volume of a voxel, mm^3.
        convention: one of `CONVENTIONS`; `linear` is the percentile `100 - max(1, round(100 / voxel_mm3)) / n * 100` of
            OpenKBP, clipped at 0 for structures smaller than the volume.
        volume_cc: the volume, cc.

    Returns:
        Gy; NaN for no voxels.
    """
    doses = np.asarray(doses_gy, dtype=np.float64).ravel()
    _check_convention(convention)
    if not doses.size:
        return math.nan
    wanted = 1000.0 * volume_cc / voxel_mm3
    if convention == "linear":
        return float(np.percentile(doses, max(0.0, 100.0 - max(1, round(wanted)) / doses.size * 100.0)))
    # At least the volume: a part of a voxel counts as a whole one (1e-9 absorbs the division's rounding).
    return _hottest(doses, max(1, math.ceil(wanted - 1e-9)))


def volume_at_dose(doses_gy: NDArray, threshold_gy: float) -> float:
    """V_x: the share of a structure's voxels that receive at least a dose.

    Args:
        doses_gy: doses of the structure's voxels, any shape.
        threshold_gy: x, Gy.

    Returns:
        Percent; NaN for no voxels.
    """
    doses = np.asarray(doses_gy)
    return _ratio(100.0 * int(np.count_nonzero(doses >= threshold_gy)), doses.size)


def dvh_metrics(
    dose_gy: NDArray, structure: NDArray, *, kind: str, voxel_mm3: float, convention: str = "linear"
) -> dict[str, float]:
    """The DVH metrics that OpenKBP takes from one structure.

    Args:
        dose_gy: (X, Y, Z) dose, Gy.
        structure: (X, Y, Z) mask.
        kind: "target" gives D_99, D_95 and D_1, any other kind D_0.1cc and the mean.
        voxel_mm3: volume of a voxel, mm^3.
        convention: one of `CONVENTIONS`; the mean is the same in both.

    Returns:
        Metric name -> Gy; NaN when the structure is empty.
    """
    doses = np.asarray(dose_gy)[np.asarray(structure, dtype=bool)].astype(np.float64)
    return _metrics_of(doses, kind, voxel_mm3, convention)


def _metrics_of(doses: NDArray[np.float64], kind: str, voxel_mm3: float, convention: str) -> dict[str, float]:
    """DVH metrics of the doses of a structure's voxels."""
    if kind == "target":
        return {f"D_{x}": dose_at_volume(doses, x, convention) for x in (99, 95, 1)}
    mean = float(doses.mean()) if doses.size else math.nan
    return {"D_0.1cc": dose_at_hottest_cc(doses, voxel_mm3, convention), "mean": mean}


def dose_rows(
    case: str,
    true_gy: NDArray,
    predicted_gy: NDArray,
    possible_dose_mask: NDArray,
    structures: Mapping[str, tuple[str, NDArray]],
    *,
    voxel_mm3: float,
    task: str = "dose",
    known: NDArray | None = None,
) -> list[Row]:
    """All dose scores of one case as rows.

    Args:
        case: id of the case.
        true_gy: (X, Y, Z) planned dose, Gy.
        predicted_gy: (X, Y, Z) predicted dose, Gy.
        possible_dose_mask: (X, Y, Z).
        structures: name -> (kind, mask) of the true contours; structures that are not contoured are left out, and
            empty ones are skipped.
        voxel_mm3: volume of a voxel, mm^3.
        task: name of the task.
        known: (X, Y, Z) where the planned dose is known: only these voxels of a structure count. None for everywhere.

    Returns:
        Rows `dose_score`, `mae_in_mask`, `mae_whole_grid`, and per structure, DVH metric and convention
        `<metric>_true`, `<metric>_predicted`, `<metric>_abs_error` and `<metric>_signed_error` (predicted - true). A
        mean has no convention and is there once.
    """
    scores = {
        ("dose_score", "openkbp"): dose_score(true_gy, predicted_gy, possible_dose_mask),
        ("mae_in_mask", "possible_dose_mask"): mae_in_mask(true_gy, predicted_gy, possible_dose_mask),
        ("mae_whole_grid", "whole_grid"): mae_whole_grid(true_gy, predicted_gy),
    }
    rows = [Row(case, task, "", metric, value, "Gy", convention) for (metric, convention), value in scores.items()]
    inside = np.where(np.asarray(possible_dose_mask, dtype=bool), predicted_gy, 0.0)
    for name, (kind, mask) in structures.items():
        voxels = np.asarray(mask, dtype=bool) if known is None else np.asarray(mask, dtype=bool) & known
        if not voxels.any():
            continue
        pair = [np.asarray(dose)[voxels].astype(np.float64) for dose in (true_gy, inside)]
        for convention in CONVENTIONS:
            true, predicted = (_metrics_of(doses, kind, voxel_mm3, convention) for doses in pair)
            for metric, value in true.items():
                if metric == "mean" and convention != CONVENTIONS[0]:
                    continue
                values = {
                    "true": value,
                    "predicted": predicted[metric],
                    "abs_error": abs(value - predicted[metric]),
                    "signed_error": predicted[metric] - value,
                }
                told = "" if metric == "mean" else convention
                rows += [Row(case, task, name, f"{metric}_{k}", v, "Gy", told) for k, v in values.items()]
    return rows


def dvh_score(rows: Iterable[Row], convention: str = "linear") -> float:
    """OpenKBP DVH score: one flat mean of |true - predicted| over patients, structures and metrics, without NaN.

    Args:
        rows: of any number of cases, as `dose_rows` gives them.
        convention: of the percentiles; "linear" is the challenge's score. Means, which have none, count in both.

    Returns:
        Gy; NaN when no structure was scored.
    """
    _check_convention(convention)
    metrics = {f"{metric}_abs_error" for metric in (*OAR_METRICS, *TARGET_METRICS)}
    errors = [row.value for row in rows if row.metric in metrics and row.convention in (convention, "")]
    defined = [error for error in errors if not math.isnan(error)]
    return float(np.mean(defined)) if defined else math.nan


def _error(true_gy: NDArray, predicted_gy: NDArray) -> NDArray[np.float64]:
    true, predicted = np.asarray(true_gy), np.asarray(predicted_gy)
    if true.shape != predicted.shape:
        raise UsageError(f"predicted dose has shape {predicted.shape}, expected {true.shape} of the true dose")
    return np.subtract(true, predicted, dtype=np.float64)


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan


def _hottest(doses: NDArray[np.float64], count: int) -> float:
    """Dose of the `count`-th hottest voxel."""
    position = doses.size - min(max(count, 1), doses.size)
    return float(np.partition(doses, position)[position])


def _check_convention(convention: str) -> None:
    if convention not in CONVENTIONS:
        raise UsageError(f"unknown DVH convention '{convention}'", fix=nearest(convention, CONVENTIONS))
