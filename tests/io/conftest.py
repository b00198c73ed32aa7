"""Fixtures of the file format tests: real DICOM-RT data, and small CT files written by pydicom alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset


class CtMaker:
    """Writes CT images; everything LPS, as in the files."""

    SERIES, STUDY, FRAME = "1.2.826.0.1.1", "1.2.826.0.1.2", "1.2.826.0.1.3"

    def image(
        self,
        stored: NDArray,
        position: Sequence[float] = (-10.0, -20.0, 30.0),
        orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
        spacing: Sequence[float] = (2.0, 1.5),
        *,
        slope: float = 1,
        intercept: float = -1024,
        bits: int | None = None,
        syntax: str = uid.ExplicitVRLittleEndian,
        **attributes: Any,
    ) -> Dataset:
        """A CT image of stored values (rows, columns) or (frames, rows, columns); None as an attribute removes it."""
        ds = Dataset()
        ds.file_meta = FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = uid.UID(syntax)
        ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = uid.CTImageStorage
        ds.SOPInstanceUID = uid.generate_uid(entropy_srcs=[str(position), str(attributes)])
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.PatientName, ds.PatientID = "Planted^Name", "planted-id"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = self.STUDY, self.SERIES, self.FRAME
        ds.ImagePositionPatient, ds.ImageOrientationPatient = (
            list(map(decimal, position)),
            list(map(decimal, orientation)),
        )
        ds.PixelSpacing, ds.SliceThickness = list(map(decimal, spacing)), "3"
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows, ds.Columns = stored.shape[-2:]
        ds.BitsAllocated = stored.dtype.itemsize * 8
        ds.BitsStored = bits or ds.BitsAllocated
        ds.HighBit, ds.PixelRepresentation = ds.BitsStored - 1, int(stored.dtype.kind == "i")
        ds.RescaleSlope, ds.RescaleIntercept = decimal(slope), decimal(intercept)
        big = syntax == uid.ExplicitVRBigEndian
        data = stored.astype(stored.dtype.newbyteorder(">" if big else "<")).tobytes()
        ds.add_new("PixelData", "OW", data + b"\0" * (len(data) % 2))
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        return ds

    def save(self, ds: Dataset, path: Path) -> Path:
        """Write a data set as a file with preamble and meta information."""
        path.parent.mkdir(parents=True, exist_ok=True)
        ds.save_as(path, enforce_file_format=True)
        return path

    def series(self, folder: Path, images: Iterable[Dataset]) -> list[Path]:
        """Write images as files 00.dcm, 01.dcm, ..."""
        return [self.save(ds, folder / f"{number:02d}.dcm") for number, ds in enumerate(images)]

    def volume(
        self,
        stored: NDArray,
        orientation: Sequence[float] = (1, 0, 0, 0, 1, 0),
        spacing: Sequence[float] = (2.0, 1.5),
        offsets: Sequence[float] | None = None,
        step: Sequence[float] | None = None,
        origin: Sequence[float] = (-10.0, -20.0, 30.0),
        **options: Any,
    ) -> list[Dataset]:
        """Images of stored values (slices, rows, columns), at `offsets` in mm along `step` (default: the normal)."""
        row, column = np.reshape(np.array(orientation, dtype=float), (2, 3))
        along = np.cross(row, column) if step is None else np.asarray(step)
        offsets = 3.0 * np.arange(len(stored)) if offsets is None else offsets
        return [
            self.image(image, np.asarray(origin) + offset * along, orientation, spacing, **options)
            for image, offset in zip(stored, offsets, strict=True)
        ]

    def enhanced(self, stored: NDArray, offsets: Sequence[float], *, shared: bool = True) -> Dataset:
        """An enhanced multi-frame CT of stored values (frames, rows, columns) with frames at `offsets` mm in z."""
        ds = self.image(stored, NumberOfFrames=len(stored), SOPClassUID=uid.EnhancedCTImageStorage)
        plain = self.image(stored[0])
        common, frames = Dataset(), [Dataset() for _ in offsets]
        for keyword in (
            *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness"),
            *("RescaleSlope", "RescaleIntercept"),
        ):
            del ds[keyword]
        for group in [common] if shared else frames:
            group.PlaneOrientationSequence = [subset(plain, "ImageOrientationPatient")]
            group.PixelMeasuresSequence = [subset(plain, "PixelSpacing", "SliceThickness")]
            group.PixelValueTransformationSequence = [subset(plain, "RescaleSlope", "RescaleIntercept")]
        for frame, offset in zip(frames, offsets, strict=True):
            frame.PlanePositionSequence = [Dataset()]
            frame.PlanePositionSequence[0].ImagePositionPatient = ["-10", "-20", decimal(offset)]
        ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [common], frames
        return ds


def decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value:.10f}".rstrip("0").rstrip(".")[:16]


def subset(ds: Dataset, *keywords: str) -> Dataset:
    """Some attributes of a data set."""
    part = Dataset()
    for keyword in keywords:
        part[keyword] = ds[keyword]
    return part


@pytest.fixture(scope="session")
def ct_maker() -> CtMaker:
    """Writer of CT files."""
    return CtMaker()


@pytest.fixture
def ct_file(ct_maker: CtMaker, tmp_path: Path) -> Callable[..., Path]:
    """`ct_file(Rows=None, ...)` writes a CT image of 6 x 5 pixels, changed as told, and gives its path."""

    def write(**options: Any) -> Path:
        stored = np.arange(30, dtype=np.uint16).reshape(6, 5) + 1000
        return ct_maker.save(ct_maker.image(stored, **options), tmp_path / "ct.dcm")

    return write
