"""Small CT series as DICOM files, and judges of what is written on them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, RLELossless

SHAPE = (48, 40, 12)
SPACING_MM = (1.5, 2.0, 3.0)
ORIGIN_LPS = (-30.25, 12.5, -81.0)
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STUDY_UID, SERIES_UID, FRAME_UID = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"


def write_ct(
    folder: Path,
    *,
    shape: tuple[int, int, int] = SHAPE,
    spacing_mm: tuple[float, float, float] = SPACING_MM,
    orientation: Sequence[float] = AXIAL,
    offsets_mm: Sequence[float] | None = None,
    hu: np.ndarray | None = None,
    enhanced: bool = False,
    **attributes: object,
) -> np.ndarray:
    """Write CT images into `folder`; returns the (4, 4) affine from indices (column, row, slice) to LPS mm.

    Args:
        folder: made if it is missing.
        shape: columns, rows, slices.
        spacing_mm: between columns, rows and slices.
        orientation: ImageOrientationPatient.
        offsets_mm: places of the slices along the normal; by default `spacing_mm` apart.
        hu: (columns, rows, slices) whole numbers; by default a gradient.
        enhanced: one multi-frame file.
        attributes: overwrite or, if None, remove attributes of every image.
    """
    folder.mkdir(parents=True, exist_ok=True)
    row, column = np.array(orientation).reshape(2, 3)
    normal = np.cross(row, column)
    if offsets_mm is None:
        offsets_mm = [spacing_mm[2] * k for k in range(shape[2])]
    if hu is None:
        x, y, z = np.indices(shape)
        hu = 7 * x - 5 * y + 11 * z
    images = []
    for k, offset in enumerate(offsets_mm):
        image = _image(k, shape, spacing_mm)
        image.ImagePositionPatient = [float(f"{mm:.9g}") for mm in np.array(ORIGIN_LPS) + offset * normal]
        image.ImageOrientationPatient = [float(f"{part:.9g}") for part in orientation]
        image.PixelData = hu[:, :, k].T.astype("<i2").tobytes()
        images.append(image)
    for image in [_enhanced(images)] if enhanced else images:
        for keyword, value in attributes.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        # The name of the file must not tell the order.
        image.save_as(folder / f"{7 * int(image.InstanceNumber) % 101:03d}.dcm", enforce_file_format=True)
    affine = np.eye(4)
    step = (offsets_mm[-1] - offsets_mm[0]) / max(len(offsets_mm) - 1, 1)
    affine[:3, :3] = np.stack([row * spacing_mm[0], column * spacing_mm[1], normal * step]).T
    affine[:3, 3] = np.array(ORIGIN_LPS) + offsets_mm[0] * normal
    return affine


def _image(k: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.SOPClassUID, image.SOPInstanceUID = CTImageStorage, f"1.2.826.0.1.4.{k + 1}"
    image.StudyInstanceUID, image.SeriesInstanceUID = STUDY_UID, SERIES_UID
    image.FrameOfReferenceUID, image.PositionReferenceIndicator = FRAME_UID, ""
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientSex = "Doe^Jane", "P1", "19600102", "F"
    image.StudyDate, image.StudyTime, image.StudyID, image.AccessionNumber = "20200304", "101112", "S1", "A1"
    image.ReferringPhysicianName, image.Modality, image.Manufacturer = "", "CT", "maker"
    image.SeriesNumber, image.InstanceNumber, image.AcquisitionNumber, image.KVP = 1, k + 1, 1, "120"
    image.Columns, image.Rows = shape[:2]
    image.PixelSpacing, image.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
    image.SamplesPerPixel, image.PhotometricInterpretation, image.PixelRepresentation = 1, "MONOCHROME2", 1
    image.BitsAllocated, image.BitsStored, image.HighBit = 16, 16, 15
    image.RescaleSlope, image.RescaleIntercept = "1", "0"
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return image


def _enhanced(images: list[Dataset]) -> Dataset:
    """All slices in one image, the last first."""
    whole = images[0]
    frames = []
    for image in reversed(images):
        place = Dataset()
        place.ImagePositionPatient = image.ImagePositionPatient
        frame = Dataset()
        frame.PlanePositionSequence = [place]
        frames.append(frame)
    shared, turn, measures, values = Dataset(), Dataset(), Dataset(), Dataset()
    turn.ImageOrientationPatient = whole.ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = whole.PixelSpacing, whole.SliceThickness
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", "0", "HU"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = [turn], [measures]
    shared.PixelValueTransformationSequence = [values]
    whole.SOPClassUID, whole.NumberOfFrames = EnhancedCTImageStorage, len(images)
    whole.PixelData = b"".join(image.PixelData for image in reversed(images))
    whole.SharedFunctionalGroupsSequence, whole.PerFrameFunctionalGroupsSequence = [shared], frames
    for keyword in (
        *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
        *("RescaleSlope", "RescaleIntercept"),
    ):
        delattr(whole, keyword)
    return whole


def ras_affine(affine_lps: np.ndarray) -> np.ndarray:
    """The same affine in RAS."""
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine_lps


def dciodvfy_errors(program: str, path: Path) -> list[str]:
    """Lines that dciodvfy calls errors.

    It aborts on uncompressed words of 32 bits (`Assertion bitsallocated <= bytesinword*8u`), whatever else the file
    says, so that it gets to see those packed as if they were compressed: same attributes, same bytes.
    """
    read = pydicom.dcmread(path)
    if read.get("BitsAllocated") == 32:
        size = len(read.PixelData) // int(read.NumberOfFrames)
        frames = [read.PixelData[start : start + size] for start in range(0, len(read.PixelData), size)]
        read.add_new("PixelData", "OB", encapsulate(frames))
        read.file_meta.TransferSyntaxUID = RLELossless
        path = path.with_suffix(".packed.dcm")
        read.save_as(path)
    done = subprocess.run([program, "-new", str(path)], capture_output=True, text=True, timeout=60)
    lines = (done.stdout + done.stderr).splitlines()
    if not lines or any("Assertion" in line for line in lines):
        raise RuntimeError(f"dciodvfy gave no verdict: {lines}")
    return [line for line in lines if line.startswith("Error")]


def plastimatch_masks(program: str, folder: Path, rtstruct: Path, out: Path, *options: str) -> dict[str, np.ndarray]:
    """Structures as plastimatch draws them on the CT in `folder`: name -> (X, Y, Z) in the order of the CT's slices."""
    import SimpleITK as sitk

    command = [program, "convert", "--input", rtstruct, "--referenced-ct", folder, "--output-prefix", out]
    command += ["--prefix-format", "nii.gz", *options]
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)
    found = {}
    for path in out.glob("*.nii.gz"):
        found[path.name.removesuffix(".nii.gz")] = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T > 0
    return found


def contours(path: Path) -> dict[str, list[np.ndarray]]:
    """ROI name -> (N, 3) LPS points of its contours, read by pydicom alone."""
    read = pydicom.dcmread(path)
    names = {int(item.ROINumber): str(item.ROIName) for item in read.StructureSetROISequence}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    for roi in read.ROIContourSequence:
        for item in roi.get("ContourSequence", []):
            points = np.array(item.get_item("ContourData").value.split(b"\\"), dtype=float).reshape(-1, 3)
            found[names[int(roi.ReferencedROINumber)]].append(points)
    return found
