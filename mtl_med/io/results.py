"""Predictions of a case as files that open in 3D Slicer, and reading them back.

`<folder>/<id>/`: `ct.nii.gz`, `dose.nii.gz` (float32, Gy), `structures.seg.nrrd` (names, colours, overlaps),
`structures.nii.gz` (uint8 label map, for viewing) and `structures.ctbl` (its colour table). Of a picture also
`mask.png` (0 and 255, rows as in the picture), or `mask_<name>.png` for each of several structures.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError, UsageError
from mtl_med.files import atomic_path, safe_name, within, write_text
from mtl_med.geometry import Grid, picture_grid, same_grid
from mtl_med.io.colours import colour
from mtl_med.io.nifti import read_grid, read_nifti, write_nifti
from mtl_med.io.picture import encode_png
from mtl_med.io.seg_nrrd import read_seg_nrrd, read_segment_names, write_seg_nrrd

__all__ = [
    "CT_FILE",
    "DOSE_FILE",
    "DOSE_PERCENT_FILE",
    "LABEL_MAP_FILE",
    "SEGMENTATION_FILE",
    "Structures",
    "has_dose",
    "label_map",
    "predicted_names",
    "prediction_folders",
    "read_dose",
    "read_structures",
    "write_picture_prediction",
    "write_prediction",
]

CT_FILE = "ct.nii.gz"
DOSE_FILE = "dose.nii.gz"
DOSE_PERCENT_FILE = "dose_percent.nii.gz"
SEGMENTATION_FILE = "structures.seg.nrrd"
LABEL_MAP_FILE = "structures.nii.gz"
COLOUR_TABLE_FILE = "structures.ctbl"


@dataclass(frozen=True)
class Structures:
    """Predicted structures of a case.

    Args:
        masks: name -> (X, Y, Z) mask.
        grid: their grid.
        from_label_map: they come from a label map, so that overlaps are lost.
    """

    masks: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    grid: Grid | None = None
    from_label_map: bool = False


def write_prediction(
    folder: str | Path,
    case_id: str,
    grid: Grid,
    *,
    ct: NDArray | Path | None = None,
    dose_gy: NDArray | None = None,
    dose_percent: NDArray | None = None,
    structures: Mapping[str, NDArray] | None = None,
) -> list[Path]:
    """Write what was predicted for one case; each file is whole or absent.

    Args:
        folder: folder of all predictions; the files go into `<folder>/<case_id>`.
        case_id: id of the case.
        grid: grid of everything given.
        ct: (X, Y, Z) HU, or the NIfTI file that holds it, which is copied where it is on `grid` already.
        dose_gy: (X, Y, Z) Gy.
        dose_percent: (X, Y, Z) percent of a prescription that nobody has named; a file of another name.
        structures: name -> (X, Y, Z) mask, in the order of the labels; masks may overlap.

    Returns:
        The files written.

    Raises:
        GeometryError: an array or the CT file is not on the grid.
        CaseError: the dose is not finite everywhere.
        OutputError: the folder cannot be written.
    """
    target = _folder_for(folder, case_id)
    written: list[Path] = []
    if ct is not None:
        written.append(_write_ct(target / CT_FILE, ct, grid))
    for name, dose in ((DOSE_FILE, dose_gy), (DOSE_PERCENT_FILE, dose_percent)):
        if dose is not None:
            written.append(_write_dose(target / name, np.asarray(dose), grid))
    if structures:
        write_seg_nrrd(target / SEGMENTATION_FILE, structures, grid)
        write_nifti(target / LABEL_MAP_FILE, label_map(structures), grid)
        write_text(target / COLOUR_TABLE_FILE, _colour_table(list(structures)))
        written += [target / name for name in (SEGMENTATION_FILE, LABEL_MAP_FILE, COLOUR_TABLE_FILE)]
    return written


def _folder_for(folder: str | Path, case_id: str) -> Path:
    """Folder of a case's prediction, which must not be that of its truth."""
    within(folder, case_id)
    target = Path(folder) / case_id
    if (target / "case.json").exists() or (Path(folder) / "manifest.json").exists():
        raise UsageError("is part of a study, whose truth it would replace", where=target, fix="Choose another folder")
    return target


