"""A dose with the structures that it is judged by, from wherever they lie: a study, NIfTI files or DICOM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, GeometryError, UsageError, nearest
from mtl_med.geometry import Grid, reorient, require_same_grid, same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import has_dose, read_dose
from mtl_med.manifest import Case
from mtl_med.scoring import known_dose

if TYPE_CHECKING:
    from mtl_med.io.rtdose_dvh import Dvh

__all__ = [
    "DoseCase",
    "Options",
    "frame_of_reference",
    "from_case",
    "is_nifti",
    "on_grid",
    "read_any_dose",
    "with_prescriptions",
]


@dataclass(frozen=True)
class Options:
    """How inputs are read.

    Args:
        grid: where the contours of an RTSTRUCT become voxels: "ct", "dose" or a spacing in mm; "" takes the CT where
            there is one, else the dose.
        resample: interpolate a dose that lies on another grid than the structures, instead of refusing it.
    """

    grid: str = ""
    resample: bool = False


@dataclass(frozen=True, eq=False)
class DoseCase:
    """A dose and structures on one grid.

    Args:
        id: name of the case.
        dose_gy: (X, Y, Z) Gy.
        grid: grid of dose and masks.
        masks: name -> (X, Y, Z) mask of each contoured structure, read or unpacked when it is asked for.
        kinds: name -> "target", "oar", "external" or "other".
        prescriptions_gy: target -> prescribed dose, Gy.
        fractions: number of fractions, if known.
        known: (X, Y, Z) where the dose is known; None everywhere.
        kept_percent: name -> share of a structure that its mask holds, %, where the grid cuts it.
        gaps: name -> why a structure has no mask.
        stored: name -> the DVH that the RTDOSE itself holds.
        notes: sentences about what was odd.
    """

    id: str
    dose_gy: NDArray[np.float32]
    grid: Grid
    masks: Mapping[str, NDArray]
    kinds: Mapping[str, str]
    prescriptions_gy: Mapping[str, float] = field(default_factory=dict)
    fractions: int | None = None
    known: NDArray[np.bool_] | None = None
    kept_percent: Mapping[str, float] = field(default_factory=dict)
    gaps: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[str, Dvh] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class _StudyMasks(Mapping[str, NDArray]):
    """Masks of a study's case, each read when it is asked for."""

    def __init__(self, case: Case, names: Sequence[str], grid: Grid) -> None:
        self._case, self._names, self._grid = case, tuple(names), grid

    def __getitem__(self, name: str) -> NDArray:
        if name not in self._names:
            raise KeyError(name)
        path = self._case.path(f"structures/{name}")
        mask, grid = read_nifti(path)
        require_same_grid(grid, self._grid, where=str(path))
        return mask > 0

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def from_case(case: Case, dose: Path | None = None, options: Options | None = None) -> DoseCase:
    """A case of a study, with its planned dose or another.

    Beyond the planned dose's own grid no dose is known, and it is never 0 there. Where mask_dose is the data set's own
    (as OpenKBP's possible dose mask, outside of which the dose is 0 by definition), all voxels count as they are
    stored, as `mtl-med evaluate` counts them.

    Args:
        case: of the study.
        dose: file or folder of another dose; None takes the planned one.
        options: how it is read.

    Raises:
        CaseError: there is no dose, or a file cannot be used.
        GeometryError: the grids differ.
    """
    if case.grid is None:
        raise CaseError("has no grid in mm, so that it has no DVH", where=case.id)
    if dose is None and not case.has("dose"):
        raise CaseError("has no dose", where=case.id, fix="Give one with --dose, or another case")
    values, grid, notes = read_any_dose(dose or case.path("dose"), case.prescription_gy)
    placed, covered, told = on_grid(values, grid, case.grid, options or Options(), dose or case.path("dose"))
    known = known_dose(case)
    if covered is not None:
        known = covered if known is None else known & covered
    contoured = {name: item for name, item in case.structures.items() if item.status != "not_contoured"}
    return DoseCase(
        id=case.id,
        dose_gy=placed,
        grid=case.grid,
        masks=_StudyMasks(case, list(contoured), case.grid),
        kinds={name: item.kind for name, item in case.structures.items()},
        prescriptions_gy=case.prescriptions_gy,
        fractions=case.fractions,
        known=known,
        kept_percent={name: item.kept_percent for name, item in contoured.items() if item.kept_percent < 100},
        gaps={name: "not contoured" for name in case.structures if name not in contoured},
        notes=(*notes, *told),
    )


