"""CT images of a made-up study: one file per slice or one enhanced file, with every disorder of a real series."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mtl_med.phantoms.dicom_files import Study, decimal, item, lps_direction, lps_point
from mtl_med.phantoms.patient import Phantom
from mtl_med.phantoms.scan_geometry import Scan

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["slice_ranks", "slice_uid", "write_ct"]

SAMPLES = 8  # pixels per slice whose value is told


def slice_uid(study: Study, number: int) -> str:
    """SOP Instance UID of a slice, counted from the first along the slice direction."""
    return study.uid("ct enhanced" if study.style.enhanced else f"ct {number}")


def slice_ranks(study: Study, count: int) -> NDArray:
    """Place of every slice in the order of Instance Numbers and file names, from 0."""
    return {
        "ascending": np.arange(count),
        "descending": np.arange(count)[::-1],
        "shuffled": np.random.default_rng(count).permutation(count),
    }[study.style.order]


def write_ct(study: Study, phantom: Phantom, scan: Scan, series: str = "ct") -> tuple[NDArray, NDArray]:
    """Write one series.

    Args:
        study: what the files belong to.
        phantom: whose CT is sampled.
        scan: where the pixels lie.
        series: "ct" is the one that the contours are drawn on.

    Returns:
        RAS mm (N, 3) of some pixels and what their HU are as written (N,).
    """
    rng = np.random.default_rng((*phantom.seed, len(series)))
    ranks = slice_ranks(study, len(scan.origins))
    if study.style.enhanced and series == "ct":
        return _write_enhanced(study, phantom, scan, ranks, rng)
    points, values = [], []
    prefix = "CT" if series == "ct" else series.upper()
    for number, hu in enumerate(_slices(phantom, scan, study.style.noise_hu, rng)):
        slope, intercept = _rescale(study, number)
        stored = _stored(study, hu, slope, intercept)
        ds = _image(study, scan, series, f"{series} {number}")
        ds.InstanceNumber = str(ranks[number] + 1)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = decimal(slope), decimal(intercept), "HU"
        noise = study.style.position_noise_mm * rng.uniform(-1, 1, 3) if study.style.position_noise_mm else 0
        ds.ImagePositionPatient = lps_point(scan.origins[number] + noise)
        ds.SliceLocation = decimal(scan.heights_mm[number], 3)
        if series == "ct" and number in study.style.missing_slices:
            continue
        study.save(ds, "ct", f"{prefix}_{ranks[number] + 1:04d}", stored[None])
        if series == "ct" and number in study.style.duplicated_slices:
            ds.SOPInstanceUID = study.uid(f"{series} copy {number}")
            copy = stored + 7 if study.style.duplicates_differ else stored
            study.save(ds, "ct", f"{prefix}_{ranks[number] + 1:04d}_copy", copy[None])
        column, row = rng.integers(scan.size, size=(SAMPLES, 2)).T
        points.append(scan.pixel_ras(number, column, row))
        values.append(stored[row, column] * slope + intercept)
    return np.concatenate(points), np.concatenate(values)


def _slices(phantom: Phantom, scan: Scan, noise_hu: float, rng: np.random.Generator) -> Iterator[NDArray]:
    """HU (rows, columns) of slice after slice, linear between the phantom's voxels."""
    to_voxel = np.linalg.inv(phantom.grid.affine)
    steps = np.stack([scan.along * scan.spacing_mm[0], scan.across * scan.spacing_mm[1], scan.normal], axis=1)
    matrix = to_voxel[:3, :3] @ steps
    volume = phantom.ct_hu.astype(np.float32)
    for origin in scan.origins:
        start = to_voxel[:3, :3] @ origin + to_voxel[:3, 3]
        hu = ndimage.affine_transform(
            volume, matrix, offset=start, output_shape=(*scan.size, 1), order=1, mode="nearest"
        )[:, :, 0].T
        yield hu + noise_hu * rng.standard_normal(hu.shape, dtype=np.float32) if noise_hu else hu


def _rescale(study: Study, number: int) -> tuple[float, float]:
    """Slope and intercept of a slice."""
    if study.style.rescale_per_slice:
        return 0.5 + 0.25 * (number % 4), -1000.0 - 3 * (number % 5)
    return study.style.slope, study.style.intercept


def _signed(study: Study) -> bool:
    return study.style.signed or study.style.rescale_per_slice


