"""NIfTI studies made elsewhere: images, masks and doses, found by the patterns of the recipe.

The recipe's `files` says what a path means (see `mtl_med.prep.file_patterns`), `labels` what the values of a label map
are called, `dose_gy` how many Gy a stored unit of dose is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError, MtlMedError, UsageError
from mtl_med.geometry import Grid, reorient, require_same_grid, resample, same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.prep.assemble import KnownDose, assemble
from mtl_med.prep.identity import Pseudonyms
from mtl_med.prep.name_rows import Match
from mtl_med.prep.nifti_source import NiftiSource, scan
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.recipe import Recipe, StructureFact
from mtl_med.prep.recipe_table import table_of
from mtl_med.prep.target_grid import Coverage, place_ct, spacing_grid
from mtl_med.prep.turning import turn_to_ras

__all__ = ["read", "scan", "structures"]

_MOST_TOLD = 8  # values of a label map without a name


def read(source: Source, recipe: Recipe) -> RawCase:
    """Read one case.

    Raises:
        CaseError: a file cannot be read, or holds what its role cannot be.
        GeometryError: grids do not fit, or the dose grid does not cover a target.
    """
    if not isinstance(source, NiftiSource):
        raise CaseError("is no NIfTI case", where=source.id)
    try:
        return _read(source, recipe)
    except MtlMedError as error:
        if error.where:
            raise
        raise type(error)(error.what, where=source.id, why=error.why, fix=error.fix) from error


def structures(source: Source) -> list[tuple[str, str]]:
    """Names of structures that have a file of their own."""
    parts = source.parts.values() if isinstance(source, NiftiSource) else ()
    return [(found.structure, "") for found in parts if found.role == "structure"]


def _read(source: NiftiSource, recipe: Recipe) -> RawCase:
    options = recipe.options
    path = source.path("ct")
    if path is None:
        raise CaseError("has no CT", where=source.id)
    stored, own = read_nifti(path)
    dose = _dose(source, recipe)
    if options.grid == "dose" and dose is None:
        raise CaseError("has no dose whose grid could be taken", where=source.id, fix="Use --grid ct")
    target = own if options.grid == "ct" else dose.grid if options.grid == "dose" and dose else None
    target = spacing_grid(own, float(options.grid)) if target is None else target
    ct, beyond_percent = place_ct(_hounsfield(stored, path), own, target)
    ct, grid = turn_to_ras(ct, target)
    masks = PackedMasks(grid)
    coverage = Coverage(dose.grid) if dose is not None and options.grid == "dose" else None
    matches, notes = _structures(source, recipe, target, masks, coverage)
    facts = {
        match.name: StructureFact(match.original, match.name, match.kind, match.prescription_gy, match.above)
        for match in matches
    }
    if dose is not None:
        dose = _with_mask(dose, source, target, recipe)
    case = assemble(source.id, ct, masks, facts, dose, options, coverage)
    if beyond_percent:
        case.remarks.append(f"{beyond_percent:.3g} % of the grid lie beyond the CT and are filled with air")
    case.remarks += [*notes, *(match.remark for match in matches if match.remark)]
    case.unmatched = {match.original: match.name for match in matches if not match.matched}
    return case


def _hounsfield(stored: NDArray, path: Path) -> NDArray:
    """HU as int16 where all values are whole and fit, else as float32."""
    if stored.dtype.kind == "f":
        if not np.isfinite(stored).all():
            raise CaseError("holds values that are no numbers", where=path, fix="Fill them with air, -1000 HU")
        return stored.astype(np.float32, copy=False)
    if stored.min() >= np.iinfo(np.int16).min and stored.max() <= np.iinfo(np.int16).max:
        return stored.astype(np.int16, copy=False)
    return stored.astype(np.float32)


def _dose(source: NiftiSource, recipe: Recipe) -> KnownDose | None:
    path = source.path("dose")
    if path is None:
        return None
    scale = recipe.facts.get("dose_gy", 1.0)
    if not isinstance(scale, (int, float)) or not (math.isfinite(scale) and scale > 0):
        raise UsageError(f"dose_gy is {scale!r}, expected how many Gy a stored unit is", where=recipe.dataset)
    values, grid = reorient(*read_nifti(path, np.float32))
    if not np.isfinite(values).all():
        raise CaseError("holds values that are no numbers", where=path, fix="Cut the file to where the dose is known")
    if values.min() < 0:
        raise CaseError(f"holds negative dose, down to {values.min() * scale:.4g} Gy", where=path)
    return KnownDose(values * np.float32(scale), grid)


def _with_mask(dose: KnownDose, source: NiftiSource, target: Grid, recipe: Recipe) -> KnownDose:
    """The dose with the mask of where it counts, if the source has one."""
    path = source.path("mask_dose")
    if path is None:
        return dose
    mask = _placed(*_mask(path), target, recipe, path)
    return replace(dose, mask=reorient(mask, target)[0])


def _structures(
    source: NiftiSource, recipe: Recipe, target: Grid, masks: PackedMasks, coverage: Coverage | None
) -> tuple[list[Match], list[str]]:
    """Put all structures into `masks`; what they are, and sentences about what was left out."""
    options = recipe.options
    hide = Pseudonyms.read(options.key).structure if options.key else None
    files = {found.structure: path for path, found in source.parts.items() if found.role == "structure"}
    labels = _labels(source, recipe)
    names = [*files, *labels.values()]
    matches = table_of(recipe).match_all([(name, "") for name in names], hide=hide)

    def put(name: str, mask: NDArray[np.uint8], grid: Grid, path: Path) -> None:
        if coverage is not None:
            coverage.add(name, mask, grid)
        masks.add(name, _placed(mask, grid, target, recipe, path), target)

    for match, path in zip(matches, files.values(), strict=False):
        put(match.name, *_mask(path), path)
    notes = []
    label_map = source.path("labels")
    if label_map is not None:
        stored, grid = read_nifti(label_map)
        for match, value in zip(matches[len(files) :], labels, strict=True):
            put(match.name, (stored == value).view(np.uint8), grid, label_map)
        if unnamed := [f"{value:g}" for value in np.unique(stored) if value and value not in labels]:
            listed = ", ".join(unnamed[:_MOST_TOLD]) + (", ..." if len(unnamed) > _MOST_TOLD else "")
            notes.append(f"values of the label map that the recipe does not name are left out: {listed}")
    return matches, notes


def _labels(source: NiftiSource, recipe: Recipe) -> dict[int, str]:
    """Value -> name, for a case that has a label map."""
    names = recipe.facts.get("labels", {})
    try:
        labels = {int(value): str(name) for value, name in names.items()}
    except (AttributeError, ValueError) as error:
        raise UsageError(
            "labels are no values with names", where=recipe.dataset, fix='Such as {"1": "Liver"}'
        ) from error
    path = source.path("labels")
    if path is not None and not labels:
        raise UsageError("the recipe does not say what labels are called", where=path, fix="Give it 'labels'")
    return labels if path is not None else {}


def _mask(path: Path) -> tuple[NDArray[np.uint8], Grid]:
    """A mask file: 0 and one other value, whatever that is."""
    stored, grid = read_nifti(path)
    inside = stored != 0
    values = stored[inside]
    if values.size and not (values == values[0]).all():
        raise CaseError(
            f"holds more than one value besides 0, from {values.min():g} to {values.max():g}",
            where=path,
            why="A mask says inside or outside",
            fix="Threshold it, or name its values under 'labels' in the recipe",
        )
    return inside.view(np.uint8), grid


def _placed(mask: NDArray[np.uint8], grid: Grid, target: Grid, recipe: Recipe, path: Path) -> NDArray[np.uint8]:
    """A mask on the grid of the case; from another one by the nearest voxel, for which the user has to ask."""
    if same_grid(grid, target):
        return mask
    if not recipe.options.resample and recipe.options.grid == "ct":
        try:
            require_same_grid(grid, target, where=str(path))
        except GeometryError as error:
            raise GeometryError(error.what, where=path, fix="Pass --resample to take the nearest voxels") from error
    return resample(mask, grid, target, order="nearest").astype(np.uint8)
