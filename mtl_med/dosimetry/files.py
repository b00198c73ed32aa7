"""Doses and structures that belong to no study: NIfTI files, segmentations, RTDOSE and RTSTRUCT with or without CT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.dosimetry.inputs import DoseCase, Options, frame_of_reference, is_nifti, on_grid, read_any_dose
from mtl_med.errors import CaseError, NothingFoundError, UsageError
from mtl_med.files import safe_name
from mtl_med.geometry import Grid, covered, reorient, require_same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import LABEL_MAP_FILE, SEGMENTATION_FILE, read_structures
from mtl_med.prep.raw import RawCase, Source

if TYPE_CHECKING:
    from mtl_med.io.rtdose_dvh import Dvh
    from mtl_med.prep.names import NameTable

__all__ = ["case_name", "from_dicom_folder", "from_files"]

_MOST_VOXELS = 1 << 28


def case_name(path: Path) -> str:
    """Safe name of a case that nothing names but its dose file."""
    name = path.name
    for ending in (".nii.gz", ".nii", ".dcm"):
        name = name.removesuffix(ending)
    return safe_name(name)


def from_files(
    dose: Path,
    structures: Sequence[Path],
    ct: Path | None,
    options: Options,
    doses: Sequence[str] = (),
    force: bool = False,
) -> DoseCase:
    """A dose file and structure files.

    Args:
        dose: NIfTI file, RTDOSE or folder of a prediction.
        structures: one RTSTRUCT, or NIfTI files, segmentations and folders of these.
        ct: folder of the CT that the RTSTRUCT was drawn on.
        options: how they are read.
        doses: as in `ReaderOptions`; with a CT.
        force: as in `ReaderOptions`; with an RTSTRUCT.

    Raises:
        CaseError: a file cannot be used, or they do not belong together.
        GeometryError: the grids differ.
        UsageError: files that do not go together.
    """
    missing = next((path for path in (dose, *structures) if not path.exists()), None)
    if missing is not None:
        raise CaseError("there is no such file", where=missing, fix="Check the path")
    voxels = [path for path in structures if path.is_dir() or is_nifti(path) or path.name.endswith(".nrrd")]
    if voxels and len(voxels) < len(structures):
        raise UsageError("an RTSTRUCT and voxel masks cannot be mixed", fix="Give one of both with --structures")
    if voxels:
        if ct or options.grid:
            raise UsageError("--ct and --grid are for an RTSTRUCT: voxel masks have a grid")
        if doses or force:
            what = "--doses and --force are for an RTSTRUCT: voxel masks name no plan and no frame of reference"
            raise UsageError(what, fix="Leave them out")
        return _from_masks(dose, voxels, options)
    if len(structures) != 1:
        raise UsageError(f"{len(structures)} RTSTRUCT files, expected one", fix="Give one with --structures")
    if ct:
        return _from_ct(dose, structures[0], ct, options, doses, force)
    if doses:
        raise UsageError(
            "--doses goes with --ct or a DICOM folder: a single dose is taken as it is", fix="Leave it out"
        )
    return _from_contours(dose, structures[0], options, force)


def _from_masks(dose: Path, paths: Sequence[Path], options: Options) -> DoseCase:
    masks: list[tuple[str, NDArray[np.bool_]]] = []
    grid: Grid | None = None
    for path in _spread(paths):
        for name, mask, found in _masks_of(path):
            mask, found = reorient(mask, found)
            if grid is not None:
                require_same_grid(found, grid, where=str(path))
            grid = found
            masks.append((name, mask))
    if grid is None:
        raise NothingFoundError("no masks", where=paths[0], fix="Give .nii.gz files, or a folder of them")
    values, own, notes = read_any_dose(dose)
    placed, known, told = on_grid(values, own, grid, options, dose)
    matches = _table().match_all([(name, "") for name, _ in masks])
    return DoseCase(
        id=case_name(dose),
        dose_gy=placed,
        grid=grid,
        masks={match.name: mask for match, (_, mask) in zip(matches, masks, strict=True)},
        kinds={match.name: match.kind for match in matches},
        prescriptions_gy={m.name: m.prescription_gy for m in matches if m.prescription_gy and m.kind == "target"},
        known=known,
        notes=(*notes, *told),
    )


def _spread(paths: Sequence[Path]) -> list[Path]:
    """The files of folders: of a prediction its segmentation, else all NIfTI files."""
    files: list[Path] = []
    for path in paths:
        if not path.is_dir() or (path / SEGMENTATION_FILE).is_file() or (path / LABEL_MAP_FILE).is_file():
            files.append(path)
        else:
            files += sorted(item for item in path.iterdir() if is_nifti(item))
    return files


def _masks_of(path: Path) -> list[tuple[str, NDArray[np.bool_], Grid]]:
    """Structures of a file: a mask, a label map whose labels have no names, or a segmentation."""
    if path.is_dir():
        found = read_structures(path)
        return [(name, mask, found.grid) for name, mask in found.masks.items() if found.grid is not None]
    if path.name.endswith(".nrrd"):
        from mtl_med.io.seg_nrrd import read_seg_nrrd

        masks, grid = read_seg_nrrd(path)
        return [(name, mask, grid) for name, mask in masks.items()]
    voxels, grid = read_nifti(path)
    values = np.unique(voxels)
    if not np.isfinite(values).all() or (values != np.rint(values)).any() or values[0] < 0:
        raise CaseError("is no mask: it holds fractions or negative values", where=path, fix="Give masks of 0 and 1")
    name = path.name.removesuffix(".gz").removesuffix(".nii")
    labels = [int(value) for value in values if value]
    if len(labels) < 2:
        return [(name, voxels != 0, grid)]
    return [(f"{name}_{label}", voxels == label, grid) for label in labels]


def _from_contours(dose: Path, rtstruct: Path, options: Options, force: bool) -> DoseCase:
    """An RTSTRUCT drawn on the grid of the dose, or on one of a wanted spacing over it.

    The grid goes on as far as the structures do: what of them lies beyond the dose counts as unknown and not as cut.
    """
    from mtl_med.io.rtstruct import read_rtstruct
    from mtl_med.prep.contour_planes import drawn_pitch_mm
    from mtl_med.prep.dicom_structures import draw
    from mtl_med.prep.packed_masks import PackedMasks
    from mtl_med.prep.recipe import ReaderOptions
    from mtl_med.prep.target_grid import spacing_grid

    if options.grid == "ct":
        raise UsageError("--grid ct needs the CT", fix="Give its folder with --ct")
    structures = read_rtstruct(rtstruct)
    frame = "" if force else _same_frame(dose, structures.frame_of_reference, rtstruct)
    values, own, notes = read_any_dose(dose)
    values, own = reorient(values, own)
    grid = own if options.grid in ("", "dose") else spacing_grid(own, _spacing(options.grid))
    grid = _widened(grid, [contour for roi in structures.rois for contour in roi.contours])
    placed, known, _ = on_grid(values, own, grid, Options(resample=True), dose)
    contoured = [bool(roi.contours) for roi in structures.rois]
    matches = _table().match_all([(roi.name, roi.interpreted_type) for roi in structures.rois], contoured)
    masks = PackedMasks(grid)
    drawn = draw(
        structures.rois,
        matches,
        grid,
        masks,
        frame_of_reference=frame,
        slice_pitch_mm=drawn_pitch_mm([roi.contours for roi in structures.rois], own),
        options=ReaderOptions(force=force),
        where=rtstruct,
    )
    stored, remarks = _stored(dose, {number: name for name, number in drawn.numbers.items()}, structures.sop_uid)
    return DoseCase(
        id=case_name(dose),
        dose_gy=placed,
        grid=grid,
        masks=masks,
        kinds={name: fact.kind for name, fact in drawn.facts.items()},
        prescriptions_gy={name: f.prescription_gy for name, f in drawn.facts.items() if f.prescription_gy},
        known=known,
        gaps={name: "not contoured" for name in drawn.facts if name not in masks},
        stored=stored,
        notes=(*notes, *structures.notes, *drawn.remarks, *remarks),
    )


def _widened(grid: Grid, contours: Sequence[NDArray]) -> Grid:
    """A grid with whole voxels added on each side until it holds all contours; as it is where it would become huge."""
    if not contours:
        return grid
    points = np.concatenate(contours)
    indices = (points - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    low = np.minimum(np.floor(indices.min(axis=0)), 0)
    high = np.maximum(np.ceil(indices.max(axis=0)), np.array(grid.shape) - 1)
    shape = (high - low + 1).astype(int)
    if not (np.isfinite(shape).all() and float(np.prod(shape, dtype=float)) <= _MOST_VOXELS):
        return grid
    affine = grid.affine.copy()
    affine[:3, 3] += grid.affine[:3, :3] @ low
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _same_frame(dose: Path, frame: str, rtstruct: Path) -> str:
    """Frame of reference of dose and structures; "" where one of them names none."""
    other = frame_of_reference(dose)
    if frame and other and frame != other:
        raise CaseError(
            "the structures belong to another frame of reference than the dose",
            where=rtstruct,
            why="Where they lie in this dose is unknown",
            fix="Take the RTSTRUCT that this dose was planned on, or pass --force if both are known to agree",
        )
    return frame if other else ""


def _spacing(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--grid is '{text}', expected ct, dose or a spacing in mm", fix="Such as --grid 1") from None


def _from_ct(dose: Path, rtstruct: Path, ct: Path, options: Options, doses: Sequence[str], force: bool) -> DoseCase:
    """An RTSTRUCT drawn on the CT that it names, and the dose interpolated onto it, as preparation does it."""
    from mtl_med.io.rtstruct import read_rtstruct
    from mtl_med.prep.dicom_scan import scan_folder
    from mtl_med.prep.dicom_source import DicomSource

    if dose.is_dir() or is_nifti(dose):
        raise UsageError(
            "--ct goes with an RTDOSE", where=dose, fix="Leave it out: contours are drawn on the dose's grid"
        )
    series = list(scan_folder(ct).series.values())
    if len(series) > 1:
        wanted = read_rtstruct(rtstruct).series_uids
        series = [item for item in series if item.key[2] in wanted]
    if len(series) != 1:
        raise CaseError("holds not one CT series that the RTSTRUCT was drawn on", where=ct, fix="Give its folder alone")
    files = tuple(series[0].files)
    source = DicomSource(
        id=case_name(dose),
        group="all",
        folder=ct,
        files=(*files, rtstruct, dose),
        root=ct,
        ct_files=files,
        rtstruct=rtstruct,
        doses=(dose,),
    )
    return _from_source(source, options, doses, force)


def from_dicom_folder(
    folder: Path, options: Options, doses: Sequence[str] = (), force: bool = False
) -> dict[str, Callable[[], DoseCase]]:
    """Cases of a folder of CT, RTSTRUCT, RTPLAN and RTDOSE files, linked as preparation does it.

    Args:
        folder: the folder.
        options: how it is read.
        doses: as in `ReaderOptions`.
        force: as in `ReaderOptions`.

    Raises:
        NothingFoundError: it holds no such files.
    """
    from mtl_med.prep.readers import dicom_rt
    from mtl_med.prep.recipe import load_recipe

    found = dicom_rt.scan(folder, load_recipe("dicom_rt"))
    return {source.id: partial(_from_source, source, options, doses, force) for source in found}


def _from_source(source: Source, options: Options, doses: Sequence[str], force: bool) -> DoseCase:
    from mtl_med.prep.dicom_source import DicomSource
    from mtl_med.prep.readers import dicom_rt
    from mtl_med.prep.recipe import ReaderOptions, load_recipe

    grid = options.grid or "ct"
    reader_options = ReaderOptions(
        grid=grid if grid in ("ct", "dose") else _spacing(grid),
        allow_partial_dose=True,
        resample=options.resample,
        doses=tuple(doses),
        force=force,
    )
    if source.fault:
        raise CaseError(source.fault, where=source.id)
    raw = dicom_rt.read(source, load_recipe("dicom_rt").with_options(reader_options))
    paths = source.doses if isinstance(source, DicomSource) else ()
    rtstruct = source.rtstruct if isinstance(source, DicomSource) else None
    stored, remarks = _stored(paths[0], *_numbers(rtstruct, raw)) if len(paths) == 1 and rtstruct else ({}, ())
    return _from_raw(raw, stored, remarks)


def _from_raw(raw: RawCase, stored: Mapping[str, Dvh], remarks: Sequence[str]) -> DoseCase:
    if "dose" not in raw.volumes or raw.grid is None:
        raise CaseError("has no dose", where=raw.id, fix="Add its RTDOSE to the folder")
    dose = raw.volumes["dose"]
    return DoseCase(
        id=raw.id,
        dose_gy=dose,
        grid=raw.grid,
        masks=raw.masks,
        kinds={name: fact.kind for name, fact in raw.facts.items()},
        prescriptions_gy={name: fact.prescription_gy for name, fact in raw.facts.items() if fact.prescription_gy},
        fractions=raw.fractions,
        known=covered(raw.dose_grid, raw.grid) if raw.dose_grid else None,
        kept_percent=raw.kept_percent,
        gaps={name: "not contoured" for name in raw.facts if name not in raw.masks},
        stored=stored,
        notes=(*raw.remarks, *remarks),
    )


def _numbers(rtstruct: Path, raw: RawCase) -> tuple[dict[int, str], str]:
    """ROI number -> name in the case, for structures whose own name occurs once, and the UID of their structure set."""
    from mtl_med.io.rtstruct import read_rtstruct

    structures = read_rtstruct(rtstruct)
    rois = structures.rois
    names = {fact.original: name for name, fact in raw.facts.items()}
    written = [roi.name for roi in rois]
    numbers = {roi.number: names[roi.name] for roi in rois if roi.name in names and written.count(roi.name) == 1}
    return numbers, structures.sop_uid


def _stored(dose: Path, names: Mapping[int, str], structure_set_uid: str) -> tuple[dict[str, Dvh], tuple[str, ...]]:
    """DVHs that an RTDOSE holds itself, by the names of structures, whose numbers are those of one structure set."""
    if dose.is_dir() or is_nifti(dose):
        return {}, ()
    from mtl_med.io.rtdose import read_dose_header
    from mtl_med.io.rtdose_dvh import read_dvhs

    found, notes = read_dvhs(dose)
    theirs = read_dose_header(dose).structure_set_uid
    if found and theirs and structure_set_uid and theirs != structure_set_uid:
        return {}, (*notes, "the DVHs that the RTDOSE holds are of another structure set, and are left out")
    return {names[number]: dvh for number, dvh in found.items() if number in names}, notes


def _table() -> NameTable:
    from mtl_med.prep.names import NameTable

    return NameTable.load(None)
