"""DICOM-RT studies: a folder of CT, RTSTRUCT, RTPLAN and RTDOSE files of any number of patients, in any order.

Every structure is drawn on the grid of the case as it was contoured, even-odd at voxel centres, one at a time. The
dose is interpolated linearly, and is unknown outside its own grid.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mtl_med.errors import CaseError, GeometryError, MtlMedError
from mtl_med.geometry import Grid, reorient
from mtl_med.prep.assemble import KnownDose, assemble
from mtl_med.prep.dicom_doses import own_plan, read_dose
from mtl_med.prep.dicom_link import link
from mtl_med.prep.dicom_scan import scan_folder
from mtl_med.prep.dicom_source import CONFLICT_FIX, DicomSource, Namer
from mtl_med.prep.dicom_structures import Drawn, draw, prescribe, require_same_frame, tell_beyond
from mtl_med.prep.folders import listing
from mtl_med.prep.identity import Pseudonyms
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.recipe import ReaderOptions, Recipe
from mtl_med.prep.recipe_table import table_of
from mtl_med.prep.redaction import Redactor
from mtl_med.prep.target_grid import Coverage, parallel, place_ct, spacing_grid
from mtl_med.prep.turning import turn_to_ras

if TYPE_CHECKING:
    from mtl_med.io.dicom_series import CtSeries
    from mtl_med.io.rtdose import RtDose
    from mtl_med.io.rtplan import RtPlan
    from mtl_med.io.rtstruct import Roi, StructureSet
    from mtl_med.prep.name_rows import Match

__all__ = ["read", "scan", "structures"]

log = logging.getLogger(__name__)


def scan(folder: Path, recipe: Recipe) -> list[DicomSource]:
    """Cases below a folder, from the headers of its files.

    Raises:
        NothingFoundError: it holds no CT, RTSTRUCT or RTDOSE.
        UsageError: the key of the pseudonyms cannot be read.
    """
    key = recipe.options.key
    found = scan_folder(folder)
    unusable = sum(found.unusable.values(), Counter[str]())
    if unusable:
        log.warning("%d files could not be used: %s", unusable.total(), listing(unusable))
    return link(found, Namer(folder, Pseudonyms.read(key) if key else None))


def read(source: Source, recipe: Recipe) -> RawCase:
    """Read one case.

    Raises:
        CaseError: its files cannot be used, or do not belong together.
        GeometryError: slices, grids or orientations do not fit.
    """
    if not isinstance(source, DicomSource):
        raise CaseError("is no DICOM case", where=source.id)
    try:
        return _read(source, recipe)
    except MtlMedError as error:
        if error.where:
            raise
        raise type(error)(error.what, where=source.id, why=error.why, fix=error.fix) from error


def structures(source: Source) -> list[tuple[str, str]]:
    """Name and RT ROI Interpreted Type of the structures of a source, as the RTSTRUCT has them.

    Raises:
        CaseError: it cannot be read.
    """
    from mtl_med.io.rtstruct import read_rtstruct

    path = source.rtstruct if isinstance(source, DicomSource) else None
    return [(roi.name, roi.interpreted_type) for roi in read_rtstruct(path).rois] if path else []


def _read(source: DicomSource, recipe: Recipe) -> RawCase:
    options = recipe.options
    redactor = Redactor(source.identity, folders=[source.root]) if options.key is not None else Redactor()
    if source.conflict and not options.force:
        raise CaseError(source.conflict, where=source.id, fix=CONFLICT_FIX)
    series = _ct(source, options)
    plan = _plan(source)
    dose = read_dose(source, plan, options, series.frame_of_reference)
    plan, told_plan = own_plan(plan, dose)
    native = _grid(series.grid, dose, options, source)
    told = _told_ct(series)
    ct, beyond_percent = place_ct(series.hu, series.grid, native)
    series = replace(series, hu=np.empty((0, 0, 0), dtype=np.int16))  # the memory of its voxels is not needed twice
    ct, grid = turn_to_ras(ct, native)
    masks = PackedMasks(grid)
    coverage = Coverage(dose.grid) if dose is not None and options.grid == "dose" else None
    drawn = _structures(source, recipe, series, native, masks, redactor, coverage)
    if plan:
        prescribe(drawn, plan.prescriptions, plan.structure_set_uid)
    case = assemble(source.id, ct, masks, drawn.facts, _in_ras(dose), options, coverage)
    notes = [*source.remarks, *series.notes, *(plan.notes if plan else ()), *(dose.notes if dose else ())]
    notes += [told_plan] if told_plan else []
    if beyond_percent:
        notes.append(f"{beyond_percent:.3g} % of the grid lie beyond the CT and are filled with air")
    case.remarks = [redactor.redact(note) for note in (*notes, *drawn.remarks, *case.remarks)]
    case.account = {
        "converted": [told, *case.account["converted"]],
        "skipped": [redactor.redact(note) for note in (*source.account.get("skipped", ()), *drawn.skipped)],
    }
    case.fractions = plan.fractions if plan else None
    case.unmatched = drawn.unmatched
    return case


def _ct(source: DicomSource, options: ReaderOptions) -> CtSeries:
    from mtl_med.io.dicom_series import read_ct_series

    try:
        return read_ct_series(source.ct_files, resample=options.resample, where=source.id)
    except GeometryError as error:
        missing = [remark for remark in source.remarks if "could not be used" in remark]
        why = ". ".join([*([error.why] if error.why else []), *missing])
        raise GeometryError(error.what, where=error.where, why=why, fix=error.fix) from error


def _plan(source: DicomSource) -> RtPlan | None:
    from mtl_med.io.rtplan import read_rtplan

    return read_rtplan(source.rtplan) if source.rtplan else None


def _grid(ct: Grid, dose: RtDose | None, options: ReaderOptions, source: DicomSource) -> Grid:
    """The grid of the case, in the directions of the CT's slices."""
    if options.grid == "ct":
        return ct
    if options.grid != "dose":
        return spacing_grid(ct, float(options.grid))
    if dose is None:
        raise CaseError("has no dose whose grid could be taken", where=source.id, fix="Use --grid ct")
    if source.rtstruct and not parallel(ct, dose.grid):
        raise GeometryError(
            "the planes of the dose are not parallel to those of the CT",
            where=source.id,
            why="Contours cannot be drawn on them",
            fix="Use --grid ct or a spacing",
        )
    return dose.grid


