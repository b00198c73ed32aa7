"""What belongs together is put together, what could mean two things is a fault that lists them, nothing is guessed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import Dataset

from mtl_med.prep.dicom_link import link
from mtl_med.prep.dicom_scan import scan_folder
from mtl_med.prep.dicom_source import DicomSource, Namer
from mtl_med.prep.identity import Pseudonyms

MadeStudy = Callable[..., "object"]


def linked(study: object) -> list[DicomSource]:
    root = study.folder
    while root.name != "source":
        root = root.parent
    return link(scan_folder(root), Namer(root))


def only(study: object) -> DicomSource:
    (source,) = linked(study)
    return source


def names(paths: tuple[Path, ...]) -> list[str]:
    return [path.name for path in paths]


def test_a_study_is_one_case(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct().rtplan().rtdose(plan=1)
    source = only(study)
    assert not source.fault and not source.conflict and not source.remarks
    assert len(source.ct_files) == 6 and source.rtstruct == study.folder / "RS1.dcm"
    assert source.rtplan == study.folder / "RP1.dcm" and names(source.doses) == ["RD1.dcm"]
    assert names(source.files) == [*names(source.ct_files), "RS1.dcm", "RP1.dcm", "RD1.dcm"]
    assert source.account["found"] == ("CT series of 6 images", "1 RTSTRUCT", "1 RTPLAN", "1 RTDOSE")
    assert source.account["linked"] == (
        "RTSTRUCT by the series it refers to",
        "RTPLAN by the RTSTRUCT it refers to",
        "RTDOSE by the RTPLAN it refers to",
    )
    assert source.patient == "P1" and source.group == "all" and source.id.startswith("P1_")


def test_files_in_any_folder_belong_together(made_study: MadeStudy) -> None:
    study = made_study(folder="deep/er").ct().rtstruct().rtdose(structures=1)
    for number, path in enumerate(study.written):
        (study.folder.parent / str(number % 3)).mkdir(exist_ok=True)
        path.rename(study.folder.parent / str(number % 3) / f"{number}")
    source = only(study)
    assert len(source.ct_files) == 6 and source.rtstruct and len(source.doses) == 1


def test_patients_are_told_apart_in_one_folder(made_study: MadeStudy) -> None:
    first = made_study(patient="A", number=1).ct().rtstruct(file="a.dcm")
    second = first.variant(patient="B", number=2, series=2).ct().rtstruct(file="b.dcm")
    sources = linked(second)
    assert [source.patient for source in sources] == ["A", "B"]
    assert [source.rtstruct.name for source in sources] == ["a.dcm", "b.dcm"]
    assert {path.name[:3] for path in sources[0].ct_files} == {"CT1"}


def test_equal_uids_of_two_patients_do_not_mix(made_study: MadeStudy) -> None:
    """Some anonymisers give every patient the same UIDs."""
    first = made_study(patient="A").ct(prefix="A").rtstruct(file="a.dcm").rtdose(structures=1, file="ad.dcm")
    first.variant(patient="B").ct(prefix="B").rtstruct(file="b.dcm").rtdose(file="bd.dcm")
    sources = linked(first)
    assert [(s.patient, s.rtstruct.name, len(s.ct_files)) for s in sources] == [("A", "a.dcm", 6), ("B", "b.dcm", 6)]
    assert [names(source.doses) for source in sources] == [["ad.dcm"], ["bd.dcm"]]
    assert len({source.id for source in sources}) == 2


@pytest.mark.parametrize(
    ("refer", "how"),
    [
        ("series images", "RTSTRUCT by the series it refers to"),
        ("series", "RTSTRUCT by the series it refers to"),
        ("contours", "RTSTRUCT by the images it refers to"),
    ],
)
def test_of_two_ct_series_the_one_referred_to(made_study: MadeStudy, refer: str, how: str) -> None:
    study = made_study(series=2).ct().rtstruct(refer=refer).rtdose()
    study.variant(series=1, slices=4).ct()
    source = only(study)
    assert {path.name[:3] for path in source.ct_files} == {"CT2"} and not source.fault
    assert how in source.account["linked"] and names(source.doses) == ["RD1.dcm"]
    assert "1 other CT series of the patient without RTSTRUCT or RTDOSE" in source.account["skipped"]


def test_of_two_ct_series_none_referred_to_is_a_fault_that_lists_them(made_study: MadeStudy) -> None:
    study = made_study(folder="first", series=1).ct().rtstruct(refer="")
    other = made_study(folder="second", series=2, slices=4).ct()
    source = only(other)
    assert source.fault.startswith("RTSTRUCT first/RS1.dcm can belong to 2 CT series: ")
    assert "first (6 images)" in source.fault and "second (4 images)" in source.fault
    assert study.folder.name == "first"


def test_the_frame_of_reference_decides_where_it_leaves_no_choice_and_is_told(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct(refer="").rtdose(plan=7)
    source = only(study)
    assert source.rtstruct and len(source.doses) == 1
    for kind in ("RTSTRUCT", "RTDOSE"):
        told = f"{kind} by its frame of reference, as nothing that it refers to is here"
        assert told in source.remarks and told in source.account["linked"]


def test_objects_whose_ct_is_missing_are_a_fault(made_study: MadeStudy) -> None:
    study = made_study().rtstruct().rtdose(structures=1)
    source = only(study)
    assert source.fault == "the CT of RTDOSE and RTSTRUCT is not here: RS1.dcm, RD1.dcm"
    study.variant(series=2, frame=2).ct()
    study.variant(series=3, frame=3).ct()
    assert only(study).fault == source.fault, "none of two other CTs of the patient is theirs"


@pytest.mark.parametrize("kind", ["RTSTRUCT", "RTDOSE"])
def test_another_frame_than_that_of_the_only_ct_needs_the_users_word(made_study: MadeStudy, kind: str) -> None:
    study = made_study().ct()
    other = study.variant(frame=2, series=2)
    if kind == "RTSTRUCT":
        other.rtstruct()
    else:
        study.rtstruct()
        study.variant(series=3, frame=4).ct()  # another CT of the patient, without structures
        other.rtdose(plan=9)
    source = only(study)
    file = {"RTSTRUCT": "RS1.dcm", "RTDOSE": "RD1.dcm"}[kind]
    assert source.conflict == f"{kind} {file} belongs to another frame of reference than the CT" and not source.fault
    assert source.rtstruct and len(source.doses) == (kind == "RTDOSE")
    told = f"{kind} by elimination: nothing that it refers to is here, and no other CT of the patient can be meant"
    assert told in source.remarks


def test_a_dose_without_a_frame_goes_to_the_only_ct_and_is_told(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct()
    study.rtdose(plan=9, edit=lambda made: delattr(made, "FrameOfReferenceUID"))
    source = only(study)
    assert names(source.doses) == ["RD1.dcm"] and not source.conflict and not source.fault
    assert any(remark.startswith("RTDOSE by elimination: ") for remark in source.remarks)


def test_a_plan_that_refers_to_nothing_here_is_not_taken(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct()
    study.variant(frame=2).rtplan(structures=9)
    source = only(study)
    assert source.rtplan is None and not source.conflict
    assert "1 RTPLAN of the patient that belongs to no CT here" in source.remarks


def test_a_dose_of_another_ct_is_told_beside_a_good_case(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct().rtdose(structures=1)
    study.variant(frame=3, series=3).rtdose(label=2, structures=9)
    source = only(study)
    assert names(source.doses) == ["RD1.dcm"] and not source.fault
    assert "1 RTDOSE of the patient that belongs to no CT here" in source.remarks


def test_ct_alone_is_a_case_unless_the_patient_has_more(made_study: MadeStudy) -> None:
    study = made_study(patient="A").ct()
    source = only(study)
    assert not source.fault and source.rtstruct is None and source.doses == ()
    study.variant(patient="B", number=2, series=1).ct(prefix="B").rtstruct()
    assert [bool(item.rtstruct) for item in linked(study)] == [False, True]
    study.variant(patient="B", number=3, series=5).ct()
    assert len(linked(study)) == 2


def test_of_two_structure_sets_the_one_that_was_planned_on(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct(label=1).rtstruct(label=2)
    source = only(study)
    assert source.fault == "2 RTSTRUCTs belong to this CT: RS1.dcm, RS2.dcm; keep the one that is meant"
    study.rtplan(structures=2).rtdose(plan=1)
    source = only(study)
    assert source.rtstruct.name == "RS2.dcm" and not source.fault
    assert any("1 other RTSTRUCTs of this CT were left out" in remark for remark in source.remarks)


def test_the_plan_is_that_of_the_dose(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct().rtplan(label=1).rtplan(label=2).rtdose(plan=2)
    assert only(study).rtplan.name == "RP2.dcm"
    study.rtdose(plan=1, label=2)
    source = only(study)
    assert source.rtplan is None and names(source.doses) == ["RD1.dcm", "RD2.dcm"]
    assert "no RTPLAN of 2 was used: 2 can be meant" in source.remarks


def test_a_plan_of_another_dose_is_not_used(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct().rtplan(label=1).rtdose(plan=8, structures=1)
    source = only(study)
    assert source.rtplan is None and "no RTPLAN of 1 was used: the dose refers to another one" in source.remarks


def test_copies_are_left_out_and_impostors_are_a_fault(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct().rtdose(structures=1)
    shutil.copy(study.folder / "RS1.dcm", study.folder / "copy.dcm")
    source = only(study)
    assert not source.fault and any("is a copy and was left out" in remark for remark in source.remarks)
    study.rtdose(30.0, structures=1, file="other.dcm")
    fault = only(study).fault
    assert "RD1.dcm and other.dcm have the same SOPInstanceUID, but differ" in fault


def test_another_patients_structures_need_the_users_word(made_study: MadeStudy) -> None:
    study = made_study(patient="A").ct()
    study.variant(patient="B").rtstruct()
    source = only(study)
    assert source.rtstruct and source.conflict == "RTSTRUCT RS1.dcm and its CT have different PatientIDs"


def test_images_that_are_missing_and_files_that_cannot_be_read_are_remarked(made_study: MadeStudy) -> None:
    study = made_study().ct().rtstruct()
    study.written[-2].write_bytes(b"")
    (study.folder / "dvh.csv").write_text("x")
    source = only(study)
    assert source.remarks == (
        "1 of 6 images that the RTSTRUCT refers to are not in the CT series",
        "files beside it could not be used: 1 x is empty",
    )
    assert "left out: 1 x .csv file" in source.account["skipped"]


def test_ids_depend_on_nothing_but_the_case(made_study: MadeStudy, tmp_path: Path) -> None:
    study = made_study(folder="x", patient="A").ct().rtstruct()
    before = only(study)
    made_study(folder="y", patient="A", number=2, series=2).ct().rtstruct()
    made_study(folder="z", patient="a", number=3).ct().rtstruct()
    sources = linked(study)
    assert before.id in {source.id for source in sources} and len({source.id.lower() for source in sources}) == 3
    moved = tmp_path / "elsewhere" / "source"
    shutil.copytree(study.folder.parent, moved)
    assert [item.id for item in link(scan_folder(moved), Namer(moved))] == [item.id for item in sources]


@pytest.mark.parametrize("patient", ["", "../../tmp/evil", "CON", "Zoë 検査", "x" * 64, "a/b\\c", "."])
def test_ids_are_safe_whatever_the_patient_is_called(made_study: MadeStudy, patient: str) -> None:
    study = made_study(patient=patient).ct().rtstruct()
    source = only(study)
    assert source.id.isascii() and not set(source.id) & set('/\\:*?"<>| ') and len(source.id) < 64
    assert not source.id.startswith(".")


def test_pseudonyms_tell_nothing(made_study: MadeStudy) -> None:
    study = made_study(folder="Smith John", patient="MRN4711", name="Smith^John").ct().rtstruct().rtstruct(label=2)
    study.variant(series=2).ct()
    study.variant(patient="OTHER99", number=2).rtdose()
    root = study.folder.parent
    sources = link(scan_folder(root), Namer(root, Pseudonyms(b"k" * 32)))
    assert len(sources) == 2 and all(source.fault for source in sources)
    for source in sources:
        shown = repr((source.id, source.fault, source.conflict, source.patient, source.remarks, source.account))
        for secret in ("Smith", "John", "MRN4711", "OTHER99", "1.2.1.", "RS1", "20310517", "ACC8812"):
            assert secret not in shown, shown
    assert {"MRN4711", "Smith^John", "20310517", "ACC8812"} <= {text for s in sources for text in s.identity}
    again = link(scan_folder(root), Namer(root, Pseudonyms(b"k" * 32)))
    assert [source.id for source in again] == [source.id for source in sources]
    other = link(scan_folder(root), Namer(root, Pseudonyms(b"x" * 32)))
    assert {source.id for source in other}.isdisjoint(source.id for source in sources)


def test_damaged_references_are_no_crash(made_study: MadeStudy) -> None:
    def spoil(made: Dataset) -> None:
        del made.ReferencedFrameOfReferenceSequence
        made.add_new(0x30060010, "LO", "no sequence")

    study = made_study().ct().rtstruct(edit=spoil)
    source = only(study)
    assert source.rtstruct is None and source.remarks[0].startswith("files beside it could not be used: 1 x is damaged")