def is_nifti(path: Path) -> bool:
    """Whether a file is NIfTI, by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def frame_of_reference(dose: Path) -> str:
    """UID of the frame of reference of an RTDOSE; "" where it has none, and of a NIfTI file or a prediction."""
    if dose.is_dir() or is_nifti(dose):
        return ""
    from mtl_med.io.rtdose import read_dose_header

    return read_dose_header(dose).frame_of_reference


def read_any_dose(
    path: Path, prescription_gy: float | None = None
) -> tuple[NDArray[np.float32], Grid, tuple[str, ...]]:
    """A dose in Gy, its grid, and sentences about it.

    Args:
        path: NIfTI file, RTDOSE, or the folder of a prediction.
        prescription_gy: what 100 % are of a prediction in percent.

    Raises:
        CaseError: it is missing or damaged, not finite everywhere, or negative.
    """
    if path.is_dir():
        found = read_dose(path, prescription_gy) if has_dose(path) else None
        if found is None:
            raise CaseError("holds no dose.nii.gz", where=path, fix="Give the file of the dose")
        return *found, ()
    if not is_nifti(path):
        from mtl_med.io.rtdose import read_rtdose

        read = read_rtdose(path)
        whole = read.summation in ("", "PLAN", "MULTI_PLAN", "PLAN_OVERVIEW")
        told = () if whole else (f"its summation type is {read.summation}: it may be a part of the treatment",)
        return read.dose_gy, read.grid, (*read.notes, *told)
    dose, grid = read_nifti(path, np.float32)
    bad = int(np.count_nonzero(~np.isfinite(dose)))
    if bad:
        raise CaseError(f"dose is not finite in {bad} voxels", where=path, fix="Write it again; 0 where there is none")
    if (lowest := float(dose.min())) < 0:
        raise CaseError(f"dose is negative, down to {lowest:.4g}", where=path, fix="Check that it is a dose in Gy")
    return dose, grid, ()


def on_grid(
    dose_gy: NDArray[np.float32], grid: Grid, target: Grid, options: Options, where: Path
) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None, tuple[str, ...]]:
    """A dose on another grid: turned where only the axes run otherwise, interpolated where that is allowed.

    Args:
        dose_gy: (X, Y, Z) Gy.
        grid: its grid.
        target: the wanted grid.
        options: whether it may be interpolated.
        where: the dose, for errors.

    Returns:
        the dose, where it is known (None: everywhere), and sentences about what was done.

    Raises:
        GeometryError: it lies on another grid and may not be interpolated.
        CaseError: the grids do not meet.
    """
    if not same_grid(grid, target):
        dose_gy, grid = reorient(dose_gy, grid, target.axis_codes)
    if same_grid(grid, target):
        return dose_gy, None, ()
    if not options.resample:
        try:
            require_same_grid(grid, target, where=str(where))
        except GeometryError as error:
            fix = "Check that both belong to one case; `mtl-med dvh --resample` interpolates the dose linearly"
            raise GeometryError(error.what, where=where, fix=fix) from error
    from mtl_med.prep.target_grid import place_dose

    placed = place_dose(dose_gy, grid, target)
    known = np.zeros(target.shape, dtype=bool)
    known[placed.box] = placed.known
    return placed.dose_gy, known, ("the dose was interpolated linearly onto the grid of the structures",)


def with_prescriptions(case: DoseCase, prescriptions_gy: Mapping[str, float], fractions: int | None) -> DoseCase:
    """A case with what the user says about its prescriptions and fractions; "" stands for all targets.

    Raises:
        UsageError: a name that is no structure of the case.
    """
    known = dict(case.prescriptions_gy)
    for name, dose_gy in prescriptions_gy.items():
        if name and name not in case.kinds:
            raise UsageError(f"no structure is called '{name}', to prescribe to", fix=nearest(name, case.kinds))
        known |= {n: dose_gy for n, kind in case.kinds.items() if n == name or (not name and kind == "target")}
    return replace(case, prescriptions_gy=known, fractions=fractions or case.fractions)
