"""What all files of a made-up DICOM study share: identifiers, the patient's head, pixel data, encoding."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mtl_med.errors import CaseError, OutputError
from mtl_med.geometry import lps_from_ras
from mtl_med.phantoms.dicom_style import DicomStyle
from mtl_med.phantoms.jpeg_lossless import encode_jpeg_lossless

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["SOP_CLASSES", "Study", "decimal", "item", "lps_direction", "lps_point", "reference"]

SOP_CLASSES = {
    "ct": "1.2.840.10008.5.1.4.1.1.2",
    "enhanced ct": "1.2.840.10008.5.1.4.1.1.2.1",
    "mr": "1.2.840.10008.5.1.4.1.1.4",
    "sr": "1.2.840.10008.5.1.4.1.1.88.11",
    "registration": "1.2.840.10008.5.1.4.1.1.66.1",
    "rtdose": "1.2.840.10008.5.1.4.1.1.481.2",
    "rtstruct": "1.2.840.10008.5.1.4.1.1.481.3",
    "rtplan": "1.2.840.10008.5.1.4.1.1.481.5",
}
_SYNTAXES = {
    "explicit": "1.2.840.10008.1.2.1",
    "implicit": "1.2.840.10008.1.2",
    "big-endian": "1.2.840.10008.1.2.2",
    "deflated": "1.2.840.10008.1.2.1.99",
    "rle": "1.2.840.10008.1.2.5",
    "jpeg": "1.2.840.10008.1.2.4.70",
    "jpeg2000": "1.2.840.10008.1.2.4.90",
    "jpeg-ls": "1.2.840.10008.1.2.4.80",
}
_COMPRESSED = ("rle", "jpeg", "jpeg2000", "jpeg-ls")
_DATE, _TIME = "20200102", "093000"


@dataclass(frozen=True, eq=False)
class Study:
    """One study while it is written.

    Args:
        folder: of all its files.
        style: how it is written.
        patient_id: the patient.
        files: paths written so far, by kind.
    """

    folder: Path
    style: DicomStyle
    patient_id: str
    files: dict[str, list[Path]] = field(default_factory=dict)

    def uid(self, *what: object) -> str:
        """An identifier that the patient, the style and the words determine."""
        words = repr((self.patient_id, self.style, *what)).encode()
        return f"2.25.{int.from_bytes(hashlib.sha256(words).digest()[:16], 'big')}"

    @property
    def frame(self) -> str:
        """Frame of Reference UID of the CT."""
        return self.uid("frame")

    def frame_of(self, kind: str) -> str:
        """Frame of Reference UID that a kind of file names."""
        return self.uid("foreign frame") if kind in self.style.foreign_frames else self.frame

    def dataset(self, kind: str, sop: str, modality: str, series: str) -> Dataset:
        """A dataset with patient, study, series, equipment and identifiers.

        Args:
            kind: key of `SOP_CLASSES`.
            sop: what tells the instance from others of the study.
            modality: such as "CT".
            series: what tells the series from others of the study.
        """
        from pydicom import Dataset

        ds = Dataset()
        ds.SpecificCharacterSet = self.style.character_set
        ds.SOPClassUID, ds.SOPInstanceUID = SOP_CLASSES[kind], self.uid(sop)
        ds.StudyDate = ds.SeriesDate = ds.ContentDate = ds.InstanceCreationDate = _DATE
        ds.StudyTime = ds.SeriesTime = ds.ContentTime = ds.InstanceCreationTime = _TIME
        ds.AccessionNumber, ds.ReferringPhysicianName = "", ""
        ds.Modality, ds.SeriesDescription = modality, f"phantom {series}"
        ds.Manufacturer, ds.ManufacturerModelName = self.style.manufacturer, self.style.model
        ds.SoftwareVersions = "1"
        ds.PatientName, ds.PatientID = f"{self.patient_id}^PHANTOM", self.patient_id
        ds.PatientBirthDate, ds.PatientSex = "", "M"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = self.uid("study"), self.uid("series", series)
        ds.StudyID, ds.SeriesNumber = "1", "1"
        ds.OperatorsName = ""
        _add_private(ds, self.style.private)
        return ds

    def save(self, ds: Dataset, kind: str, name: str, pixels: NDArray | None = None) -> Path:
        """Plant the identity, let the test edit, and write.

        Args:
            ds: without pixel data.
            kind: "ct", "rtstruct", "rtplan", "rtdose" or "other".
            name: of the file, without suffix.
            pixels: (frames, rows, columns) of unsigned or signed integers as wide as Bits Allocated.

        Raises:
            CaseError: the codec of the transfer syntax is not installed.
            OutputError: the file cannot be written.
        """
        path = self.folder / self._file_name(ds, name)
        if self.style.identity is not None:
            self.style.identity.plant(ds, kind)
        syntax = self.style.transfer_syntax
        if syntax in _COMPRESSED and (pixels is None or kind == "rtdose"):
            syntax = "explicit"
        if pixels is not None:
            _set_pixels(ds, pixels, syntax)
        if self.style.edit is not None:
            self.style.edit(kind, ds)
        try:
            _write(ds, path, syntax, self.style.preamble)
        except OSError as error:
            raise OutputError(f"cannot write: {error.strerror or error}", where=path) from error
        self.files.setdefault(kind, []).append(path)
        return path

    def _file_name(self, ds: Dataset, name: str) -> str:
        identity = self.style.identity
        person = identity.name.replace("^", "_") if identity else self.patient_id
        return {
            "plain": f"{name}.dcm",
            "patient": f"{person} {name}.dcm",
            "uid": str(ds.SOPInstanceUID),
        }[self.style.file_names]


def _set_pixels(ds: Dataset, pixels: NDArray, syntax: str) -> None:
    """Put pixel data into a dataset, native or encapsulated."""
    from pydicom.encaps import encapsulate

    if syntax not in _COMPRESSED:
        order = pixels.dtype.newbyteorder(">" if syntax == "big-endian" else "<")
        data = np.ascontiguousarray(pixels, dtype=order).tobytes()
        ds.add_new(0x7FE00010, "OW", data + b"\0" * (len(data) % 2))
    elif syntax == "jpeg":
        bits = ds.BitsAllocated if ds.PixelRepresentation else ds.BitsStored
        frames = [encode_jpeg_lossless(frame.view(f"u{frame.itemsize}"), bits) for frame in pixels]
        ds.add_new(0x7FE00010, "OB", encapsulate(frames))
    else:
        stacked = pixels if len(pixels) > 1 else pixels[0]
        try:
            ds.compress(_SYNTAXES[syntax], np.ascontiguousarray(stacked), generate_instance_uid=False)
        except (RuntimeError, ValueError) as error:
            raise CaseError(
                f"cannot compress as {syntax}: {error}", fix="Install pylibjpeg[all] and pyjpegls"
            ) from error


def _write(ds: Dataset, path: Path, syntax: str, preamble: bool) -> None:
    from pydicom import dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    path.parent.mkdir(parents=True, exist_ok=True)
    if not preamble:
        ds.__dict__.pop("file_meta", None)
        dcmwrite(path, ds, implicit_vr=syntax == "implicit", little_endian=syntax != "big-endian")
        return
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID(_SYNTAXES[syntax])
    ds.file_meta.MediaStorageSOPClassUID = ds.get("SOPClassUID", "1.2.3")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.get("SOPInstanceUID", "1.2.3")
    dcmwrite(path, ds, enforce_file_format=True)


def _add_private(ds: Dataset, vendor: str) -> None:
    """Private elements in the manner of a vendor: a block with a text, one with bytes of an unknown meaning."""
    if vendor == "varian":
        block = ds.private_block(0x3253, "Varian Medical Systems VISION 3253", create=True)
        block.add_new(0x00, "OB", b'<?xml version="1.0"?><ExtendedVAPlanInterface Version="1"/> ')
        block.add_new(0x01, "IS", "60")
    elif vendor == "philips":
        block = ds.private_block(0x3021, "ADAC private", create=True)
        block.add_new(0x01, "UN", b"\x01\x02\x03\x04")


def item(**fields: Any) -> Dataset:
    """A dataset for a sequence, from keywords and values."""
    from pydicom import Dataset

    ds = Dataset()
    for keyword, value in fields.items():
        setattr(ds, keyword, value)
    return ds


def reference(sop_class: str, sop_instance: str, **fields: Any) -> Dataset:
    """An item that refers to an instance."""
    return item(
        ReferencedSOPClassUID=SOP_CLASSES.get(sop_class, sop_class), ReferencedSOPInstanceUID=sop_instance, **fields
    )


def decimal(value: float, decimals: int = 10) -> str:
    """A decimal string of at most 16 characters."""
    value = round(float(value), decimals) + 0.0  # no minus zero
    for digits in range(16, 0, -1):
        text = f"{value:.{digits}g}"
        if len(text) <= 16:
            return text
    return "0"


def lps_point(point_ras: ArrayLike) -> list[str]:
    """Decimal strings of a point in LPS."""
    return [decimal(value) for value in lps_from_ras(np.asarray(point_ras)[None])[0]]


def lps_direction(*vectors_ras: ArrayLike) -> list[str]:
    """Decimal strings of unit vectors in LPS, one after the other."""
    return [decimal(value, 14) for value in lps_from_ras(np.stack(vectors_ras)).ravel()]
