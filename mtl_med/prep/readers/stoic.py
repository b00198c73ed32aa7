"""STOIC: chest CTs of patients suspected of COVID-19, with the result of the test and, where positive, its severity.

The published layout: `data/mha/<PatientID>.mha` and `metadata/reference.csv`. Volumes are cropped to the lungs and
stored with cubic voxels; the header's fields about the patient (age, sex) are not read.

Source: M.-P. Revel et al., Study of Thoracic CT in COVID-19: The STOIC Project, Radiology 301 (2021);
stoic2021.grand-challenge.org.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, NothingFoundError, UsageError
from mtl_med.files import safe_name
from mtl_med.geometry import Grid, resample
from mtl_med.io.hounsfield import require_hounsfield, require_slices
from mtl_med.io.metaimage import MetaImage, open_metaimage
from mtl_med.prep.lungs import LungRegion, find_lungs
from mtl_med.prep.raw import RawCase, Source
from mtl_med.prep.recipe import Recipe, StructureFact
from mtl_med.prep.shrink import block_grid, block_mean, factors_for
from mtl_med.prep.stoic_table import COVID, SEVERE, PatientRow, read_reference
from mtl_med.prep.target_grid import place_ct, spacing_grid
from mtl_med.prep.turning import Box, part_of, turn_to_ras
from mtl_med.prep.twins import identical_files, joined

__all__ = ["StoicSource", "read", "scan"]

HU_RANGE = (-1024, 3071)  # of 12 bits: what is beyond is metal, or no measurement
LUNGS = StructureFact("found in the CT, not contoured", "Lungs", "other")
_VOLUMES, _TABLE = Path("data", "mha"), Path("metadata", "reference.csv")
_LEAST_MM = 60.0  # extent along each axis of anything that can be called a chest
_MOST_VOXELS = 1 << 29  # 512 x 512 x 2,048
_SPACINGS_MM = (0.5, 20.0)


@dataclass(frozen=True)
class StoicSource(Source):
    """One patient.

    Args:
        row: what the table says.
        remarks: sentences about other patients with this one's very volume.
    """

    row: PatientRow = field(default_factory=PatientRow)
    remarks: tuple[str, ...] = ()


@dataclass
class _Extremes:
    lowest: float = np.inf
    highest: float = -np.inf


def scan(folder: Path, recipe: Recipe) -> list[StoicSource]:
    """Patients of the published folder, in the order of their numbers; those without a volume come last.

    These count where the patients are divided into splits, so that a download that goes on moves nobody.

    Raises:
        NothingFoundError: the folder is missing, or holds no volumes or no table.
        UsageError: the table cannot be read, or the recipe names no spacing.
    """
    _spacing_mm(recipe)
    volumes: dict[str, list[Path]] = {}
    if (folder / _VOLUMES).is_dir():
        for path in sorted((folder / _VOLUMES).iterdir()):
            if path.suffix.lower() == ".mha" and not path.name.startswith("."):
                volumes.setdefault(path.stem, []).append(path)
    if not volumes or not (folder / _TABLE).is_file():
        lacking = f"{_TABLE.as_posix()}" if volumes else f"{_VOLUMES.as_posix()}/<PatientID>.mha"
        raise NothingFoundError(
            f"is no STOIC data: it holds no {lacking}" if folder.is_dir() else "there is no such folder",
            where=folder,
            fix="Give the folder that holds data/ and metadata/ as published",
        )
    rows = read_reference(folder / _TABLE)
    twins = [[path.stem for path in same] for same in identical_files(paths[0] for paths in volumes.values())]
    owners = joined(volumes, twins)
    told = {patient: _twins_told(patient, same, rows) for same in twins for patient in same}
    found = [
        _source(patient, volumes.get(patient, []), rows.get(patient), folder, owners.get(patient, ""), told)
        for patient in {**volumes, **rows}
    ]
    return sorted(found, key=lambda source: (source.id not in volumes, *_natural(source.id)))


def _natural(patient: str) -> tuple[tuple[int, str], ...]:
    """Numbers in the order of their values."""
    parts = re.findall(r"\d+|\D+", patient)
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in parts)


def _twins_told(patient: str, same: Sequence[str], rows: Mapping[str, PatientRow]) -> tuple[str, ...]:
    """Sentences about other patients with this one's very volume, whose labels may not be the same."""
    others = {name: rows[name].stratum if name in rows else "no row in the table" for name in same if name != patient}
    return tuple(
        f"volume equals that of {name} byte by byte ({what}); both go to one split" for name, what in others.items()
    )


