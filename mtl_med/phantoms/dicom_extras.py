"""What else lies in an export: localizers, other modalities, reports, directories, notes."""

from __future__ import annotations

import numpy as np

from mtl_med.errors import OutputError
from mtl_med.phantoms.dicom_files import Study, item, lps_direction, lps_point
from mtl_med.phantoms.scan_geometry import Scan

__all__ = ["write_extras"]

_DIRECTORY = "1.2.840.10008.1.3.10"


def write_extras(study: Study, scan: Scan) -> None:
    """Write the files that `DicomStyle.extras` names; no reader may take one for the study's CT or dose."""
    writers = {
        "localizer": _write_localizer,
        "mr": _write_mr,
        "sr": _write_report,
        "registration": _write_registration,
        "dicomdir": _write_directory,
        "text": _write_note,
    }
    for extra in study.style.extras:
        writers[extra](study, scan)


def _write_localizer(study: Study, scan: Scan) -> None:
    """A scout seen from the side, with the modality and SOP class of a CT slice."""
    _write_image(study, scan, "ct", "CT", "localizer", ["ORIGINAL", "PRIMARY", "LOCALIZER"])


def _write_mr(study: Study, scan: Scan) -> None:
    for number in range(2):
        _write_image(study, scan, "mr", "MR", f"mr {number}", ["ORIGINAL", "PRIMARY", "OTHER"])


def _write_image(study: Study, scan: Scan, sop_class: str, modality: str, name: str, kind: list[str]) -> None:
    ds = study.dataset(sop_class, name, modality, name.split()[0])
    ds.ImageType, ds.InstanceNumber = kind, "1"
    ds.FrameOfReferenceUID = study.frame
    ds.ImagePositionPatient = lps_point(scan.origins[0])
    ds.ImageOrientationPatient = lps_direction(scan.across, -scan.axes[:, 2])
    ds.PixelSpacing, ds.SliceThickness = ["5", "5"], "5"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = 32
    ds.BitsAllocated = ds.BitsStored = 16
    ds.HighBit, ds.PixelRepresentation = 15, 0
    ds.RescaleSlope, ds.RescaleIntercept = "1", "0"
    study.save(ds, "other", name.replace(" ", "_"), np.arange(1024, dtype=np.uint16).reshape(1, 32, 32))


def _write_report(study: Study, scan: Scan) -> None:
    ds = study.dataset("sr", "sr", "SR", "report")
    ds.InstanceNumber, ds.CompletionFlag, ds.VerificationFlag = "1", "COMPLETE", "UNVERIFIED"
    ds.ValueType, ds.ContinuityOfContent = "CONTAINER", "SEPARATE"
    ds.ConceptNameCodeSequence = [item(CodeValue="126000", CodingSchemeDesignator="DCM", CodeMeaning="Report")]
    study.save(ds, "other", "SR")


def _write_registration(study: Study, scan: Scan) -> None:
    ds = study.dataset("registration", "registration", "REG", "registration")
    ds.FrameOfReferenceUID, ds.InstanceNumber = study.frame, "1"
    ds.ContentLabel, ds.ContentCreatorName = "REGISTRATION", ""
    ds.RegistrationSequence = [item(FrameOfReferenceUID=study.frame)]
    study.save(ds, "other", "REG")


def _write_directory(study: Study, scan: Scan) -> None:
    """A DICOMDIR, which names files instead of holding an image."""
    from pydicom import Dataset, dcmwrite
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID

    ds = Dataset()
    ds.FileSetID = "PHANTOM"
    ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    ds.FileSetConsistencyFlag = 0
    ds.DirectoryRecordSequence = []
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.1")
    ds.file_meta.MediaStorageSOPClassUID = UID(_DIRECTORY)
    ds.file_meta.MediaStorageSOPInstanceUID = UID(study.uid("directory"))
    path = study.folder / "DICOMDIR"
    dcmwrite(path, ds, enforce_file_format=True)
    study.files.setdefault("other", []).append(path)


def _write_note(study: Study, scan: Scan) -> None:
    path = study.folder / "read me.txt"
    try:
        path.write_text("exported by a phantom\n", encoding="ascii")
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=path) from error
    study.files.setdefault("other", []).append(path)
