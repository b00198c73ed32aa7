"""RTPLAN: prescriptions and beams that a dose needs, and a minimal plan that validates."""

from __future__ import annotations

import subprocess
from datetime import datetime

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    RTIonPlanStorage,
    RTPlanStorage,
    RTStructureSetStorage,
)

from mtl_med.errors import CaseError
from mtl_med.io.rtplan import Prescription, read_rtplan, write_rtplan


def _item(**fields) -> Dataset:
    item = Dataset()
    for keyword, value in fields.items():
        setattr(item, keyword, value)
    return item


def _target(dose_gy: str | None = "78", roi: int | None = 4, kind: str = "TARGET", number: int = 1) -> Dataset:
    item = _item(DoseReferenceNumber=number, DoseReferenceType=kind)
    item.DoseReferenceStructureType = "SITE" if roi is None else "VOLUME"
    if roi is not None:
        item.ReferencedROINumber = roi
    if dose_gy is not None:
        item.TargetPrescriptionDose = dose_gy
    return item


def _group(number: int = 1, fractions: int | None = 39, beams=((1, "1.2"), (2, "0.8"))) -> Dataset:
    items = []
    for beam, dose_gy in beams:
        items.append(_item(ReferencedBeamNumber=beam))
        if dose_gy is not None:
            items[-1].BeamDose = dose_gy
    group = _item(FractionGroupNumber=number, NumberOfBeams=len(beams), ReferencedBeamSequence=items)
    group.NumberOfFractionsPlanned = fractions
    return group


def _file(path, *, sop_class=RTPlanStorage, **changes):
    fields = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": "2.25.5",
        "PatientName": "Doe^Planted",
        "FrameOfReferenceUID": "2.25.9",
        "RTPlanLabel": "prostate",
        "DoseReferenceSequence": [_target()],
        "FractionGroupSequence": [_group()],
        "BeamSequence": [_item(BeamNumber=1), _item(BeamNumber=2)],
        "ReferencedStructureSetSequence": [
            _item(ReferencedSOPClassUID=RTStructureSetStorage, ReferencedSOPInstanceUID="2.25.6")
        ],
    } | changes
    ds = _item(**{key: value for key, value in fields.items() if value is not None})
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = sop_class, "2.25.5"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path


def test_a_plan_tells_prescription_fractions_and_beams(tmp_path):
    plan = read_rtplan(_file(tmp_path / "rp.dcm"))
    assert plan.prescriptions == (Prescription(4, 78.0, "dose reference"),)
    assert (plan.fractions, plan.fraction_groups) == (39, {1: (1, 2)})
    assert (plan.label, plan.sop_uid, plan.structure_set_uid) == ("prostate", "2.25.5", "2.25.6")
    assert plan.frame_of_reference == "2.25.9"
    assert plan.notes == ()


def test_every_target_counts_once_and_organs_do_not(tmp_path):
    references = [_target("70", 4), _target("56", 5), _target("70", 4), _target("45", 6, "ORGAN_AT_RISK")]
    plan = read_rtplan(_file(tmp_path / "rp.dcm", DoseReferenceSequence=references))
    assert [(item.roi_number, item.dose_gy) for item in plan.prescriptions] == [(4, 70.0), (5, 56.0)]


def test_a_site_prescription_names_no_structure(tmp_path):
    plan = read_rtplan(_file(tmp_path / "rp.dcm", DoseReferenceSequence=[_target("50.4", None)]))
    assert plan.prescriptions == (Prescription(None, 50.4, "dose reference"),)


def test_beam_doses_stand_in_where_no_target_dose_is_given(tmp_path):
    plan = read_rtplan(_file(tmp_path / "rp.dcm", DoseReferenceSequence=[_target(None)]))
    assert plan.prescriptions == (Prescription(None, pytest.approx(78.0), "beam doses"),)
    assert "beam doses times the fractions" in plan.notes[0]


@pytest.mark.parametrize(
    "groups",
    [
        [_group(fractions=None)],
        [_group(beams=((1, "1.2"), (2, None)))],
        [_group(1), _group(2)],
        [_group(beams=((1, "120"), (2, "80")))],
        [],
        None,
    ],
    ids=["no fractions", "a beam without dose", "two groups", "cGy", "no group", "absent"],
)
def test_no_prescription_is_made_up(tmp_path, groups):
    plan = read_rtplan(_file(tmp_path / "rp.dcm", DoseReferenceSequence=None, FractionGroupSequence=groups))
    assert plan.prescriptions == ()
    assert "the plan gives no prescription" in plan.notes


@pytest.mark.parametrize("dose_gy", ["7800", "0", "-2"])
def test_a_prescription_that_cannot_be_gy_is_left_out(tmp_path, dose_gy):
    path = _file(tmp_path / "rp.dcm", DoseReferenceSequence=[_target(dose_gy)], FractionGroupSequence=[])
    plan = read_rtplan(path)
    assert plan.prescriptions == ()
    assert "left out" in plan.notes[0]


