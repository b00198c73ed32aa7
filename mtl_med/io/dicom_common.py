"""What every DICOM object that we write has in common: patient, study and frame of reference of the CT, identifiers.

Each object forms a series of its own in the study of the CT, is marked as made for research, and takes nothing from the
CT's header beyond the modules that all objects of a study share (PS3.3 C.7.1.1, C.7.2.1, C.7.4.1).
"""

from __future__ import annotations

import re
import uuid
import warnings
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.uid import UID, ExplicitVRLittleEndian
from pydicom.valuerep import format_number_as_ds

from mtl_med import __version__
from mtl_med.errors import CaseError
from mtl_med.files import atomic_path, sha256_bytes

__all__ = [
    "MANUFACTURER",
    "RESEARCH_COMMENT",
    "code_item",
    "decimal_string",
    "encode_dicom",
    "new_object",
    "new_uid",
    "plain_text",
    "shared_modules",
    "sop_item",
    "stamp",
    "write_dicom",
]

RESEARCH_COMMENT = "Research use only. Made by software, approved by nobody."
MANUFACTURER = "mtl_med"
_IMPLEMENTATION_UID = "2.25.283530318735158211063208413410498027651"

# keyword -> what it takes: letters allowed in its value (a pattern), or the most characters of a text.
_PATIENT: dict[str, str | int] = {
    "PatientName": 64,
    "PatientID": 64,
    "IssuerOfPatientID": 64,
    "PatientBirthDate": r"\d{8}",
    "PatientSex": r"[MFO]",
    "PatientIdentityRemoved": r"YES|NO",
    "DeidentificationMethod": 64,
}
_STUDY: dict[str, str | int] = {
    "StudyInstanceUID": r"[0-9.]{1,64}",
    "StudyDate": r"\d{8}",
    "StudyTime": r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?",
    "ReferringPhysicianName": 64,
    "StudyID": 16,
    "AccessionNumber": 16,
    "StudyDescription": 64,
}
_FRAME: dict[str, str | int] = {"FrameOfReferenceUID": r"[0-9.]{1,64}", "PositionReferenceIndicator": 64}
# Present in every object even where the CT says nothing (type 2); the other optional ones are left out when empty.
_ALWAYS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber", "PositionReferenceIndicator"),
)
_NEEDED = ("StudyInstanceUID", "FrameOfReferenceUID")
_FORBIDDEN = re.compile(r"[\\\x00-\x1f\x7f]+")  # backslash and control characters


def new_object(
    reference: Dataset,
    *,
    sop_class_uid: str,
    modality: str,
    description: str,
    series_number: int,
    seed: str = "",
    when: datetime | None = None,
) -> Dataset:
    """A DICOM object that belongs to the patient, study and frame of reference of a CT, in a new series of its own.

    It has the modules that all our objects share: patient, general study, series, equipment, frame of reference and
    SOP common. The caller adds what is particular and hands it to `write_dicom`.

    Args:
        reference: header of a CT image.
        sop_class_uid: what kind of object it is.
        modality: such as "RTSTRUCT".
        description: of the new series, such as "Predicted structures".
        series_number: of the new series.
        seed: where given, the new UIDs follow from it, kind and study; equal arguments then give equal objects. By
            default they are random.
        when: date and time of making (default: now).

    Raises:
        CaseError: the CT has no StudyInstanceUID or FrameOfReferenceUID, without which nothing can refer to it.
    """
    made = shared_modules(reference)
    made.SOPClassUID = sop_class_uid
    made.SOPInstanceUID = new_uid(seed, modality, made.StudyInstanceUID, "instance")
    made.SeriesInstanceUID = new_uid(seed, modality, made.StudyInstanceUID, "series")
    made.Modality = modality
    made.SeriesNumber = series_number
    made.SeriesDescription = plain_text(description)
    made.OperatorsName = ""
    made.Manufacturer = MANUFACTURER
    made.ManufacturerModelName = MANUFACTURER
    made.SoftwareVersions = __version__
    moment = when or datetime.now()
    stamp(made, "InstanceCreation", moment)
    stamp(made, "Series", moment)
    made.InstanceNumber = 1
    return made


