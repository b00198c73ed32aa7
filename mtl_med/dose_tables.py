"""The dose that a table of medians predicts: per combination of structures, or per distance to the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, UsageError, nearest
from mtl_med.io.nifti import read_nifti
from mtl_med.manifest import Case
from mtl_med.parallel import map_cases

__all__ = ["KINDS", "DoseTable", "fit", "median_by_code", "predict"]

BIN_GY = 0.1
BINS = 1500
DISTANCE_EDGES_MM = (-15, -10, -7, -5, -3, 0, 3.5, 5, 7, 10, 13, 16, 20, 25, 30, 36, 43, 51, 60, 75, 95, 120)
"""Signed distance to a target, negative inside; n edges make n + 1 bins, and one more stands for "not contoured"."""


@dataclass(frozen=True)
class DoseTable:
    """Median dose per code.

    Args:
        kind: "combination" or "distance".
        names: the structures that the codes speak of; for combinations targets first.
        targets: how many of `names` are targets.
        codes: (N,) codes seen in the fit cases, ascending.
        voxels: (N,) number of voxels of each.
        medians_gy: (N,) their median dose, Gy.
        overall_gy: median dose of all voxels, Gy.
    """

    kind: str
    names: tuple[str, ...]
    targets: int
    codes: NDArray[np.int64]
    voxels: NDArray[np.int64]
    medians_gy: NDArray[np.float64]
    overall_gy: float


def fit(cases: Sequence[Case], kind: str, *, workers: int = 1) -> tuple[DoseTable, dict[str, str]]:
    """Fit a table to the voxels inside the possible-dose masks of `cases`.

    Args:
        cases: with dose, mask_dose and structures.
        kind: one of `KINDS`.
        workers: number of processes.

    Returns:
        The table, and id -> sentence of the cases that could not be used.

    Raises:
        UsageError: an unknown kind, or no case that can be used.
    """
    if kind not in KINDS:
        raise UsageError(f"unknown baseline '{kind}'", fix=nearest(kind, KINDS))
    targets = sorted({name for case in cases for name in case.names("target")})
    oars = sorted({name for case in cases for name in case.names("oar")}) if kind == "combination" else []
    names = (*targets, *oars)
    outcomes = list(map_cases(partial(_count, kind, names), cases, workers=workers, label=f"fit {kind}"))
    failures = {case.id: out.failure for case, out in zip(cases, outcomes, strict=True) if out.failure}
    parts = [outcome.value for outcome in outcomes if outcome.value is not None]
    if not parts:
        raise UsageError(f"none of {len(cases)} cases can be fitted: {next(iter(failures.values()), 'no case')}")
    keys, place = np.unique(np.concatenate([part[0] for part in parts]), return_inverse=True)
    counts = np.bincount(place, weights=np.concatenate([part[1] for part in parts])).astype(np.int64)
    codes, voxels, medians = median_by_code(keys // BINS, keys % BINS, counts)
    order = np.argsort(keys % BINS, kind="stable")
    _, _, everything = median_by_code(np.zeros_like(keys), (keys % BINS)[order], counts[order])
    return DoseTable(kind, names, len(targets), codes, voxels, medians, float(everything[0])), failures


def median_by_code(
    codes: NDArray[np.int64], bins: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Median of histograms, linear within a bin.

    Args:
        codes: (N,) ascending; each run of equal codes is one histogram.
        bins: (N,) index of the dose bin, ascending within a code; bin b spans `BIN_GY` from `b * BIN_GY`.
        counts: (N,) voxels, at least 1.

    Returns:
        Codes, number of voxels and median dose in Gy, one each per code.
    """
    unique, first, place = np.unique(codes, return_index=True, return_inverse=True)
    running = np.cumsum(counts)
    before = (running - counts)[first]
    total = np.add.reduceat(counts, first)
    # The first entry at which a code's running count reaches half of its voxels.
    reached = np.flatnonzero(2 * (running - before[place]) >= total[place])
    _, where = np.unique(place[reached], return_index=True)
    entry = reached[where]
    within = (total / 2 - (running[entry] - counts[entry] - before)) / counts[entry]
    return unique, total, (bins[entry] + within) * BIN_GY


