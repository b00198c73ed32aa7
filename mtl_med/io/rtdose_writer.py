"""Dose distributions written as RTDOSE, for treatment planning systems and viewers."""

from __future__ import annotations

import logging
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import RTDoseStorage, RTPlanStorage

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid, lps_from_ras, reorient
from mtl_med.io.dicom_common import RESEARCH_COMMENT, decimal_string, new_object, plain_text, sop_item, write_dicom

__all__ = ["write_rtdose"]

log = logging.getLogger(__name__)

# Gy per stored number. 31 bits reach 2147 Gy, so that a reader that takes the numbers as signed sees the same dose.
SCALING_GY = 1e-6
LARGEST = 2**31 - 1
NEGATIVE_GY = 1e-3


def write_rtdose(
    path: str | Path,
    dose_gy: NDArray,
    grid: Grid,
    reference: Dataset,
    *,
    plan_uid: str,
    plan_class_uid: str = RTPlanStorage,
    summation: str = "PLAN",
    comment: str = RESEARCH_COMMENT,
    seed: str = "",
    when: datetime | None = None,
) -> str:
    """Write a dose as RTDOSE with 32 bits per voxel, in steps of a millionth of a Gy.

    Rows and columns run as in the CT where the grid's axes are parallel to them.

    Args:
        path: the file.
        dose_gy: (X, Y, Z) Gy on `grid`; negative values become 0.
        grid: its grid, RAS mm; at least two voxels along each axis.
        reference: header of a CT image, for patient, study, frame of reference and orientation.
        plan_uid: SOP Instance UID of the plan that the dose belongs to.
        plan_class_uid: its SOP Class UID; that of ions differs.
        summation: Dose Summation Type.
        comment: Dose Comment, at most 64 characters.
        seed: as for `new_object`.
        when: date and time of making (default: now).

    Returns:
        SOP Instance UID of the dose.

    Raises:
        CaseError: the dose is not finite or above 2147 Gy, or the CT has no study or frame of reference.
        GeometryError: another shape than the grid's, a single plane, or a sheared grid.
        OutputError: the file cannot be written.

    Source: DICOM PS3.3 A.18 (RT Dose), C.8.8.3.
    """
    planes, axes, position, spacing_mm = _planes(np.asarray(dose_gy), grid, reference, path)
    moment = when or datetime.now()
    made = new_object(
        reference,
        sop_class_uid=RTDoseStorage,
        modality="RTDOSE",
        description="Predicted dose",
        series_number=9003,
        seed=seed,
        when=moment,
    )
    made.ImagePositionPatient = [decimal_string(mm) for mm in position]
    made.ImageOrientationPatient = [decimal_string(part) for part in axes[:2].ravel()]
    made.PixelSpacing = [decimal_string(spacing_mm[1]), decimal_string(spacing_mm[0])]
    made.SliceThickness = decimal_string(spacing_mm[2])
    made.NumberOfFrames, made.Rows, made.Columns = planes.shape
    made.FrameIncrementPointer = Tag("GridFrameOffsetVector")
    made.GridFrameOffsetVector = [decimal_string(at * spacing_mm[2]) for at in range(len(planes))]
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 32, 32, 31
    made.DoseUnits, made.DoseType, made.DoseSummationType = "GY", "PHYSICAL", summation
    made.DoseGridScaling = decimal_string(SCALING_GY)
    made.DoseComment = plain_text(comment)
    made.ReferencedRTPlanSequence = [sop_item(plan_class_uid, plan_uid)]
    made.PixelData = _stored(planes, path)
    write_dicom(path, made)
    return str(made.SOPInstanceUID)


def _planes(
    dose_gy: NDArray, grid: Grid, reference: Dataset, path: str | Path
) -> tuple[NDArray, NDArray[np.float64], NDArray[np.float64], tuple[float, float, float]]:
    """(frames, rows, columns) values; row, column and normal as rows (3, 3) LPS; position (3,) LPS mm; spacing, mm."""
    if dose_gy.shape != grid.shape:
        raise GeometryError(f"dose of shape {dose_gy.shape} on a grid of shape {grid.shape}", where=path)
    if min(grid.shape) < 2:
        raise GeometryError("a dose needs at least two voxels along each axis", where=path)
    turned, new = reorient(dose_gy, grid, _axis_codes(reference))
    if np.linalg.det(new.affine[:3, :3]) < 0:  # rows, columns and planes must make a right-handed system
        turned = turned[:, :, ::-1]
        new = Grid(new.shape, _reversed_planes(new))
    spacing_mm = new.spacing_mm
    axes = lps_from_ras((new.affine[:3, :3] / spacing_mm).T)
    if np.abs(axes @ axes.T - np.eye(3)).max() > 1e-4:
        raise GeometryError("the grid is sheared, which an RTDOSE cannot hold", where=path, fix="Resample it first")
    return turned.transpose(2, 1, 0), axes, lps_from_ras(new.affine[None, :3, 3])[0], spacing_mm


def _axis_codes(reference: Dataset) -> str:
    """Towards what rows, columns and planes of the CT run; transverse ones of a supine patient if it does not tell."""
    try:
        row, column = np.array([float(part) for part in reference.ImageOrientationPatient]).reshape(2, 3)
        axes = lps_from_ras(np.stack([row, column, np.cross(row, column)]))
        affine = np.eye(4)
        affine[:3, :3] = axes.T
        return Grid((1, 1, 1), affine).axis_codes
    except (AttributeError, TypeError, ValueError, GeometryError):
        return "LPS"


def _reversed_planes(grid: Grid) -> NDArray[np.float64]:
    affine = np.array(grid.affine)
    affine[:3, 3] += affine[:3, 2] * (grid.shape[2] - 1)
    affine[:3, 2] *= -1
    return affine


def _stored(planes: NDArray, path: str | Path) -> bytes:
    """Little-endian 32-bit numbers, plane by plane, so that the double precision of one plane is all that is added."""
    stored = np.empty(planes.shape, dtype="<u4")
    lowest = 0.0
    for plane, out in zip(planes, stored, strict=True):
        steps = np.rint(plane.astype(np.float64) / SCALING_GY)
        if not np.isfinite(steps).all():
            raise CaseError("the dose holds values that are not finite", where=path, fix="Set them to 0 or mask them")
        if steps.max() > LARGEST:
            raise CaseError(f"the dose is above {LARGEST * SCALING_GY:.0f} Gy", where=path, fix="Check its unit")
        lowest = min(lowest, float(steps.min()) * SCALING_GY)
        out[...] = np.maximum(steps, 0)
    if lowest < -NEGATIVE_GY:
        log.warning("%s: negative dose, down to %.3g Gy, was written as 0", Path(path).name, lowest)
    return stored.tobytes()
