"""RTPLAN files: what was prescribed and which beams belong together; and the minimal plan that a written dose needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pydicom import Dataset
from pydicom.uid import RTIonPlanStorage, RTPlanStorage, RTStructureSetStorage

from mtl_med.errors import CaseError
from mtl_med.io.dicom import number, read_header
from mtl_med.io.dicom_common import decimal_string, new_object, plain_text, sop_item, stamp, write_dicom
from mtl_med.io.dicom_items import items, term, text, whole

__all__ = ["Prescription", "RtPlan", "read_rtplan", "write_rtplan"]

IMPOSSIBLE_GY = 200.0
# A fraction group may list the beams that take pictures; they carry no dose and no dose file is written for them.
_IMAGING = ("SETUP", "OPEN_PORTFILM", "TRMT_PORTFILM")


@dataclass(frozen=True)
class Prescription:
    """A dose that was prescribed.

    Args:
        roi_number: ROI Number of the target in the structure set; None if the plan does not say.
        dose_gy: over all fractions, Gy.
        source: where in the plan it stands: "dose reference" or "beam doses".
    """

    roi_number: int | None
    dose_gy: float
    source: str


@dataclass(frozen=True)
class RtPlan:
    """What a plan says about its dose.

    Args:
        path: the file.
        label: RT Plan Label: free text of the clinic.
        sop_uid: its SOP Instance UID.
        structure_set_uid: SOP Instance UID of its structure set, or "".
        frame_of_reference: its Frame of Reference UID, or "".
        prescriptions: doses to targets.
        fractions: planned number; None if it is unknown or there are several fraction groups.
        fraction_groups: number -> numbers of its beams that treat (imaging beams are left out).
        notes: sentences about oddities.
    """

    path: Path
    label: str
    sop_uid: str
    structure_set_uid: str
    frame_of_reference: str
    prescriptions: tuple[Prescription, ...]
    fractions: int | None
    fraction_groups: dict[int, tuple[int, ...]]
    notes: tuple[str, ...]


def read_rtplan(path: str | Path) -> RtPlan:
    """Read an RTPLAN, of photons, electrons or ions.

    A prescription is the Target Prescription Dose of a dose reference of type TARGET. Only if there is none, and there
    is one fraction group whose treating beams all have a Beam Dose, it is their sum times the number of fractions.

    Raises:
        CaseError: no RTPLAN, or without a SOP Instance UID.

    Source: DICOM PS3.3 C.8.8.10 (RT Prescription) and C.8.8.13 (RT Fraction Scheme).
    """
    path = Path(path)
    ds = read_header(path)
    if text(ds, "SOPClassUID") not in (RTPlanStorage, RTIonPlanStorage):
        raise CaseError("is no RTPLAN file", where=path, fix="Check the path")
    sop_uid = text(ds, "SOPInstanceUID")
    if not sop_uid:
        raise CaseError("SOPInstanceUID is missing, so that no dose can refer to it", where=path, fix="Export it again")
    notes: list[str] = []
    groups = items(ds, "FractionGroupSequence")
    imaging = _imaging_beams(ds)
    prescriptions = _from_dose_references(ds, path, notes) or _from_beams(groups, imaging, path, notes)
    if not prescriptions:
        notes.append("the plan gives no prescription")
    if len(groups) > 1:
        notes.append(f"the plan has {len(groups)} fraction groups")
    if term(ds, "ApprovalStatus") == "REJECTED":
        notes.append("the plan was rejected (Approval Status)")
    structure_sets = [text(item, "ReferencedSOPInstanceUID") for item in items(ds, "ReferencedStructureSetSequence")]
    return RtPlan(
        path=path,
        label=text(ds, "RTPlanLabel"),
        sop_uid=sop_uid,
        structure_set_uid=next(iter(filter(None, structure_sets)), ""),
        frame_of_reference=text(ds, "FrameOfReferenceUID"),
        prescriptions=tuple(prescriptions),
        fractions=_fractions(groups),
        fraction_groups=_fraction_groups(groups, imaging, notes),
        notes=tuple(notes),
    )


def _from_dose_references(ds: Dataset, path: Path, notes: list[str]) -> list[Prescription]:
    found = []
    for reference in items(ds, "DoseReferenceSequence"):
        if term(reference, "DoseReferenceType") != "TARGET" or "TargetPrescriptionDose" not in reference:
            continue
        dose_gy = _dose(reference, "TargetPrescriptionDose", path)
        if dose_gy is None:
            notes.append(f"a prescribed dose was left out: it is no number of Gy between 0 and {IMPOSSIBLE_GY:g}")
            continue
        prescription = Prescription(whole(reference, "ReferencedROINumber"), dose_gy, "dose reference")
        if prescription not in found:  # one per phase of the treatment is common, each with the same total
            found.append(prescription)
    return found


def _from_beams(groups: list[Dataset], imaging: set[int], path: Path, notes: list[str]) -> list[Prescription]:
    fractions = _fractions(groups)
    if fractions is None or len(groups) != 1:
        return []
    beams = items(groups[0], "ReferencedBeamSequence")
    doses = [_dose(beam, "BeamDose", path) for beam in beams if whole(beam, "ReferencedBeamNumber") not in imaging]
    if not doses or None in doses:
        return []
    dose_gy = fractions * sum(dose for dose in doses if dose is not None)
    if dose_gy > IMPOSSIBLE_GY:
        return []
    notes.append("the prescription is the beam doses times the fractions, at the points they were specified for")
    return [Prescription(None, dose_gy, "beam doses")]


def _dose(ds: Dataset, keyword: str, path: Path) -> float | None:
    try:
        dose_gy = number(ds, keyword, path)
    except CaseError:
        return None
    return float(dose_gy) if 0 < dose_gy <= IMPOSSIBLE_GY else None


def _fractions(groups: list[Dataset]) -> int | None:
    fractions = whole(groups[0], "NumberOfFractionsPlanned") if len(groups) == 1 else None
    return fractions if fractions is not None and fractions > 0 else None


def _fraction_groups(groups: list[Dataset], imaging: set[int], notes: list[str]) -> dict[int, tuple[int, ...]]:
    found: dict[int, tuple[int, ...]] = {}
    for group in groups:
        key = whole(group, "FractionGroupNumber")
        beams = [whole(beam, "ReferencedBeamNumber") for beam in items(group, "ReferencedBeamSequence")]
        if key is None or key in found or None in beams:
            notes.append("a fraction group was left out: its number or one of its beams' is missing or not unique")
            continue
        found[key] = tuple(beam for beam in beams if beam is not None and beam not in imaging)
    return found


def _imaging_beams(ds: Dataset) -> set[int]:
    beams = items(ds, "BeamSequence") + items(ds, "IonBeamSequence")
    found = {whole(beam, "BeamNumber") for beam in beams if term(beam, "TreatmentDeliveryType") in _IMAGING}
    return {beam for beam in found if beam is not None}


def write_rtplan(
    path: str | Path,
    reference: Dataset,
    *,
    structure_set_uid: str = "",
    prescriptions: Sequence[Prescription] = (),
    fractions: int | None = None,
    label: str = "Prediction",
    seed: str = "",
    when: datetime | None = None,
) -> str:
    """Write the least plan that a dose can refer to: no beams, intent RESEARCH, UNAPPROVED.

    Args:
        path: the file.
        reference: header of a CT image, for patient, study and frame of reference.
        structure_set_uid: SOP Instance UID of the structure set that was planned on, if there is one.
        prescriptions: doses to targets.
        fractions: planned number, if it is known.
        label: RT Plan Label, at most 16 characters.
        seed: as for `new_object`.
        when: date and time of making (default: now).

    Returns:
        SOP Instance UID of the plan.

    Raises:
        CaseError: the CT has no study or frame of reference, or a dose is not finite.
        OutputError: the file cannot be written.

    Source: DICOM PS3.3 A.20 (RT Plan), C.8.8.9, C.8.8.10, C.8.8.13, C.8.8.16.
    """
    moment = when or datetime.now()
    made = new_object(
        reference,
        sop_class_uid=RTPlanStorage,
        modality="RTPLAN",
        description="Plan that the predicted dose refers to",
        series_number=9002,
        seed=seed,
        when=moment,
    )
    made.RTPlanLabel = plain_text(label, 16) or "Prediction"
    made.RTPlanDescription = "Research use only. It has no beams and cannot be delivered."
    stamp(made, "RTPlan", moment)
    made.PlanIntent = "RESEARCH"
    made.RTPlanGeometry = "PATIENT" if structure_set_uid else "TREATMENT_DEVICE"
    if structure_set_uid:
        made.ReferencedStructureSetSequence = [sop_item(RTStructureSetStorage, structure_set_uid)]
    if prescriptions:
        made.DoseReferenceSequence = [_dose_reference(at, item) for at, item in enumerate(prescriptions, start=1)]
    if fractions is not None:
        made.FractionGroupSequence = [_fraction_group(fractions)]
    made.ApprovalStatus = "UNAPPROVED"
    write_dicom(path, made)
    return str(made.SOPInstanceUID)


def _dose_reference(at: int, prescription: Prescription) -> Dataset:
    item = Dataset()
    item.DoseReferenceNumber = at
    item.DoseReferenceStructureType = "SITE" if prescription.roi_number is None else "VOLUME"
    if prescription.roi_number is not None:
        item.ReferencedROINumber = prescription.roi_number
    item.DoseReferenceType = "TARGET"
    item.TargetPrescriptionDose = decimal_string(prescription.dose_gy)
    return item


def _fraction_group(fractions: int) -> Dataset:
    item = Dataset()
    item.FractionGroupNumber = 1
    item.NumberOfFractionsPlanned = fractions
    item.NumberOfBeams = 0
    item.NumberOfBrachyApplicationSetups = 0
    return item