def shared_modules(reference: Dataset) -> Dataset:
    """What a CT says about patient, study and frame of reference, in UTF-8; values that break DICOM's rules are empty.

    Raises:
        CaseError: the CT has no StudyInstanceUID or FrameOfReferenceUID.
    """
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    for keyword, allowed in (_PATIENT | _STUDY | _FRAME).items():
        value = _value(reference, keyword, allowed)
        if not value and keyword in _NEEDED:
            raise CaseError(
                f"the CT has no {keyword}",
                why="Without it nothing can refer to this CT",
                fix="Export the CT again from where it came",
            )
        if value or keyword in _ALWAYS:
            setattr(made, keyword, value)
    if made.get("PatientIdentityRemoved") == "YES" and "DeidentificationMethod" not in made:
        made.DeidentificationMethod = "as in the CT"
    return made


def _value(reference: Dataset, keyword: str, allowed: str | int) -> str:
    """The CT's value as text; empty where there is none, or where it breaks the rules that our object has to keep."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values that break the rules: they are dealt with here
            found = reference.get(keyword)
    except Exception:  # bytes that no character set of the file can explain, for example
        return ""
    text = " ".join(map(str, found)) if isinstance(found, MultiValue) else str(found or "").strip()
    if isinstance(allowed, str):
        return text if re.fullmatch(allowed, text) else ""
    # A person's name has up to three forms (alphabetic, ideographic, phonetic), each of its own length.
    forms = text.split("=")[:3] if keyword.endswith("Name") else [text]
    # Blanks within stay as they are: an ID with one blank less is another patient's.
    return "=".join(_FORBIDDEN.sub(" ", form)[:allowed].strip() for form in forms)


def plain_text(text: str, limit: int = 64) -> str:
    """Text that fits into one LO, SH or PN value: no backslash, no control characters, at most `limit` characters."""
    return " ".join(_FORBIDDEN.sub(" ", text).split())[:limit].rstrip()


def new_uid(seed: str, *parts: object) -> str:
    """A UID of the form 2.25.<uuid>: random, or made from seed and parts where the seed is not empty."""
    if not seed:
        return f"2.25.{uuid.uuid4().int}"
    digest = sha256("\x1f".join([seed, *map(str, parts)]).encode("utf-8")).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=4).int}"


def stamp(dataset: Dataset, prefix: str, when: datetime) -> None:
    """Set `<prefix>Date` and `<prefix>Time`, such as of StructureSet."""
    setattr(dataset, f"{prefix}Date", when.strftime("%Y%m%d"))
    setattr(dataset, f"{prefix}Time", when.strftime("%H%M%S"))


def sop_item(sop_class_uid: str, sop_uid: str) -> Dataset:
    """Item of a sequence that refers to another object."""
    item = Dataset()
    item.ReferencedSOPClassUID = sop_class_uid
    item.ReferencedSOPInstanceUID = sop_uid
    return item


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """Item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def decimal_string(value: float, decimals: int = 9) -> str:
    """A DS value: rounded, and at most 16 characters long as PS3.5 wants it.

    Raises:
        CaseError: the value is not finite.
    """
    text = repr(round(float(value), decimals) + 0.0)  # adding 0.0 turns -0.0 into 0.0
    if text in ("nan", "inf", "-inf"):
        raise CaseError(f"{text} cannot be written as a decimal string")
    text = text.removesuffix(".0")
    return text if len(text) <= 16 else format_number_as_ds(float(text))


def encode_dicom(dataset: Dataset, *, transfer_syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """Bytes of a DICOM file with preamble and file meta information.

    Args:
        dataset: with SOPClassUID and SOPInstanceUID; its file meta information is made here.
        transfer_syntax: explicit or implicit little endian. A structure set needs the implicit one: the explicit one
            counts the bytes of a contour in 16 bits.
    """
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.ImplementationClassUID = UID(_IMPLEMENTATION_UID)
    meta.ImplementationVersionName = f"MTL_MED_{__version__}"[:16]
    dataset.file_meta = meta
    stream = BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def write_dicom(path: str | Path, dataset: Dataset, *, transfer_syntax: UID = ExplicitVRLittleEndian) -> str:
    """Write an object as a DICOM file, whole or not at all.

    Args:
        path: the file.
        dataset: the object.
        transfer_syntax: as for `encode_dicom`.

    Returns:
        SHA-256 of the file.

    Raises:
        OutputError: the file cannot be written.
    """
    data = encode_dicom(dataset, transfer_syntax=transfer_syntax)
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return sha256_bytes(data)
