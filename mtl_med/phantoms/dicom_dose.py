"""The RTDOSE files of a made-up study, in the forms that planning systems export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.geometry import Grid
from mtl_med.phantoms.dicom_files import Study, decimal, item, lps_direction, lps_point, reference
from mtl_med.phantoms.patient import Phantom
from mtl_med.phantoms.scan_geometry import Scan
from mtl_med.phantoms.space import Floats

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["sample_dose", "write_doses"]

FINEST_MM = 3.0  # spacing of a dose grid where the phantom's own is finer


@dataclass(frozen=True)
class _DoseFile:
    """One RTDOSE: its summation type, its share of the dose, and what of which plan it belongs to."""

    summation: str
    part: int | None = None
    group: int | None = None
    plans: tuple[int, ...] = (1,)
    kind: str = "PHYSICAL"
    units: str = "GY"


def sample_dose(study: Study, phantom: Phantom, scan: Scan) -> tuple[Floats, Grid]:
    """The whole dose on the grid of the RTDOSE files.

    Returns:
        Gy (columns, rows, frames), frames ascending along the normal, and the grid.
    """
    inside = np.argwhere(phantom.possible_dose_mask)
    low, high = phantom.grid.points_ras(np.stack([inside.min(axis=0), inside.max(axis=0)]))
    corners = np.array(np.meshgrid(*zip(low, high, strict=True), indexing="ij")).reshape(3, -1)
    own = np.array(phantom.grid.spacing_mm)[np.abs(scan.axes).argmax(axis=0)]
    wanted = study.style.dose_spacing_mm
    spacing = np.full(3, wanted) if wanted else np.where(own < FINEST_MM, FINEST_MM, own)
    along = scan.axes.T @ corners
    count = np.floor((along.max(axis=1) - along.min(axis=1)) / spacing + 1e-6).astype(int) + 1
    count[2] = max(2, round(count[2] * study.style.dose_share))
    affine = np.eye(4)
    affine[:3, :3] = scan.axes * spacing
    affine[:3, 3] = scan.axes @ along.min(axis=1)
    to_voxel = np.linalg.inv(phantom.grid.affine) @ affine
    dose = ndimage.affine_transform(
        phantom.dose_gy, to_voxel[:3, :3], offset=to_voxel[:3, 3], output_shape=tuple(count), order=1, mode="nearest"
    )
    return np.maximum(dose, 0), Grid(dose.shape, affine)


def write_doses(study: Study, dose_gy: Floats, grid: Grid) -> Floats:
    """Write the RTDOSE files.

    Args:
        study: what the files belong to.
        dose_gy: from `sample_dose`.
        grid: from `sample_dose`.

    Returns:
        The sum of what is written, (columns, rows, frames), Gy; beam doses beside a plan dose do not count.
    """
    files = _dose_files(study)
    whole = np.zeros_like(dose_gy)
    for index, one in enumerate(files, start=1):
        share = _share(study, one, dose_gy.shape)
        written = _write_dose(study, one, index, dose_gy * share, grid)
        if one.summation != "BEAM" or not any(other.summation == "PLAN" for other in files):
            whole += written
    return whole if files else dose_gy


def _dose_files(study: Study) -> list[_DoseFile]:
    form, beams = study.style.dose, range(1, study.style.beams + 1)
    per_beam = [_DoseFile("BEAM", part=beam, group=1) for beam in beams]
    single = _DoseFile("PLAN")
    forms = {
        "plan": [single],
        "beam": per_beam,
        "beam-incomplete": per_beam[:-1],
        "plan+beam": [single, *per_beam],
        "fraction": [_DoseFile("FRACTION", group=1)],
        "multi-plan": [_DoseFile("MULTI_PLAN", plans=(1, 2))],
        "two-plans": [single, _DoseFile("PLAN", plans=(2,))],
        "session": [_DoseFile("FRACTION_SESSION")],
        "brachy": [_DoseFile("BRACHY", group=1)],
        "effective": [_DoseFile("PLAN", kind="EFFECTIVE")],
        "error": [_DoseFile("PLAN", kind="ERROR")],
        "relative": [_DoseFile("PLAN", units="RELATIVE")],
        "none": [],
    }
    return forms[form]


def _share(study: Study, one: _DoseFile, shape: tuple[int, ...]) -> NDArray:
    """Part of the dose that a file holds; the parts of all beams, or of two plans, sum to one everywhere."""
    count = {"BEAM": study.style.beams}.get(one.summation, 2 if study.style.dose == "two-plans" else 1)
    part = one.part or one.plans[-1]
    if count == 1:
        return np.ones(1)
    wave = 2 * np.pi * np.linspace(0, 1, shape[0])[:, None, None]
    return (1 + 0.5 * np.cos(wave + 2 * np.pi * part / count)) / count


def _write_dose(study: Study, one: _DoseFile, index: int, dose_gy: Floats, grid: Grid) -> Floats:
    """Write one file; the dose as a reader finds it, Gy."""
    style = study.style
    ds = study.dataset("rtdose", f"rtdose {index}", "RTDOSE", f"dose {index}")
    ds.InstanceNumber, ds.FrameOfReferenceUID = str(index), study.frame_of("rtdose")
    ds.PositionReferenceIndicator = ""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Columns, ds.Rows, frames = dose_gy.shape
    ds.NumberOfFrames = str(frames)
    ds.BitsAllocated = ds.BitsStored = style.dose_bits
    ds.HighBit, ds.PixelRepresentation = style.dose_bits - 1, 0
    spacing = grid.spacing_mm
    ds.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]
    ds.SliceThickness = decimal(spacing[2])
    along, across, normal = grid.affine[:3, :3].T / np.array(spacing)[:, None]
    ds.ImageOrientationPatient = lps_direction(along, across)
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = one.units, one.kind, one.summation
    ds.TissueHeterogeneityCorrection = "IMAGE"

    offsets = np.arange(frames) * spacing[2]
    order = np.arange(frames)
    if "descending" in style.dose_offsets:
        order = order[::-1]
    elif style.dose_offsets == "uneven":
        order = order[(order < frames // 2) | ((order - frames // 2) % 2 == 0)]
    ds.NumberOfFrames = str(len(order))
    first = grid.affine[:3, 3] + offsets[order[0]] * normal
    ds.ImagePositionPatient = lps_point(first)
    _set_offsets(ds, style.dose_offsets, offsets[order] - offsets[order[0]], float(first[2]), float(normal[2]))

    top = float((1 << style.dose_bits) - 1)
    scaling = float(decimal(max(float(dose_gy.max()), 1e-3) / top * 1.0000001, 16))
    ds.DoseGridScaling = decimal(scaling, 16)
    stored = np.minimum(np.rint(dose_gy.astype(np.float64) / scaling), top)
    stored = stored.astype(np.uint32 if style.dose_bits == 32 else np.uint16)
    if style.plan != "unreferenced":
        ds.ReferencedRTPlanSequence = [_plan_reference(study, one, number) for number in one.plans]
    if style.rtstruct:
        ds.ReferencedStructureSetSequence = [reference("rtstruct", study.uid("rtstruct"))]
    if style.dvh_in_percent:
        ds.DVHSequence = [_dvh()]
    study.save(ds, "rtdose", "RD" if index == 1 else f"RD_{index}", stored.transpose(2, 1, 0)[order])
    return (stored * scaling).astype(np.float32)


def _set_offsets(ds: Dataset, form: str, offsets: NDArray, first_z: float, normal_z: float) -> None:
    """Grid Frame Offset Vector and the pointer to it."""
    ds.FrameIncrementPointer = 0x3004000C
    if form.startswith("absolute"):
        offsets = first_z + offsets * np.sign(normal_z)
    if form == "short":
        offsets = offsets[:-2]
    if form != "missing":
        ds.GridFrameOffsetVector = [decimal(value) for value in offsets]


def _plan_reference(study: Study, one: _DoseFile, number: int) -> Dataset:
    ds = reference("rtplan", study.uid(f"rtplan {number}"))
    if one.group is not None:
        group = item(ReferencedFractionGroupNumber=str(one.group))
        if one.part is not None:
            group.ReferencedBeamSequence = [item(ReferencedBeamNumber=str(one.part))]
        ds.ReferencedFractionGroupSequence = [group]
    return ds


def _dvh() -> Dataset:
    """A DVH of the first structure whose minimum, maximum and mean are percentages."""
    return item(
        DVHType="CUMULATIVE",
        DoseUnits="RELATIVE",
        DoseType="PHYSICAL",
        DVHDoseScaling="1",
        DVHVolumeUnits="PERCENT",
        DVHNumberOfBins="3",
        DVHData=["0", "100", "50", "60", "50", "0"],
        DVHMinimumDose="0.2",
        DVHMaximumDose="104.5",
        DVHMeanDose="38.1",
        DVHReferencedROISequence=[item(ReferencedROINumber="3", DVHROIContributionType="INCLUDED")],
    )