def _source(
    patient: str,
    paths: list[Path],
    row: PatientRow | None,
    root: Path,
    owner: str,
    remarks: Mapping[str, tuple[str, ...]],
) -> StoicSource:
    fault = row.fault if row else "has a volume, but no row in metadata/reference.csv"
    if not paths:
        fault = f"has a row in metadata/reference.csv, but no volume {_VOLUMES.as_posix()}/{patient}.mha"
    elif len(paths) > 1:
        fault = f"has {len(paths)} volumes ({' and '.join(path.name for path in paths)}): keep the one that is meant"
    if safe_name(patient) != patient:
        fault = "has characters in its name that a case id cannot have"
    row = row or PatientRow()
    told = ", ".join(f"{task} {value}" for task, value in row.labels.items()) or "no label"
    return StoicSource(
        id=patient,
        group="all",
        folder=root / _VOLUMES,
        files=(*paths, root / _TABLE),
        fault=fault,
        patient=owner,
        stratum=row.stratum,
        account={"found": (told,)} if row.labels else {},
        root=root,
        row=row,
        remarks=(twins := remarks.get(patient, ())),
        others=(owner, *twins) if twins else (),
    )


def read(source: Source, recipe: Recipe) -> RawCase:
    """Read one volume, crop it to the lungs and give it cubic voxels.

    Raises:
        CaseError: the volume is damaged, no CT in HU, or of a size that no chest CT has.
        GeometryError: its header does not say where its voxels lie.
    """
    if not isinstance(source, StoicSource):
        raise CaseError("is no patient of STOIC", where=source.id)
    spacing_mm = _spacing_mm(recipe)
    image = open_metaimage(source.files[0])
    _require_chest(image.grid, image.path)
    hu, coarse, extremes = _read_shrunk(image, spacing_mm)
    require_hounsfield(extremes.lowest, extremes.highest, image.path)
    hu, coarse = turn_to_ras(hu, coarse)
    lungs = find_lungs(hu, coarse)
    target = spacing_grid(part_of(lungs.grid, lungs.box), spacing_mm)
    ct, _ = place_ct(*_around(hu, coarse, target), target)
    masks = {}
    if lungs.found:
        masks[LUNGS.name] = (resample(*_around(lungs.mask, lungs.grid, target), target) >= 0.5).astype(np.uint8)
    measures = _measures(image.grid, extremes, ct, masks.get(LUNGS.name), target)
    measures |= {f"{task}.label": source.row.labels[task] for task in (COVID, SEVERE) if task in source.row.labels}
    return RawCase(
        id=source.id,
        grid=target,
        volumes={"ct": ct},
        masks=masks,
        facts={LUNGS.name: LUNGS},
        measures=measures,
        remarks=[*source.remarks, *source.row.remarks, *([lungs.remark] if lungs.remark else [])],
        account={"converted": [_told(image, target, lungs)]},
        labels=dict(source.row.labels),
        group=source.patient if source.remarks else "",  # equal volumes are drawn, and lose their labels, together
    )


def _spacing_mm(recipe: Recipe) -> float:
    """The recipe's `spacing_mm`.

    Raises:
        UsageError: it is missing or no spacing.
    """
    spacing_mm = recipe.facts.get("spacing_mm")
    low, high = _SPACINGS_MM
    if not isinstance(spacing_mm, (int, float)) or not low <= spacing_mm <= high:
        what = f"spacing_mm is {spacing_mm!r}, expected mm from {low:g} to {high:g}"
        raise UsageError(what, where=f"recipe {recipe.dataset}", fix="Set it, such as 2.0")
    return float(spacing_mm)


def _require_chest(grid: Grid, path: Path) -> None:
    size = " x ".join(map(str, grid.shape))
    require_slices(grid.shape, path)
    if np.prod(grid.shape, dtype=np.int64) > _MOST_VOXELS:
        raise CaseError(f"has {size} voxels, more than any chest CT", where=path, fix="Check DimSize in its header")
    extent_mm = [count * mm for count, mm in zip(grid.shape, grid.spacing_mm, strict=True)]
    if min(extent_mm) < _LEAST_MM:
        told = " x ".join(f"{mm:.4g}" for mm in extent_mm)
        raise CaseError(
            f"is {told} mm large, which holds no chest", where=path, fix="Check ElementSpacing in its header"
        )