def test_beams_that_take_pictures_are_not_waited_for(tmp_path):
    group = _group(beams=((1, "1.2"), (2, "0.8"), (3, None)))
    beams = [_item(BeamNumber=1), _item(BeamNumber=2), _item(BeamNumber=3, TreatmentDeliveryType="SETUP")]
    path = _file(tmp_path / "rp.dcm", FractionGroupSequence=[group], BeamSequence=beams, DoseReferenceSequence=None)
    plan = read_rtplan(path)
    assert plan.fraction_groups == {1: (1, 2)}
    assert plan.prescriptions[0].dose_gy == pytest.approx(78)


def test_several_fraction_groups_are_told(tmp_path):
    plan = read_rtplan(_file(tmp_path / "rp.dcm", FractionGroupSequence=[_group(1, beams=((1, "1"),)), _group(2)]))
    assert plan.fractions is None
    assert plan.fraction_groups == {1: (1,), 2: (1, 2)}
    assert plan.notes == ("the plan has 2 fraction groups",)


def test_an_ion_plan_is_read(tmp_path):
    beams = [_item(BeamNumber=1), _item(BeamNumber=2, TreatmentDeliveryType="SETUP")]
    path = _file(tmp_path / "rp.dcm", sop_class=RTIonPlanStorage, BeamSequence=None, IonBeamSequence=beams)
    assert read_rtplan(path).fraction_groups == {1: (1,)}


def test_a_rejected_plan_is_told(tmp_path):
    assert "rejected" in read_rtplan(_file(tmp_path / "rp.dcm", ApprovalStatus="REJECTED")).notes[0]


def test_what_is_no_plan_is_refused(tmp_path, dicom_rt_data):
    with pytest.raises(CaseError, match="is no RTPLAN"):
        read_rtplan(dicom_rt_data / "eclipse_prostate" / "RD.dcm")
    with pytest.raises(CaseError, match="SOPInstanceUID is missing") as caught:
        read_rtplan(_file(tmp_path / "rp.dcm", SOPInstanceUID=None))
    assert "Planted" not in str(caught.value)


def test_flipped_bytes_end_as_a_plan_or_as_a_refusal(tmp_path):
    whole = _file(tmp_path / "rp.dcm").read_bytes()
    rng, read = np.random.default_rng(7), 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.integers(132, len(whole))] ^= 1 << int(rng.integers(8))
        (tmp_path / "flipped.dcm").write_bytes(flipped)
        try:
            plan = read_rtplan(tmp_path / "flipped.dcm")
        except CaseError as error:
            assert "Planted" not in str(error)
            continue
        read += 1
        assert all(0 < item.dose_gy <= 200 for item in plan.prescriptions)
    assert 0 < read < 150


# ---- writing


@pytest.fixture
def reference() -> Dataset:
    """Header of a CT image."""
    return _item(
        SOPClassUID=CTImageStorage,
        PatientName="Doe^Jane",
        PatientID="7",
        PatientBirthDate="",
        PatientSex="F",
        StudyInstanceUID="2.25.100",
        StudyDate="20260102",
        StudyTime="101112",
        StudyID="1",
        AccessionNumber="",
        ReferringPhysicianName="",
        FrameOfReferenceUID="2.25.101",
        PositionReferenceIndicator="",
    )


def _errors(judge: str, path) -> list[str]:
    done = subprocess.run([judge, str(path)], capture_output=True, text=True, timeout=60)
    return [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]


@pytest.mark.parametrize("complete", [True, False], ids=["complete", "least"])
def test_the_minimal_plan_validates(reference, tmp_path, require_judge, complete):
    judge, path = require_judge("dciodvfy"), tmp_path / "rp.dcm"
    more = {
        "structure_set_uid": "2.25.6",
        "prescriptions": [Prescription(4, 70.0, ""), Prescription(None, 56.7, "")],
        "fractions": 35,
    }
    write_rtplan(path, reference, **(more if complete else {}))
    assert _errors(judge, path) == []


def test_a_written_plan_reads_back_and_says_what_it_is(reference, tmp_path):
    path, prescriptions = tmp_path / "rp.dcm", [Prescription(4, 70.0, ""), Prescription(None, 56.7, "")]
    uid = write_rtplan(path, reference, structure_set_uid="2.25.6", prescriptions=prescriptions, fractions=35)
    plan = read_rtplan(path)
    assert (plan.sop_uid, plan.structure_set_uid, plan.fractions) == (uid, "2.25.6", 35)
    assert [(item.roi_number, item.dose_gy) for item in plan.prescriptions] == [(4, 70.0), (None, 56.7)]
    written = dcmread(path)
    assert (written.PlanIntent, written.ApprovalStatus) == ("RESEARCH", "UNAPPROVED")
    assert "Research use only" in written.RTPlanDescription
    assert (written.PatientID, written.StudyInstanceUID, written.FrameOfReferenceUID) == ("7", "2.25.100", "2.25.101")


def test_a_seed_gives_the_same_bytes(reference, tmp_path):
    paths = [tmp_path / f"{name}.dcm" for name in "abc"]
    when = datetime(2026, 1, 2, 3, 4, 5)
    for path, seed in zip(paths, ("x", "x", "y"), strict=True):
        write_rtplan(path, reference, seed=seed, when=when)
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