def _structures(
    source: DicomSource,
    recipe: Recipe,
    series: CtSeries,
    native: Grid,
    masks: PackedMasks,
    redactor: Redactor,
    coverage: Coverage | None,
) -> Drawn:
    from mtl_med.io.rtstruct import read_rtstruct

    if source.rtstruct is None:
        return Drawn()
    options = recipe.options
    structures = read_rtstruct(source.rtstruct)
    if not options.force:
        require_same_frame(structures, series.frame_of_reference, source.rtstruct)
    hide = Pseudonyms.read(options.key).structure if options.key else None
    rois = structures.rois
    matches = table_of(recipe).match_all(
        [(roi.name, roi.interpreted_type) for roi in rois], [bool(roi.contours) for roi in rois], hide
    )
    redactor.add(roi.name for roi, match in zip(rois, matches, strict=True) if hide and match.original != roi.name)
    drawing = partial(
        draw,
        rois,
        matches,
        frame_of_reference=series.frame_of_reference,
        slice_pitch_mm=series.grid.spacing_mm[2] if series.even and _drawn_on(structures, series) else None,
        options=options,
        where=source.rtstruct,
    )
    drawn = drawing(native, masks)
    if coverage is not None:
        drawing(series.grid, coverage)
        tell_beyond(drawn, coverage)
    notes = _renamed(structures.notes, rois, matches) if hide else structures.notes
    drawn.sop_uid = structures.sop_uid
    drawn.remarks[:0] = [*notes, *(match.remark for match in matches if match.remark)]
    return drawn


def _drawn_on(structures: StructureSet, series: CtSeries) -> bool:
    """Whether structures name this series or its images, and not only agree with it otherwise."""
    return series.series_uid in structures.series_uids or not structures.sop_uids.isdisjoint(series.sop_uids)


def _renamed(notes: Sequence[str], rois: Sequence[Roi], matches: Sequence[Match]) -> list[str]:
    """Remarks of an RTSTRUCT under the names that its structures got: some are too short to be found by a redactor."""
    pairs = zip(rois, matches, strict=True)
    names = {f"structure '{roi.name}'": f"structure '{match.original}'" for roi, match in pairs}
    longest = sorted(filter(None, names), key=len, reverse=True)
    known = re.compile("|".join(map(re.escape, longest)))
    return [known.sub(lambda found: names[found[0]], note) for note in notes] if longest else list(notes)


def _in_ras(dose: RtDose | None) -> KnownDose | None:
    if dose is None:
        return None
    values, grid = reorient(dose.dose_gy, dose.grid)
    return KnownDose(values.astype(np.float32, copy=False), grid, dose.summation)


def _told_ct(series: CtSeries) -> str:
    size = " x ".join(map(str, series.grid.shape))
    spacing = " x ".join(f"{mm:.4g}" for mm in series.grid.spacing_mm)
    return f"CT of {size} voxels of {spacing} mm, {series.hu.dtype}"