def _read_shrunk(image: MetaImage, spacing_mm: float) -> tuple[NDArray[np.int16], Grid, _Extremes]:
    """The volume with voxels that are not yet wider than wanted, a few planes at a time; HU are clipped before.

    Raises:
        CaseError: a value is no number.
    """
    factors = factors_for(image.grid, spacing_mm)
    grid = block_grid(image.grid, factors)
    small: NDArray[np.int16] = np.empty(grid.shape[::-1], dtype=np.int16).T
    extremes = _Extremes()
    at = 0
    for planes in image.planes(4 * factors[2]):
        low, high = float(planes.min()), float(planes.max())  # NaN where there is one
        if not np.isfinite([low, high]).all():
            raise CaseError("holds values that are no numbers", where=image.path, fix="Fill them with air, -1000 HU")
        extremes.lowest, extremes.highest = min(extremes.lowest, low), max(extremes.highest, high)
        values = planes if planes.dtype == np.int16 else planes.astype(np.float32)
        means = block_mean(np.clip(values, *HU_RANGE), factors)
        small[:, :, at : at + means.shape[2]] = np.rint(means)
        at += means.shape[2]
    return small, grid, extremes


def _around(volume: NDArray, grid: Grid, target: Grid) -> tuple[NDArray, Grid]:
    """What of a volume the target needs, and one voxel more on each side, at the volume's own ends a copy of the last.

    A target that reaches to the outer faces of the last voxels lies beyond their centres, where nothing is known.
    """
    corners = np.stack(np.meshgrid(*[(0, size - 1) for size in target.shape], indexing="ij"), axis=-1).reshape(-1, 3)
    indices = np.linalg.solve(grid.affine[:3, :3], (target.points_ras(corners) - grid.affine[:3, 3]).T).T
    low = np.clip(np.floor(indices.min(axis=0)).astype(int) - 1, 0, None)
    high = np.clip(np.ceil(indices.max(axis=0)).astype(int) + 2, None, grid.shape)
    box: Box = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
    part = part_of(grid, box)
    affine = part.affine.copy()
    affine[:3, 3] = part.points_ras(np.full((1, 3), -1))[0]
    padded = np.pad(volume[box], 1, mode="edge")
    return padded, Grid(padded.shape, affine)


def _measures(
    grid: Grid, extremes: _Extremes, ct: NDArray, mask: NDArray[np.uint8] | None, target: Grid
) -> dict[str, float]:
    measures = {
        "source.slices": grid.shape[2],
        **{f"source.spacing_{axis}_mm": mm for axis, mm in zip("xyz", grid.spacing_mm, strict=True)},
        **{f"source.field_{axis}_mm": n * mm for axis, n, mm in zip("xyz", grid.shape, grid.spacing_mm, strict=True)},
        "source.lowest_hu": extremes.lowest,
        "source.highest_hu": extremes.highest,
    }
    if mask is not None:
        inside = ct[mask > 0]
        measures["Lungs.mean_hu"] = float(inside.mean(dtype=np.float64))
        measures["Lungs.opaque_percent"] = float(100 * np.mean(inside > -700))
        measures["Lungs.at_scan_end_percent"] = _cut_percent(mask, target)
    return measures


def _cut_percent(mask: NDArray[np.uint8], target: Grid) -> float:
    """Largest share of the widest slice that the first or last slice of the box holds: of lungs that are whole, 0."""
    areas = mask.sum(axis=(0, 1), dtype=np.int64)
    return float(100 * max(areas[0], areas[-1]) / areas.max()) if areas.any() else 0.0


def _told(image: MetaImage, target: Grid, lungs: LungRegion) -> str:
    old, new = (" x ".join(map(str, grid.shape)) for grid in (image.grid, target))
    spacing = " x ".join(f"{mm:.4g}" for mm in image.grid.spacing_mm)
    what = "the lungs" if lungs.found else "the body"
    return (
        f"CT of {old} voxels of {spacing} mm, axes {image.grid.axis_codes}, cropped to {what}: "
        f"{new} voxels of {target.spacing_mm[0]:g} mm"
    )