def write_picture_prediction(folder: str | Path, case_id: str, structures: Mapping[str, NDArray]) -> list[Path]:
    """Write the structures predicted in a picture: as PNG, and as volumes of one slice on its `picture_grid`.

    Args:
        folder: folder of all predictions; the files go into `<folder>/<case_id>`.
        case_id: id of the case.
        structures: name -> (H, W) mask, rows from the top, all of the picture's size.

    Returns:
        The files written.

    Raises:
        GeometryError: a mask has other axes or another size than the first.
        UsageError: two structures would have one file.
        OutputError: the folder cannot be written.
    """
    target = _folder_for(folder, case_id)
    masks = {name: np.asarray(mask, dtype=bool) for name, mask in structures.items()}
    height, width = (*next(iter(masks.values())).shape, 0, 0)[:2]
    files = [target / ("mask.png" if len(masks) == 1 else f"mask_{safe_name(name)}.png") for name in masks]
    if len(set(files)) < len(files):
        raise UsageError(f"structures {', '.join(masks)} would share a file", where=target, fix="Rename one of them")
    for path, mask in zip(files, masks.values(), strict=True):
        if mask.shape != (height, width):
            what = f"mask has shape {mask.shape}, expected two axes, rows and columns, the same for all"
            raise GeometryError(what, where=path)
    for path, mask in zip(files, masks.values(), strict=True):
        with atomic_path(path) as temporary:
            temporary.write_bytes(encode_png(mask))
    volumes = {name: mask.T[:, :, None] for name, mask in masks.items()}  # axis 0 runs to the right, axis 1 down
    return [*files, *write_prediction(folder, case_id, picture_grid(width, height), structures=volumes)]


def _write_dose(path: Path, dose: NDArray, grid: Grid) -> Path:
    _require_shape(dose, grid, path)
    bad = int(np.count_nonzero(~np.isfinite(dose)))
    if bad:
        raise CaseError(f"predicted dose is not finite in {bad} voxels", where=path, fix="Check the weights and inputs")
    write_nifti(path, dose.astype(np.float32), grid)
    return path


def _write_ct(path: Path, ct: NDArray | Path, grid: Grid) -> Path:
    if isinstance(ct, np.ndarray):
        _require_shape(ct, grid, path)
        write_nifti(path, _storable(ct), grid)
        return path
    source = Path(ct)
    if source.name.endswith(".nii.gz") and _is_clean_nifti(source, grid):
        _copy(source, path)
        return path
    values, found = read_nifti(source)
    if not same_grid(found, grid):
        raise GeometryError("the CT is not on the grid of the prediction", where=source, fix="Resample it first")
    write_nifti(path, _storable(values), grid)
    return path


def _storable(values: NDArray) -> NDArray:
    """int16 where that loses nothing, else float32."""
    whole = np.asarray(values)
    as_int = np.clip(np.rint(whole), -32768, 32767).astype(np.int16)
    return as_int if np.array_equal(as_int, whole) else whole.astype(np.float32)


