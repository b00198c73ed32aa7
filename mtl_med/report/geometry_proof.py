"""Proof that everything lies where it should: each file's grid as three readers find it, and the way there and back."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import MtlMedError
from mtl_med.geometry import Grid, lps_from_ras
from mtl_med.io.nifti import read_grid
from mtl_med.io.results import CT_FILE, DOSE_FILE, DOSE_PERCENT_FILE, LABEL_MAP_FILE, SEGMENTATION_FILE
from mtl_med.manifest import Case
from mtl_med.report.case_page import Block, CaseInputs, Cell, Table, Text
from mtl_med.report.numbers import ABSENT, number_cell

__all__ = ["GridProof", "geometry_blocks", "prove"]

_TOLERANCE_MM = 0.01  # float32 origins of NIfTI files a metre away are exact to 0.0001 mm


@dataclass(frozen=True)
class GridProof:
    """Where a file's voxels lie.

    Args:
        file: what it is.
        grid: as this library reads it; None where it cannot.
        off_mm: largest distance of a corner from that of the study's grid, mm; infinite where the shape differs.
        round_trip_mm: largest distance of a corner that SimpleITK places and nibabel takes back to voxels, mm.
        fault: why something is not known.
    """

    file: str
    grid: Grid | None
    off_mm: float = np.nan
    round_trip_mm: float = np.nan
    fault: str = ""


def geometry_blocks(inputs: CaseInputs) -> list[Block]:
    """Table of the grids of study and predictions; what lies elsewhere is marked."""
    case = inputs.case
    if case.grid is None:
        return [Text("The case has no grid in mm.", "bad")]
    proofs = [prove(name, path, case.grid) for name, path in _files(inputs)]
    rows = [_row(proof) for proof in proofs]
    caption = (
        "Grid of each file. Off: largest distance of a corner voxel from where the study's case.json puts it. Round "
        "trip: corner voxels to mm by SimpleITK (LPS turned to RAS), back to voxels by nibabel, largest distance from "
        "where they started. A .seg.nrrd, which nibabel cannot read, is placed by SimpleITK."
    )
    heads = ["file", "voxels", "spacing, mm", "axes", "first voxel, mm RAS", "off, mm", "round trip, mm"]
    elsewhere = [item for item in proofs if item.fault or not item.off_mm <= _TOLERANCE_MM]
    broken = [item for item in proofs if not np.isnan(item.round_trip_mm) and item.round_trip_mm > _TOLERANCE_MM]
    blocks: list[Block] = [Table(caption, heads, rows)]
    for item in elsewhere:
        told = item.fault or (
            "has another number of voxels than the study's grid"
            if np.isinf(item.off_mm)
            else f"lies up to {item.off_mm:.2f} mm beside the study's grid"
        )
        blocks.append(Text(f"{item.file}: {told}.".replace("..", "."), "bad"))
    if broken:
        names = ", ".join(item.file for item in broken)
        blocks.append(Text(f"SimpleITK and nibabel place voxels differently in: {names}.", "bad"))
    if not elsewhere and not broken:
        told = f"All {len(proofs)} files lie on the study's grid within {_TOLERANCE_MM:g} mm."
        blocks.insert(0, Text(told, ""))
    return blocks


def prove(name: str, path: Path, expected: Grid) -> GridProof:
    """What the readers find out about a file.

    Args:
        name: what it is called.
        path: NIfTI or `.seg.nrrd`.
        expected: the grid of the study.
    """
    try:
        placed, shape, steps = _by_sitk(path)
        if path.name.endswith(".nrrd"):
            affine = np.eye(4)
            affine[:3, :3], affine[:3, 3] = steps, placed[0]
            grid, round_trip = Grid(shape, affine), float("nan")
        else:
            grid, round_trip = read_grid(path), _there_and_back_mm(path, placed, shape)
    except (MtlMedError, OSError, RuntimeError, ValueError) as error:
        told = str(error) if isinstance(error, MtlMedError) else "cannot be read by SimpleITK and nibabel"
        return GridProof(name, None, fault=told)
    return GridProof(name, grid, _off_mm(grid, expected), round_trip)


def _files(inputs: CaseInputs) -> Iterator[tuple[str, Path]]:
    case: Case = inputs.case
    for key in ("ct", "dose", "mask_dose"):
        if case.has(key):
            yield f"study: {case.files[key]['path']}", case.path(key)
    masks = [key for key in case.files if key.startswith("structures/")]
    for key in masks[:1]:
        yield f"study: {case.files[key]['path']}", case.path(key)
    for item in inputs.predictions:
        for name in (CT_FILE, DOSE_FILE, DOSE_PERCENT_FILE, SEGMENTATION_FILE, LABEL_MAP_FILE):
            if (item.folder / name).is_file():
                yield f"{item.name}: {name}", item.folder / name


def _corners(shape: tuple[int, ...]) -> NDArray[np.float64]:
    return np.array(list(itertools.product(*[(0, size - 1) for size in shape])), dtype=np.float64)


def _by_sitk(path: Path) -> tuple[NDArray[np.float64], tuple[int, int, int], NDArray[np.float64]]:
    """Corner voxels in RAS mm, the number of voxels, and the steps along the axes as columns, by SimpleITK."""
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    x, y, z = (int(size) for size in reader.GetSize()[:3])
    axes = reader.GetDimension()
    steps = np.array(reader.GetDirection()).reshape(axes, axes)[:3, :3] * np.array(reader.GetSpacing()[:3])
    points = _corners((x, y, z)) @ steps.T + np.array(reader.GetOrigin()[:3])
    return lps_from_ras(points), (x, y, z), lps_from_ras(steps.T).T


def _there_and_back_mm(path: Path, placed: NDArray[np.float64], shape: tuple[int, int, int]) -> float:
    """How far from themselves nibabel brings the corners that SimpleITK has placed, mm."""
    import nibabel as nib

    affine = nib.Nifti1Image.from_filename(path).affine
    voxels = nib.affines.apply_affine(np.linalg.inv(affine), placed)
    return float(np.linalg.norm((voxels - _corners(shape)) @ affine[:3, :3].T, axis=1).max())


def _off_mm(found: Grid, expected: Grid) -> float:
    if found.shape != expected.shape:
        return float("inf")
    corners = _corners(found.shape)
    return float(np.linalg.norm(found.points_ras(corners) - expected.points_ras(corners), axis=1).max())


def _row(proof: GridProof) -> list[Cell | str]:
    if proof.grid is None:
        return [proof.file, *[Cell(ABSENT, "none")] * 4, Cell("not told", "bad"), Cell(ABSENT, "none")]
    grid = proof.grid
    origin = ", ".join(f"{mm:.2f}" for mm in grid.affine[:3, 3])
    off = (
        Cell("other voxels", "bad")
        if np.isinf(proof.off_mm)
        else number_cell(proof.off_mm, 4, mark=_mark(proof.off_mm))
    )
    return [
        proof.file,
        " x ".join(map(str, grid.shape)),
        " x ".join(f"{mm:.4g}" for mm in grid.spacing_mm),
        grid.axis_codes,
        origin,
        off,
        number_cell(proof.round_trip_mm, 4, mark=_mark(proof.round_trip_mm)),
    ]


def _mark(distance_mm: float) -> str:
    return "good" if distance_mm <= _TOLERANCE_MM else "bad"