def _count(kind: str, names: tuple[str, ...], case: Case) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Voxels of one case per (code, dose bin): keys `code * BINS + bin`, ascending, and counts."""
    mask = _mask(case)
    dose = read_nifti(case.path("dose"))[0][mask]
    bins = np.clip(np.floor(dose.astype(np.float64) / BIN_GY), 0, BINS - 1).astype(np.int64)
    return np.unique(KINDS[kind](case, names, mask) * BINS + bins, return_counts=True)


def predict(table: DoseTable, case: Case) -> NDArray[np.float32]:
    """The table's dose for a case, (X, Y, Z) in Gy, 0 outside the possible-dose mask."""
    mask = _mask(case)
    codes, place = np.unique(KINDS[table.kind](case, table.names, mask), return_inverse=True)
    position = np.minimum(np.searchsorted(table.codes, codes), len(table.codes) - 1)
    doses = table.medians_gy[position]
    fallback = _nearest_combination if table.kind == "combination" else _nearest_distance
    for index in np.flatnonzero(table.codes[position] != codes):
        doses[index] = fallback(table, int(codes[index]))
    result = np.zeros(mask.shape, dtype=np.float32)
    result[mask] = doses[place]
    return result


def _combinations(case: Case, names: tuple[str, ...], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Bit i of a voxel's code: it lies in structure i; a structure that is not contoured holds no voxel."""
    codes = np.zeros(int(mask.sum()), dtype=np.int64)
    for bit, name in enumerate(names):
        if case.has(f"structures/{name}"):
            codes |= (read_nifti(case.path(f"structures/{name}"))[0][mask] > 0).astype(np.int64) << bit
    return codes


def _nearest_combination(table: DoseTable, code: int) -> float:
    """Of the combinations seen with the same targets, the one that drops the fewest organs; else the overall median."""
    targets = (1 << table.targets) - 1
    fits = ((table.codes & targets) == (code & targets)) & ((table.codes & ~code) == 0)
    if not fits.any():
        return table.overall_gy
    kept = np.array([int(seen).bit_count() for seen in table.codes[fits]])
    best = np.lexsort((table.voxels[fits], kept))[-1]
    return float(table.medians_gy[fits][best])


def _distances(case: Case, names: tuple[str, ...], mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A voxel's distance bins to all targets as the digits of one number, of base number of bins + 1."""
    base = len(DISTANCE_EDGES_MM) + 2
    codes = np.zeros(int(mask.sum()), dtype=np.int64)
    for digit, name in enumerate(names):
        bins = np.full(codes.shape, base - 1)
        if case.has(f"structures/{name}"):
            target = read_nifti(case.path(f"structures/{name}"))[0] > 0
            if target.any():
                bins = np.digitize(_signed_distance_mm(target, mask, case.spacing_mm), DISTANCE_EDGES_MM)
        codes += bins.astype(np.int64) * base**digit
    return codes


def _signed_distance_mm(
    target: NDArray[np.bool_], mask: NDArray[np.bool_], spacing_mm: Sequence[float]
) -> NDArray[np.float64]:
    """Distance of the mask's voxels to the nearest voxel of the target, negative inside to the nearest outside, mm."""
    from scipy.ndimage import distance_transform_edt, find_objects

    # One voxel around both is enough for the nearest voxel of either side, and faster than the grid.
    (span,) = find_objects((target | mask).astype(np.uint8))
    box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in span)
    inside = target[box]
    outward = distance_transform_edt(~inside, sampling=spacing_mm)
    inward = distance_transform_edt(inside, sampling=spacing_mm)
    return (outward - inward)[mask[box]]


def _nearest_distance(table: DoseTable, code: int) -> float:
    """The code whose bins differ least (one bin = 1, contoured or not = all bins), of equals that of most voxels."""
    base = len(DISTANCE_EDGES_MM) + 2
    powers = base ** np.arange(max(len(table.names), 1))
    seen = table.codes[:, None] // powers % base
    asked = code // powers % base
    gap = np.abs(seen - asked)
    gap[(seen == base - 1) != (asked == base - 1)] = base
    best = np.lexsort((-table.voxels, gap.sum(axis=1)))[0]
    return float(table.medians_gy[best])


def _mask(case: Case) -> NDArray[np.bool_]:
    if not case.has("mask_dose"):
        raise CaseError("has no mask_dose", where=case.id, fix="Prepare the study again")
    mask = read_nifti(case.path("mask_dose"))[0] > 0
    if not mask.any():
        raise CaseError("has an empty mask_dose", where=case.id, fix="Leave this case out")
    return mask


KINDS: Mapping[str, Callable[[Case, tuple[str, ...], NDArray[np.bool_]], NDArray[np.int64]]] = {
    "combination": _combinations,
    "distance": _distances,
}
"""Kind of table -> the code (N,) of every voxel inside a case's possible-dose mask."""
