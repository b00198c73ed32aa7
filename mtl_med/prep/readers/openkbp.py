"""The OpenKBP layout: folders `train-pats`, `validation-pats`, `test-pats` with one folder of CSV files per patient.

Source: A. Babier et al., OpenKBP, Medical Physics 48 (2021); github.com/ababier/open-kbp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, NothingFoundError
from mtl_med.files import safe_name
from mtl_med.geometry import Grid, reorient
from mtl_med.io.sparse_csv import SparseVolume, read_sparse_csv, read_voxel_dimensions
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.recipe import Recipe

__all__ = ["SHAPE", "raw_grid", "read", "scan"]

SHAPE = (128, 128, 128)
VOXELS = 128**3
GROUP_FOLDERS = {"train-pats": "train", "validation-pats": "validation", "test-pats": "test"}
CT_OFFSET_HU = 1024  # stored = HU + 1024; 0 where nothing is stored
CT_STORED_MAX = 4095  # 12 bits; a few patients hold larger values in metal
REQUIRED = ("ct.csv", "dose.csv", "possible_dose_mask.csv", "voxel_dimensions.csv")


def scan(folder: Path, recipe: Recipe) -> list[Source]:
    """Patients below a published folder, or below a single one of its three groups.

    Raises:
        NothingFoundError: the folder is missing or holds no patient.
    """
    groups = {name: folder / name for name in GROUP_FOLDERS if (folder / name).is_dir()}
    if folder.name in GROUP_FOLDERS and folder.is_dir():
        groups = {folder.name: folder}
    found = [
        Source(_id(path), GROUP_FOLDERS[name], path, tuple(sorted(path.glob("*.csv"))))
        for name, group in groups.items()
        for path in group.glob("pt_*")
        if path.is_dir()
    ]
    if not found:
        raise NothingFoundError(
            "is no OpenKBP data: no train-pats/pt_* or the like" if folder.is_dir() else "there is no such folder",
            where=folder,
            fix=f"Give the folder 'provided-data' that holds {', '.join(GROUP_FOLDERS)}, or one of these",
        )
    return _mark_faults(found)


def _id(folder: Path) -> str:
    """The folder's name; bytes that are no UTF-8 as escapes, so that every file and terminal can hold it."""
    return folder.name.encode("utf-8", "backslashreplace").decode()


def _mark_faults(found: list[Source]) -> list[Source]:
    folders: dict[str, list[Path]] = {}
    for source in found:
        folders.setdefault(source.id, []).append(source.folder)
    checked = {}
    for source in found:
        same = folders[source.id]
        fault = ""
        if len(same) > 1:
            fault = f"is in {' and in '.join(path.parent.name for path in same)}: a patient belongs to one group"
        elif safe_name(source.id) != source.id:
            fault = "has characters in its name that a case id cannot have"
        checked[source.id] = Source(source.id, source.group, source.folder, source.files, fault)
    return sorted(checked.values(), key=_natural)


def _natural(source: Source) -> tuple[str, int, str]:
    digits = source.id.removeprefix("pt_")
    return source.group, int(digits) if digits.isdecimal() else 1 << 30, source.id


def raw_grid(voxel_dimensions: tuple[float, float, float]) -> Grid:
    """Grid of the raw arrays: axis 0 runs to posterior, 1 to left, 2 to inferior (PLI), centred on the origin.

    Args:
        voxel_dimensions: spacing along the raw axes, mm.
    """
    v0, v1, v2 = voxel_dimensions
    c0, c1, c2 = (spacing * 63.5 for spacing in voxel_dimensions)
    return Grid(SHAPE, np.array([[0, -v1, 0, c1], [-v0, 0, 0, c0], [0, 0, -v2, c2], [0, 0, 0, 1]], dtype=np.float64))


def read(source: Source, recipe: Recipe) -> RawCase:
    """Read one patient and turn it to RAS.

    Raises:
        CaseError: a required file is missing, or a file is damaged.
    """
    present = {path.name: path for path in source.files}
    for name in REQUIRED:
        if name not in present:
            raise CaseError(f"{name} is missing", where=source.folder, fix="Copy the patient's folder again")
    grid = raw_grid(read_voxel_dimensions(present["voxel_dimensions.csv"]))
    ct = read_sparse_csv(present["ct.csv"], voxels=VOXELS, valued=True)
    dose = read_sparse_csv(present["dose.csv"], voxels=VOXELS, valued=True)
    mask = read_sparse_csv(present["possible_dose_mask.csv"], voxels=VOXELS, valued=False)
    masks = {
        fact.name: read_sparse_csv(present[f"{fact.original}.csv"], voxels=VOXELS, valued=False)
        for fact in recipe.structures
        if f"{fact.original}.csv" in present
    }
    volumes = {
        "ct": _hounsfield(ct),
        "dose": dose.dense(SHAPE, np.float32),
        "mask_dose": mask.dense(SHAPE, np.uint8),
    }
    known = {*REQUIRED, *(f"{fact.original}.csv" for fact in recipe.structures)}
    return RawCase(
        id=source.id,
        grid=reorient(volumes["mask_dose"], grid)[1],
        volumes={key: reorient(volume, grid)[0] for key, volume in volumes.items()},
        masks={name: reorient(item.dense(SHAPE, np.uint8), grid)[0] for name, item in masks.items()},
        facts={fact.name: fact for fact in recipe.structures},
        measures={
            "ct.metal_voxels": int(np.count_nonzero(ct.values > CT_STORED_MAX)),
            "mask.without_ct_voxels": _missing(mask, ct),
        },
        remarks=[f"{name} is not known and was left out" for name in present if name not in known],
    )


def _hounsfield(ct: SparseVolume) -> NDArray[np.int16]:
    """HU from stored values, clipped to what 12 bits hold: -1024 to 3071."""
    stored = np.clip(ct.dense(SHAPE, np.float32), 0, CT_STORED_MAX)
    return np.rint(stored - CT_OFFSET_HU).astype(np.int16)


def _missing(mask: SparseVolume, ct: SparseVolume) -> int:
    """Number of voxels of the mask for which no CT value is stored."""
    stored = np.zeros(VOXELS, dtype=bool)
    stored[ct.indices[ct.values > 0]] = True
    return int(np.count_nonzero(~stored[mask.indices]))
