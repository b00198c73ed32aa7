"""RTDOSE files read to Gy in RAS, on the grid they were calculated on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.uid import RTDoseStorage

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid
from mtl_med.io.dicom import (
    number,
    numbers,
    position_ras,
    read_dataset,
    read_header,
    row_column_normal,
    spacing_mm,
    stored_pixels,
)
from mtl_med.io.dicom_attributes import whole_number
from mtl_med.io.dicom_items import items, term, text, whole
from mtl_med.io.rtdose_frames import ascending_planes, plane_offsets_mm

__all__ = ["DoseHeader", "RtDose", "read_dose_header", "read_rtdose", "require_frame"]

MOST_FRAMES = 10_000
USUAL_GY = (0.5, 150.0)
IMPOSSIBLE_GY, IMPOSSIBLE_BRACHY_GY = 1e3, 1e5  # beside a brachytherapy source dose has hardly a bound
NEGATIVE_SHARE = 0.01  # of the maximum: less is noise of the calculation and becomes 0


@dataclass(frozen=True, eq=False)
class DoseHeader:
    """What an RTDOSE says about itself before its pixels are read.

    Args:
        path: the file.
        summation: Dose Summation Type, such as "PLAN" or "BEAM".
        dose_type: "PHYSICAL" or "EFFECTIVE".
        frame_of_reference: its Frame of Reference UID, "" if it has none.
        sop_uid: its SOP Instance UID.
        plan_uids: SOP Instance UIDs of the plans it refers to.
        structure_set_uid: SOP Instance UID of the structure set it refers to, or "".
        fraction_group: number of the fraction group it refers to; None if there is not exactly one.
        beams: numbers of the beams it refers to.
        notes: sentences about oddities.
    """

    path: Path
    summation: str
    dose_type: str
    frame_of_reference: str
    sop_uid: str
    plan_uids: tuple[str, ...]
    structure_set_uid: str
    fraction_group: int | None
    beams: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def plan_uid(self) -> str:
        """SOP Instance UID of the plan; "" if it refers to none or to several."""
        return self.plan_uids[0] if len(self.plan_uids) == 1 else ""


@dataclass(frozen=True, eq=False)
class RtDose(DoseHeader):
    """A dose distribution with what its file says about it.

    Args:
        dose_gy: (X, Y, Z) float32 Gy; axis 0 runs along the rows, axis 1 down the columns, axis 2 along row x column.
        grid: its grid, RAS mm. Outside of it the dose is unknown, not 0.
    """

    dose_gy: NDArray[np.float32]
    grid: Grid


def read_dose_header(path: str | Path) -> DoseHeader:
    """Header of an RTDOSE, without its pixels.

    Raises:
        CaseError: no RTDOSE, or one that cannot be used: its units are not Gy, its type is ERROR, or a required
            attribute is missing.
    """
    return _header(read_header(path), Path(path))


def read_rtdose(path: str | Path, *, frame_of_reference: str | None = None) -> RtDose:
    """Read an RTDOSE onto its own grid.

    Args:
        path: the file.
        frame_of_reference: Frame of Reference UID of the CT; a dose of another one is refused, one that names none gets
            a note. None does not ask.

    Raises:
        CaseError: as `read_dose_header`; or the scaling is missing or not positive, pixels are missing, the dose is
            negative or above 1000 Gy, or it belongs to another frame of reference.
        GeometryError: position, orientation, spacing or plane offsets do not make a grid.

    Source: DICOM PS3.3 C.8.8.3 (RT Dose module).
    """
    path = Path(path)
    ds = read_dataset(path)
    header = _header(ds, path)
    if frame_of_reference is not None:
        require_frame(header, frame_of_reference)
    scaling = number(ds, "DoseGridScaling", path)
    if not scaling > 0:
        raise CaseError(f"DoseGridScaling is {scaling:g}, expected more than 0", where=path, fix="Export it again")
    axes, position, offsets = _planes(ds, path)
    rows_mm, columns_mm = spacing_mm(ds, path)
    planes = _gray(stored_pixels(ds, path), scaling)
    notes = [*header.notes, *_check_values(planes, header, path)]
    if frame_of_reference is not None and not header.frame_of_reference:
        notes.append("the dose names no frame of reference; it is taken to lie in that of the CT")
    planes, first, pitch, note = ascending_planes(planes, offsets, path)
    affine = np.eye(4)
    affine[:3, :3] = axes.T * [columns_mm, rows_mm, pitch]
    affine[:3, 3] = position + first * axes[2]
    dose_gy = planes.transpose(2, 1, 0)
    fields = vars(header) | {"notes": (*notes, *filter(None, [note]))}
    return RtDose(**fields, dose_gy=dose_gy, grid=Grid(dose_gy.shape, affine))


def require_frame(header: DoseHeader, frame_of_reference: str) -> None:
    """Refuse a dose of another frame of reference than the CT's; a dose that names none is no contradiction.

    Raises:
        CaseError: it is of another one.
    """
    if header.frame_of_reference not in ("", frame_of_reference):
        raise CaseError(
            "the dose belongs to another frame of reference than the CT",
            where=header.path,
            why="Where it lies in this CT is unknown",
            fix="Take the dose that was planned on this CT, or pass --force if both are known to agree",
        )


def _header(ds: Dataset, path: Path) -> DoseHeader:
    if text(ds, "SOPClassUID") != RTDoseStorage:
        raise CaseError("is no RTDOSE file", where=path, fix="Check the path")
    units, dose_type, summation = (term(ds, key) for key in ("DoseUnits", "DoseType", "DoseSummationType"))
    # Free text may stand there: only terms that DICOM defines are quoted.
    if units != "GY":
        raise CaseError(
            f"DoseUnits is {units if units == 'RELATIVE' else 'missing or invalid'}, expected GY",
            where=path,
            why="Relative dose has no absolute value" if units == "RELATIVE" else "",
            fix="Export the dose as absolute dose in Gy",
        )
    if dose_type not in ("PHYSICAL", "EFFECTIVE"):
        named = dose_type if dose_type == "ERROR" else "missing or invalid"
        raise CaseError(
            f"DoseType is {named}, expected PHYSICAL or EFFECTIVE",
            where=path,
            why="It holds the difference of two doses" if dose_type == "ERROR" else "",
            fix="Export the dose itself",
        )
    if not summation:
        raise CaseError("DoseSummationType is missing or invalid", where=path, fix="Export the dose again")
    plans = items(ds, "ReferencedRTPlanSequence")
    groups = [group for plan in plans for group in items(plan, "ReferencedFractionGroupSequence")]
    numbers_of_groups = {whole(group, "ReferencedFractionGroupNumber") for group in groups}
    beams = [whole(beam, "ReferencedBeamNumber") for group in groups for beam in items(group, "ReferencedBeamSequence")]
    structure_sets = [text(item, "ReferencedSOPInstanceUID") for item in items(ds, "ReferencedStructureSetSequence")]
    return DoseHeader(
        path=path,
        summation=summation,
        dose_type=dose_type,
        frame_of_reference=text(ds, "FrameOfReferenceUID"),
        sop_uid=text(ds, "SOPInstanceUID"),
        plan_uids=tuple(filter(None, (text(plan, "ReferencedSOPInstanceUID") for plan in plans))),
        structure_set_uid=next(iter(filter(None, structure_sets)), ""),
        fraction_group=numbers_of_groups.pop() if len(numbers_of_groups) == 1 else None,
        beams=tuple(beam for beam in beams if beam is not None),
        notes=tuple(_header_notes(ds, dose_type)),
    )


def _header_notes(ds: Dataset, dose_type: str) -> list[str]:
    notes = []
    if dose_type == "EFFECTIVE":
        notes.append("the dose is effective dose (weighted by biological effect), not physical dose")
    if term(ds, "SpatialTransformOfDose") not in ("", "NONE"):
        notes.append("the dose was deformed or moved by a registration (Spatial Transform of Dose)")
    return notes


def _planes(ds: Dataset, path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Row, column and normal direction as rows (3, 3) RAS; position (3,) RAS mm; plane offsets along the normal, mm."""
    frames = whole_number(ds, "NumberOfFrames", path, 1, MOST_FRAMES, default=1)
    if frames < 2:
        raise GeometryError(
            "holds a single plane of dose, expected a volume", where=path, fix="Export the whole dose grid in one file"
        )
    axes, position = row_column_normal(ds, path), position_ras(ds, path)
    vector = numbers(ds, "GridFrameOffsetVector", path, frames)
    return axes, position, plane_offsets_mm(vector, position[2], axes[2, 2], path)


