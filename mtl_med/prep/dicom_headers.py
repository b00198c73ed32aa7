"""What a DICOM header says about the place of its object in a study: kind, patient, series, and what it refers to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtl_med.io.dicom_items import MODALITIES, items, text
from mtl_med.prep.dicom_source import KINDS

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = [
    "ImageHeader",
    "Kind",
    "RtObject",
    "SeriesKey",
    "identity",
    "image_header",
    "kind_of",
    "names_images",
    "rt_object",
]

SeriesKey = tuple[str, str, str]
"""Patient, StudyInstanceUID, SeriesInstanceUID: a series UID alone is not unique where somebody anonymised badly."""

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_KIND_OF_CLASS = {
    f"{_STORAGE}2": "CT",
    f"{_STORAGE}2.1": "CT",  # enhanced
    f"{_STORAGE}2.2": "CT",  # legacy converted enhanced
    f"{_STORAGE}481.2": "RTDOSE",
    f"{_STORAGE}481.3": "RTSTRUCT",
    f"{_STORAGE}481.5": "RTPLAN",
    f"{_STORAGE}481.8": "RTPLAN",  # ions
}
_DICOMDIR = "1.2.840.10008.1.3.10"


class Kind(NamedTuple):
    """What a file is.

    Args:
        kind: "CT", "RTSTRUCT", "RTPLAN" or "RTDOSE"; empty for all that does not matter.
        other: what else it is.
        missed: it may have been meant to be one of those, so that somebody should look.
    """

    kind: str = ""
    other: str = ""
    missed: bool = False


@dataclass(frozen=True)
class ImageHeader:
    """What a CT image says about where it belongs.

    Args:
        key: its patient, study and series.
        sop_uid: its own identifier.
        frame_uid: its frame of reference, "" if it names none.
    """

    key: SeriesKey
    sop_uid: str
    frame_uid: str


@dataclass(frozen=True)
class RtObject:
    """An RTSTRUCT, RTPLAN or RTDOSE and what it refers to.

    Args:
        kind: "RTSTRUCT", "RTPLAN" or "RTDOSE".
        path: its file.
        sop_uid: its own identifier.
        patient: as in the key of a CT series.
        study_uid: its study.
        frame_uids: frames of reference it says that it is in, those of single structures too.
        series_uids: image series that an RTSTRUCT was drawn on.
        image_uids: images that an RTSTRUCT was drawn on.
        structure_sets: SOP UIDs of RTSTRUCTs it refers to.
        plans: SOP UIDs of RTPLANs it refers to.
        identity: texts that tell who the patient is.
    """

    kind: str
    path: Path
    sop_uid: str
    patient: str
    study_uid: str
    frame_uids: frozenset[str] = frozenset()
    series_uids: frozenset[str] = frozenset()
    image_uids: frozenset[str] = frozenset()
    structure_sets: frozenset[str] = frozenset()
    plans: frozenset[str] = frozenset()
    identity: tuple[str, ...] = ()


def kind_of(header: Dataset) -> Kind:
    """What kind of object a header is of, by its SOP class; by its modality where it has none."""
    meta = getattr(header, "file_meta", None)
    sop_class = text(header, "SOPClassUID") or ("" if meta is None else text(meta, "MediaStorageSOPClassUID"))
    if sop_class == _DICOMDIR:
        return Kind(other="DICOMDIR")
    modality = text(header, "Modality").upper()
    kind = _KIND_OF_CLASS.get(sop_class, "" if sop_class else modality)
    if kind == "CT" and "LOCALIZER" in _texts(header, "ImageType"):
        return Kind(other="CT localizer")
    if kind in KINDS:
        return Kind(kind) if text(header, "SOPInstanceUID") else Kind("", f"{kind} without SOPInstanceUID", True)
    if modality in KINDS:
        return Kind("", f"{modality} object of another kind", True)
    return Kind(other=modality) if modality in MODALITIES else Kind("", "object of unknown kind", True)


def image_header(header: Dataset) -> ImageHeader:
    """Where a CT image belongs."""
    key = (_patient(header), text(header, "StudyInstanceUID"), text(header, "SeriesInstanceUID"))
    return ImageHeader(key, text(header, "SOPInstanceUID"), text(header, "FrameOfReferenceUID"))


def rt_object(kind: str, header: Dataset, path: Path) -> RtObject:
    """What an RTSTRUCT, RTPLAN or RTDOSE refers to."""
    frames = {text(header, "FrameOfReferenceUID")}
    frames |= {text(item, "FrameOfReferenceUID") for item in items(header, "ReferencedFrameOfReferenceSequence")}
    drawn_on = _series_items(header)
    series = {text(item, "SeriesInstanceUID") for item in drawn_on}
    images = {uid for item in drawn_on for uid in _referenced(item, "ContourImageSequence")}
    if kind == "RTSTRUCT":
        frames |= {text(roi, "ReferencedFrameOfReferenceUID") for roi in items(header, "StructureSetROISequence")}
        images = images or _contour_images(header)
    return RtObject(
        kind=kind,
        path=path,
        sop_uid=text(header, "SOPInstanceUID"),
        patient=_patient(header),
        study_uid=text(header, "StudyInstanceUID"),
        frame_uids=frozenset(frames - {""}),
        series_uids=frozenset(series - {""}),
        image_uids=frozenset(images),
        structure_sets=frozenset(_referenced(header, "ReferencedStructureSetSequence")),
        plans=frozenset(_referenced(header, "ReferencedRTPlanSequence")),
        identity=identity(header),
    )


def names_images(header: Dataset) -> bool:
    """Whether an RTSTRUCT names the series or images it was drawn on at its head, and not by single contours only."""
    return bool(_series_items(header))


def _series_items(header: Dataset) -> list[Dataset]:
    frames = items(header, "ReferencedFrameOfReferenceSequence")
    studies = [study for frame in frames for study in items(frame, "RTReferencedStudySequence")]
    return [item for study in studies for item in items(study, "RTReferencedSeriesSequence")]


def _referenced(dataset: Dataset, keyword: str) -> set[str]:
    """SOP Instance UIDs that the items of a sequence refer to."""
    return {text(item, "ReferencedSOPInstanceUID") for item in items(dataset, keyword)} - {""}


def _contour_images(header: Dataset) -> set[str]:
    """Images that single contours refer to, for structure sets that list none at their head."""
    contours = [contour for roi in items(header, "ROIContourSequence") for contour in items(roi, "ContourSequence")]
    return {uid for contour in contours for uid in _referenced(contour, "ContourImageSequence")}


def _patient(header: Dataset) -> str:
    """What tells patients apart: the PatientID, or the study where it is empty."""
    return text(header, "PatientID") or f"study {text(header, 'StudyInstanceUID')}"


_IDENTITY = (
    *("PatientName", "PatientID", "OtherPatientIDs", "OtherPatientNames", "PatientBirthDate", "PatientBirthName"),
    *("PatientAddress", "PatientTelephoneNumbers", "PatientMotherBirthName", "AccessionNumber", "StudyID"),
    *("InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "StationName", "DeviceSerialNumber"),
    *("ReferringPhysicianName", "PhysiciansOfRecord", "PerformingPhysicianName", "OperatorsName", "ReviewerName"),
    *("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "StructureSetDate", "RTPlanDate"),
    *("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"),
)


def identity(header: Dataset) -> tuple[str, ...]:
    """Values by which somebody could tell whose header this is. Free texts are not among them: no sentence has any."""
    return tuple(dict.fromkeys(value for keyword in _IDENTITY for value in _texts(header, keyword)))


def _texts(dataset: Dataset, keyword: str) -> list[str]:
    """All values of an attribute as text; none where it is missing or cannot be understood."""
    from pydicom.multival import MultiValue

    if keyword not in dataset:
        return []
    try:
        value = dataset.get(keyword)
        values: Iterable[object] = value if isinstance(value, MultiValue) else [value]
        texts = [str(item).replace("\0", "").strip() for item in values if item is not None]
    except Exception:  # pydicom turns bytes into values only now, and damaged ones raise nearly anything
        return []
    return [item for item in texts if item]
