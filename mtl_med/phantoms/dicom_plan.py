"""The RTPLAN of a made-up study, in the forms that planning systems export."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from mtl_med.phantoms.dicom_files import Study, decimal, item, lps_point, reference

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["write_plan"]


def write_plan(
    study: Study,
    number: int,
    prescriptions_gy: Mapping[str, float],
    roi_numbers: Mapping[str, int],
    fractions: int,
    isocentre_ras: NDArray,
) -> None:
    """Write an RTPLAN with one fraction group.

    Args:
        study: what the file belongs to.
        number: 1, or 2 for a second plan.
        prescriptions_gy: per structure.
        roi_numbers: ROI Number per structure.
        fractions: planned number of fractions.
        isocentre_ras: RAS mm.
    """
    style = study.style
    ds = study.dataset("rtplan", f"rtplan {number}", "RTPLAN", f"plan {number}")
    ds.RTPlanLabel, ds.RTPlanName = f"PLAN {number}", f"PLAN {number}"
    ds.RTPlanDate, ds.RTPlanTime = ds.StudyDate, ds.StudyTime
    ds.RTPlanGeometry, ds.ApprovalStatus, ds.InstanceNumber = "PATIENT", "UNAPPROVED", "1"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = study.frame, ""
    if style.rtstruct:
        ds.ReferencedStructureSetSequence = [reference("rtstruct", study.uid("rtstruct"))]
    doses = _prescriptions(study, prescriptions_gy, roi_numbers, isocentre_ras)
    if doses:
        ds.DoseReferenceSequence = doses
    beams = [*range(1, style.beams + 1)]
    setup = [*range(style.beams + 1, style.beams + style.setup_beams + 1)]
    per_beam = max(prescriptions_gy.values(), default=0.0) / fractions / len(beams)
    ds.FractionGroupSequence = [
        item(
            FractionGroupNumber="1",
            NumberOfFractionsPlanned=str(fractions),
            NumberOfBeams=str(len(beams) + len(setup)),
            NumberOfBrachyApplicationSetups="0",
            ReferencedBeamSequence=[
                *(
                    item(ReferencedBeamNumber=str(beam), BeamDose=decimal(per_beam, 6), BeamMeterset="100")
                    for beam in beams
                ),
                *(item(ReferencedBeamNumber=str(beam)) for beam in setup),  # neither dose nor meterset
            ],
        )
    ]
    ds.PatientSetupSequence = [item(PatientSetupNumber="1", PatientPosition=style.position)]
    ds.BeamSequence = [
        *(_beam(beam, "TREATMENT", 360 * (beam - 1) / len(beams), isocentre_ras) for beam in beams),
        *(_beam(beam, "SETUP", 0.0, isocentre_ras) for beam in setup),
    ]
    study.save(ds, "rtplan", "RP" if number == 1 else f"RP_{number}")


def _prescriptions(
    study: Study, prescriptions_gy: Mapping[str, float], roi_numbers: Mapping[str, int], point_ras: NDArray
) -> list[Dataset]:
    """Items of Dose Reference Sequence."""
    form = study.style.prescription
    if form == "none":
        return []
    if form == "volume":
        return [
            item(
                DoseReferenceNumber=str(index),
                DoseReferenceStructureType="VOLUME",
                DoseReferenceType="TARGET",
                ReferencedROINumber=str(roi_numbers[name]),
                TargetPrescriptionDose=decimal(gy),
            )
            for index, (name, gy) in enumerate(prescriptions_gy.items(), start=1)
            if name in roi_numbers
        ]
    ds = item(
        DoseReferenceNumber="1",
        DoseReferenceStructureType=form.upper(),
        DoseReferenceType="TARGET",
        DoseReferenceDescription="Target",
        TargetPrescriptionDose=decimal(max(prescriptions_gy.values(), default=0.0)),
    )
    if form == "coordinates":
        ds.DoseReferencePointCoordinates = lps_point(point_ras)
    return [ds]


def _beam(number: int, delivery: str, gantry_deg: float, isocentre_ras: NDArray) -> Dataset:
    start = item(
        ControlPointIndex="0",
        NominalBeamEnergy="6",
        GantryAngle=decimal(gantry_deg, 3),
        GantryRotationDirection="NONE",
        BeamLimitingDeviceAngle="0",
        BeamLimitingDeviceRotationDirection="NONE",
        PatientSupportAngle="0",
        PatientSupportRotationDirection="NONE",
        TableTopEccentricAngle="0",
        TableTopEccentricRotationDirection="NONE",
        TableTopVerticalPosition="",
        TableTopLongitudinalPosition="",
        TableTopLateralPosition="",
        IsocenterPosition=lps_point(isocentre_ras),
        CumulativeMetersetWeight="0",
        BeamLimitingDevicePositionSequence=[
            item(RTBeamLimitingDeviceType=kind, LeafJawPositions=["-60", "60"]) for kind in ("ASYMX", "ASYMY")
        ],
    )
    return item(
        Manufacturer="",
        TreatmentMachineName="PHANTOM",
        PrimaryDosimeterUnit="MU",
        SourceAxisDistance="1000",
        BeamLimitingDeviceSequence=[
            item(RTBeamLimitingDeviceType=kind, NumberOfLeafJawPairs="1") for kind in ("ASYMX", "ASYMY")
        ],
        BeamNumber=str(number),
        BeamName=f"{'Field' if delivery == 'TREATMENT' else 'CBCT'} {number}",
        BeamType="STATIC",
        RadiationType="PHOTON",
        TreatmentDeliveryType=delivery,
        NumberOfWedges="0",
        NumberOfCompensators="0",
        NumberOfBoli="0",
        NumberOfBlocks="0",
        FinalCumulativeMetersetWeight="1",
        NumberOfControlPoints="2",
        ControlPointSequence=[start, item(ControlPointIndex="1", CumulativeMetersetWeight="1")],
    )