def _gray(stored: NDArray[np.integer], scaling: float) -> NDArray[np.float32]:
    """Gy from stored numbers, plane by plane, so that the double precision of one plane is all that is added."""
    planes = np.empty(stored.shape, dtype=np.float32)
    with np.errstate(over="ignore"):  # infinite dose is refused with the rest of what is too high
        for plane, out in zip(stored, planes, strict=True):
            out[...] = plane * np.float64(scaling)
    return planes


def _check_values(planes: NDArray[np.float32], header: DoseHeader, path: Path) -> list[str]:
    """Refuse what no dose can be, and tell what few are; small negative values become 0 in place."""
    lowest, highest = float(planes.min()), float(planes.max())
    if lowest < -NEGATIVE_SHARE * max(highest, 0.0):
        raise CaseError(f"holds negative dose, down to {lowest:.4g} Gy", where=path, fix="Export the dose again")
    limit = IMPOSSIBLE_BRACHY_GY if header.summation.startswith("BRACHY") else IMPOSSIBLE_GY
    if highest > limit:
        raise CaseError(
            f"its highest dose is {highest:.4g} Gy, expected at most {limit:g} Gy",
            where=path,
            fix="Check DoseGridScaling, and whether it was made for cGy",
        )
    notes = []
    if lowest < 0:
        notes.append(f"{np.count_nonzero(planes < 0)} voxels of slightly negative dose were set to 0")
        np.maximum(planes, 0, out=planes)
    if highest == 0:
        notes.append("the dose is 0 everywhere")
    elif not USUAL_GY[0] <= highest <= USUAL_GY[1]:
        notes.append(f"the highest dose is {highest:.4g} Gy, which is unusual: check the units")
    return notes