def _bits(study: Study) -> int:
    return 16 if study.style.rescale_per_slice else study.style.bits_stored


def _stored(study: Study, hu: NDArray, slope: float, intercept: float) -> NDArray:
    bits = _bits(study)
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if _signed(study) else (0, (1 << bits) - 1)
    values = np.clip(np.rint((np.rint(hu) - intercept) / slope), low, high)
    return values.astype(np.int16 if _signed(study) else np.uint16)


def _image(study: Study, scan: Scan, series: str, sop: str) -> Dataset:
    """What all images of the series share."""
    ds = study.dataset("ct", sop, "CT", series)
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame, ""
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.AcquisitionNumber, ds.KVP = "1", "120"
    ds.AcquisitionDate, ds.AcquisitionTime = ds.StudyDate, ds.StudyTime
    ds.PatientPosition, ds.Laterality = study.style.position, ""
    if scan.tilt_deg:
        ds.GantryDetectorTilt = decimal(scan.tilt_deg)
    ds.SliceThickness = decimal(np.median(scan.thickness_mm), 4)
    ds.ImageOrientationPatient = lps_direction(scan.along, scan.across)
    ds.PixelSpacing = [decimal(scan.spacing_mm[1]), decimal(scan.spacing_mm[0])]
    _describe_pixels(study, ds, scan)
    ds.WindowCenter, ds.WindowWidth = "40", "400"
    return ds


def _describe_pixels(study: Study, ds: Dataset, scan: Scan) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Columns, ds.Rows = scan.size
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, _bits(study), _bits(study) - 1
    ds.PixelRepresentation = int(_signed(study))


def _write_enhanced(
    study: Study, phantom: Phantom, scan: Scan, ranks: NDArray, rng: np.random.Generator
) -> tuple[NDArray, NDArray]:
    """One multi-frame file; the frames are ordered as the files would have been."""
    ds = study.dataset("enhanced ct", "ct enhanced", "CT", "ct")
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame, ""
    ds.InstanceNumber, ds.ImageType = "1", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    ds.PatientPosition = study.style.position
    ds.AcquisitionDateTime = ds.StudyDate + ds.StudyTime
    ds.PixelPresentation, ds.VolumetricProperties, ds.VolumeBasedCalculationTechnique = "MONOCHROME", "VOLUME", "NONE"
    ds.ContentQualification, ds.BurnedInAnnotation, ds.LossyImageCompression = "RESEARCH", "NO", "00"
    ds.PresentationLUTShape = "IDENTITY"
    _describe_pixels(study, ds, scan)
    measures = item(
        PixelSpacing=[decimal(scan.spacing_mm[1]), decimal(scan.spacing_mm[0])],
        SliceThickness=decimal(np.median(scan.thickness_mm), 4),
    )
    ds.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[measures],
            PlaneOrientationSequence=[item(ImageOrientationPatient=lps_direction(scan.along, scan.across))],
        )
    ]
    hu = list(_slices(phantom, scan, study.style.noise_hu, rng))
    frames, groups, points, values = [], [], [], []
    for number in (int(number) for number in np.argsort(ranks)):
        if number in study.style.missing_slices:
            continue
        slope, intercept = _rescale(study, number)
        frames.append(_stored(study, hu[number], slope, intercept))
        groups.append(_frame_group(scan, number, slope, intercept, len(frames)))
        column, row = rng.integers(scan.size, size=(SAMPLES, 2)).T
        points.append(scan.pixel_ras(number, column, row))
        values.append(frames[-1][row, column] * slope + intercept)
    ds.NumberOfFrames = str(len(frames))
    ds.PerFrameFunctionalGroupsSequence = groups
    study.save(ds, "ct", "CT", np.stack(frames))
    return np.concatenate(points), np.concatenate(values)


def _frame_group(scan: Scan, number: int, slope: float, intercept: float, index: int) -> Dataset:
    """What one frame has of its own."""
    content = item(StackID="1", InStackPositionNumber=index, DimensionIndexValues=[index])
    transform = item(RescaleIntercept=decimal(intercept), RescaleSlope=decimal(slope), RescaleType="HU")
    return item(
        FrameContentSequence=[content],
        PlanePositionSequence=[item(ImagePositionPatient=lps_point(scan.origins[number]))],
        PixelValueTransformationSequence=[transform],
    )
