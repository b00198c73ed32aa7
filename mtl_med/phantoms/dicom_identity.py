"""A made-up person whose traces are planted into every text field, to show that de-identification finds them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["Identity"]

# Attributes of PS3.15 table E.1-1 (Basic Profile) that hold text, names, dates or times, per kind of file.
_EVERYWHERE = (
    "AccessionNumber AdditionalPatientHistory AdmissionID AdmittingDate AdmittingDiagnosesDescription Allergies "
    "ContentCreatorName ContentDate ContentTime CurrentPatientLocation DeviceSerialNumber "
    "EthnicGroup InstanceCreationDate InstanceCreationTime InstitutionAddress InstitutionName "
    "InstitutionalDepartmentName IssuerOfPatientID MedicalAlerts MedicalRecordLocator NameOfPhysiciansReadingStudy "
    "Occupation OperatorsName OtherPatientIDs OtherPatientNames PatientAddress PatientAge PatientBirthName "
    "PatientComments PatientInstitutionResidence PatientMotherBirthName PatientReligiousPreference PatientState "
    "PatientTelephoneNumbers PerformedProcedureStepDescription PerformedProcedureStepID PerformingPhysicianName "
    "PhysiciansOfRecord ReferringPhysicianName ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers "
    "RegionOfResidence RequestedProcedureDescription RequestedProcedureID RequestingPhysician RequestingService "
    "ScheduledProcedureStepID SeriesDate SeriesDescription SeriesTime SoftwareVersions SpecialNeeds StationName "
    "StudyComments StudyDate StudyDescription StudyID StudyTime VisitComments"
)
_BY_KIND = {
    "ct": (
        "AcquisitionComments AcquisitionDate AcquisitionTime AcquisitionDateTime ContrastBolusAgent "
        "DateOfLastCalibration DerivationDescription FilterType ImageComments ProtocolName TimeOfLastCalibration"
    ),
    "rtstruct": (
        "StructureSetDate StructureSetDescription StructureSetLabel StructureSetName StructureSetTime ReviewDate "
        "ReviewTime ReviewerName"
    ),
    "rtplan": (
        "RTPlanDate RTPlanDescription RTPlanLabel RTPlanName RTPlanTime PrescriptionDescription ReviewDate ReviewTime "
        "ReviewerName TreatmentProtocols TreatmentSites"
    ),
    "rtdose": "DoseComment",
    "other": "ImageComments",
}
_IN_SEQUENCES = {
    "StructureSetROISequence": "ROIDescription ROIGenerationDescription",
    "RTROIObservationsSequence": "ROIInterpreter ROIObservationDescription ROIObservationLabel",
    "BeamSequence": "BeamDescription BeamName InstitutionName ManufacturerModelName TreatmentMachineName",
    "DoseReferenceSequence": "DoseReferenceDescription",
    "FractionGroupSequence": "FractionGroupDescription",
    "PatientSetupSequence": "SetupTechniqueDescription",
}


@dataclass(frozen=True)
class Identity:
    """A person who does not exist.

    Args:
        name: as in Patient's Name.
        patient_id: as in Patient ID.
        birth_date: YYYYMMDD.
        date: of everything that was done, YYYYMMDD.
        time: of everything that was done, HHMMSS.FFFFFF.
        token: a word that every other planted text holds.
    """

    name: str = "Plantedova^Hildegardis"
    patient_id: str = "PLID4711-0815"
    birth_date: str = "19470311"
    date: str = "20190823"
    time: str = "101112.987654"
    token: str = "Planted"

    @property
    def family_name(self) -> str:
        """First part of the name."""
        return self.name.split("^")[0]

    @property
    def strings(self) -> tuple[str, ...]:
        """What must not be found in anything de-identified: whole words, in the forms they are likely to take."""
        dates = [form for day in (self.birth_date, self.date) for form in (day, f"{day[:4]}-{day[4:6]}-{day[6:]}")]
        return (self.token, *self.name.split("^"), self.patient_id, *dates, self.time)

    def plant(self, ds: Dataset, kind: str) -> None:
        """Write the person into a dataset of a kind ("ct", "rtstruct", "rtplan", "rtdose" or "other")."""
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = self.name, self.patient_id, self.birth_date
        ds.PatientSex = "F"
        self._fill(ds, f"{_EVERYWHERE} {_BY_KIND[kind]}".split())
        for name, keywords in _IN_SEQUENCES.items():
            for item in ds.get(name, ()):
                self._fill(item, keywords.split())
        for item in list(ds.get("RTROIObservationsSequence", ()))[-1:]:
            item.RTROIInterpretedType = self.token.upper()  # a code string by its form, and no type
        ds.RequestAttributesSequence = [self._item("ScheduledProcedureStepDescription", "RequestedProcedureID")]
        ds.PersonIdentificationCodeSequence = [self._item("CodeMeaning", "CodeValue")]
        block = ds.private_block(0x0099, f"{self.token} private", create=True)
        block.add_new(0x10, "LO", f"{self.token} {self.name} {self.patient_id}")
        block.add_new(0x11, "UN", f"{self.token} {self.birth_date} ".encode())

    def _item(self, *keywords: str) -> Dataset:
        from pydicom import Dataset

        item = Dataset()
        self._fill(item, keywords)
        return item

    def _fill(self, ds: Dataset, keywords: Iterable[str]) -> None:
        """One value per keyword, of the form that its value representation asks for."""
        from pydicom.datadict import dictionary_VR

        for number, keyword in enumerate(sorted(keywords)):
            text = f"{self.token} {number:02d}"  # 10 letters: a short string may have 16
            forms = {
                "PN": f"{self.token}^{keyword}"[:60],
                "DA": self.date,
                "TM": self.time,
                "DT": self.date + self.time,
                "AS": "072Y",
            }
            long = text if dictionary_VR(keyword) == "SH" else f"{text} {keyword}"[:60]
            setattr(ds, keyword, forms.get(dictionary_VR(keyword), long))