def _is_clean_nifti(path: Path, grid: Grid) -> bool:
    """Whether a file already says by both of its affines, in mm, that it lies on `grid`."""
    if not same_grid(read_grid(path), grid):
        return False
    import nibabel as nib

    header = nib.Nifti1Image.from_filename(path).header
    coded = (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    plain = header.get_xyzt_units()[0] == "mm" and len(header.get_data_shape()) == 3
    return coded and plain and same_grid(Grid(grid.shape, header.get_qform()), grid)


def _copy(source: Path, path: Path) -> None:
    """A copy and no link: who edits the picture of a prediction must not change the study."""
    with atomic_path(path) as temporary:
        shutil.copyfile(source, temporary)


def _require_shape(array: NDArray, grid: Grid, path: Path) -> None:
    if array.shape != grid.shape:
        raise GeometryError(f"array has shape {array.shape}, expected {grid.shape} of the grid", where=path)


def label_map(structures: Mapping[str, NDArray]) -> NDArray[np.uint8]:
    """One label per voxel, for viewing: label n is the n-th structure.

    Where structures overlap, the one with fewer voxels wins (of equal ones the later), so that small organs are not
    swallowed by large targets; the segmentation file keeps both.

    Args:
        structures: name -> (X, Y, Z) mask.

    Raises:
        UsageError: more than 255 structures.
    """
    if len(structures) > 255:
        raise UsageError(f"{len(structures)} structures do not fit into a label map of 8 bits", fix="Write fewer")
    masks = [np.asarray(mask, dtype=bool) for mask in structures.values()]
    labels = np.zeros(masks[0].shape, dtype=np.uint8)
    for index in sorted(range(len(masks)), key=lambda number: -int(masks[number].sum())):
        labels[masks[index]] = index + 1
    return labels


def _colour_table(names: Sequence[str]) -> str:
    """Slicer's colour table: `label name R G B A`, names without spaces."""
    lines = ["# Color table file", "0 Background 0 0 0 0"]
    for label, name in enumerate(names, start=1):
        red, green, blue = colour(name)
        lines.append(f"{label} {re.sub(r'[^!-~]+', '_', name)} {red} {green} {blue} 255")
    return "\n".join(lines) + "\n"


def prediction_folders(folder: str | Path) -> dict[str, Path]:
    """Case id -> folder, for every folder in which a dose or structures lie, sorted."""
    root = Path(folder)
    if not root.is_dir():
        return {}
    known = (DOSE_FILE, DOSE_PERCENT_FILE, SEGMENTATION_FILE, LABEL_MAP_FILE)
    return {item.name: item for item in sorted(root.iterdir()) if any((item / name).is_file() for name in known)}


def predicted_names(folder: Path) -> list[str]:
    """Names of the structures predicted in a case's folder, without reading voxels."""
    if (folder / SEGMENTATION_FILE).is_file():
        return read_segment_names(folder / SEGMENTATION_FILE)
    return list(_read_colour_table(folder)) if (folder / LABEL_MAP_FILE).is_file() else []


def has_dose(folder: Path) -> bool:
    """Whether a prediction holds a dose, in Gy or in percent."""
    return (folder / DOSE_FILE).is_file() or (folder / DOSE_PERCENT_FILE).is_file()


def read_dose(folder: Path, prescription_gy: float | None = None) -> tuple[NDArray[np.float32], Grid] | None:
    """Predicted dose of a case in Gy, (X, Y, Z), and its grid; None when there is none.

    Args:
        folder: of the case's prediction.
        prescription_gy: what 100 % are in a prediction in percent, Gy.

    Raises:
        CaseError: it is damaged or not finite everywhere, or in percent of a prescription that is not known.
    """
    path, factor = folder / DOSE_FILE, 1.0
    if not path.is_file():
        path = folder / DOSE_PERCENT_FILE
        if not path.is_file():
            return None
        if not prescription_gy:
            raise CaseError(
                "is in percent of a prescription that is not known",
                where=path,
                fix="Predict again with --prescription_gy, or give the study's targets their prescriptions",
            )
        factor = prescription_gy / 100
    dose, grid = read_nifti(path, np.float32)
    bad = int(np.count_nonzero(~np.isfinite(dose)))
    if bad:
        raise CaseError(f"dose is not finite in {bad} voxels", where=path, fix="Predict this case again")
    return dose * np.float32(factor) if factor != 1 else dose, grid


def read_structures(folder: Path) -> Structures:
    """Predicted structures of a case: from the segmentation, from the label map only where there is none.

    Raises:
        CaseError: a file is damaged, or the label map has no colour table that names its labels.
    """
    if (folder / SEGMENTATION_FILE).is_file():
        masks, grid = read_seg_nrrd(folder / SEGMENTATION_FILE)
        return Structures(masks, grid)
    path = folder / LABEL_MAP_FILE
    if not path.is_file():
        return Structures()
    labels, grid = read_nifti(path)
    names = _read_colour_table(folder)
    unknown = sorted(set(np.unique(labels).tolist()) - {0, *names.values()})
    if unknown:
        raise CaseError(f"holds labels without a name: {unknown}", where=path, fix=f"Name them in {COLOUR_TABLE_FILE}")
    return Structures({name: labels == label for name, label in names.items()}, grid, from_label_map=True)


def _read_colour_table(folder: Path) -> dict[str, int]:
    path = folder / COLOUR_TABLE_FILE
    try:
        lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [(parts[1], int(parts[0])) for parts in lines if parts and not parts[0].startswith("#")]
    except (OSError, ValueError, IndexError) as error:
        raise CaseError(
            f"names no labels ({error})", where=path, fix="Write lines of 'label name R G B A' beside the label map"
        ) from error
    return {name: label for name, label in rows if label}
