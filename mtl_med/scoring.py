"""Scores of one case: its prediction read, put into the study's axis order, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError
from mtl_med.geometry import Grid, covered, picture_grid, reorient, require_same_grid, same_grid
from mtl_med.io import results
from mtl_med.io.nifti import read_nifti
from mtl_med.io.picture import read_picture_mask
from mtl_med.manifest import Case
from mtl_med.metrics.dose import dose_rows
from mtl_med.metrics.rows import LABEL_MAP, Row
from mtl_med.metrics.segmentation import segmentation_rows

__all__ = ["Wanted", "known_dose", "score_case"]


@dataclass(frozen=True)
class Wanted:
    """What every case is scored on: whatever some prediction of the folder holds.

    Args:
        dose: score the dose of the cases that have one.
        structures: name -> task of the structures to score.
    """

    dose: bool
    structures: Mapping[str, str]


def score_case(wanted: Wanted, pair: tuple[Case, Path]) -> list[Row]:
    """All scores of one case.

    Args:
        wanted: what to score.
        pair: the case of the study, and the folder of its prediction.

    Raises:
        CaseError: a file is missing, damaged, or holds values that are not finite.
        GeometryError: a prediction's voxels lie elsewhere than the study's.
    """
    case, folder = pair
    if case.grid is None:
        return _picture_rows(case, folder, wanted)
    dose_wanted = wanted.dose and case.has("dose")
    truth = _truth(case, wanted, with_dvh=dose_wanted)
    rows = _dose_rows(case, folder, truth) if dose_wanted else []
    return rows + (_structure_rows(case, folder, wanted, truth) if wanted.structures else [])


def _picture_rows(case: Case, folder: Path, wanted: Wanted) -> list[Row]:
    """Scores of the structures of a photograph, whose distances are in pixels."""
    truth = {
        name: read_picture_mask(case.path(f"structures/{name}")).T
        for name in wanted.structures
        if case.has(f"structures/{name}")
    }
    if not truth:
        return []
    width, height = next(iter(truth.values())).shape
    predicted, source = _predicted_masks(folder, wanted, picture_grid(width, height))
    rows: list[Row] = []
    for name, task in wanted.structures.items():
        mask = predicted[name][..., 0]
        rows += segmentation_rows(case.id, task, name, truth.get(name), mask, (1.0, 1.0), source, unit="px")
    return rows


def _truth(case: Case, wanted: Wanted, *, with_dvh: bool) -> dict[str, NDArray[np.bool_]]:
    """Masks of the contoured structures that are scored themselves or need a DVH."""
    names = [
        name
        for name, item in case.structures.items()
        if item.status != "not_contoured" and (name in wanted.structures or (with_dvh and item.kind != "external"))
    ]
    return {name: _read(case, f"structures/{name}") > 0 for name in names}


def known_dose(case: Case) -> NDArray[np.bool_] | None:
    """(X, Y, Z) where the planned dose of a case is known, on its grid; None for everywhere."""
    if case.dose_grid is None or case.grid is None:
        return None
    known = covered(case.dose_grid, case.grid)
    return None if known.all() else known


def _dose_rows(case: Case, folder: Path, truth: Mapping[str, NDArray]) -> list[Row]:
    if not case.has("mask_dose"):
        raise CaseError("has a dose but no mask_dose", where=case.id, fix="Prepare the study again")
    found = results.read_dose(folder, case.prescription_gy)
    if found is None:
        raise CaseError("has no dose, while other predictions have one", where=folder, fix="Predict this case again")
    grid = _grid(case)
    structures = {
        name: (case.structures[name].kind, truth[name])
        for kind in ("oar", "target")
        for name in case.names(kind)
        if name in truth
    }
    stored = {key: _read(case, key) for key in ("dose", "mask_dose")}
    return dose_rows(
        case.id,
        stored["dose"],
        _on_grid(*found, grid, folder / results.DOSE_FILE),
        stored["mask_dose"] > 0,
        structures,
        voxel_mm3=grid.voxel_volume_mm3,
        known=known_dose(case),
    )


def _structure_rows(case: Case, folder: Path, wanted: Wanted, truth: Mapping[str, NDArray]) -> list[Row]:
    grid = _grid(case)
    predicted, source = _predicted_masks(folder, wanted, grid)
    rows: list[Row] = []
    for name, task in wanted.structures.items():
        rows += segmentation_rows(case.id, task, name, truth.get(name), predicted[name], grid.spacing_mm, source)
    return rows


def _predicted_masks(folder: Path, wanted: Wanted, grid: Grid) -> tuple[dict[str, NDArray[np.bool_]], str]:
    """Predicted mask of each wanted structure on `grid`, empty where there is none; first word of the convention."""
    found = results.read_structures(folder)
    if found.grid is None:
        raise CaseError(
            "has no structures, while other predictions have some", where=folder, fix="Predict this case again"
        )
    masks = {
        name: _on_grid(found.masks[name], found.grid, grid, folder)
        if name in found.masks
        else np.zeros(grid.shape, dtype=bool)
        for name in wanted.structures
    }
    return masks, LABEL_MAP if found.from_label_map else ""


def _grid(case: Case) -> Grid:
    if case.grid is None:
        raise CaseError("has no grid in mm", where=case.id)
    return case.grid


def _read(case: Case, key: str) -> NDArray:
    """A volume of the study, which has to lie where the case says."""
    array, grid = read_nifti(case.path(key))
    require_same_grid(grid, _grid(case), where=str(case.path(key)))
    return array


def _on_grid(array: NDArray, found: Grid, expected: Grid, where: Path) -> NDArray:
    """The array in the study's axis order; refused where its voxels lie elsewhere."""
    if not same_grid(found, expected):
        array, found = reorient(array, found, expected.axis_codes)
        require_same_grid(found, expected, where=str(where))
    return array
