"""What every DICOM object that we write shares: identity from the CT, UIDs, texts and numbers that keep the rules."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, RTStructureSetStorage

from mtl_med.errors import CaseError, OutputError
from mtl_med.io.dicom import read_header
from mtl_med.io.dicom_common import (
    decimal_string,
    encode_dicom,
    new_object,
    new_uid,
    plain_text,
    shared_modules,
    write_dicom,
)
from tests.io.small_ct import FRAME_UID, STUDY_UID, write_ct

WHEN = datetime(2026, 1, 2, 3, 4, 5)


@pytest.fixture
def header(tmp_path: Path) -> Dataset:
    write_ct(tmp_path, shape=(4, 4, 1))
    return read_header(next(tmp_path.iterdir()))


def make(header: Dataset, seed: str = "") -> Dataset:
    return new_object(
        header,
        sop_class_uid=RTStructureSetStorage,
        modality="RTSTRUCT",
        description="Structures",
        series_number=5,
        seed=seed,
        when=WHEN,
    )


def test_blanks_within_an_id_stay(header: Dataset) -> None:
    """An archive tells patients apart by them."""
    header.PatientID, header.AccessionNumber = "AB  12", "7  1"
    made = make(header)
    assert (made.PatientID, made.AccessionNumber) == ("AB  12", "7  1")


def test_patient_study_and_frame_are_those_of_the_ct(header: Dataset) -> None:
    made = make(header)
    assert (made.PatientName, made.PatientID, made.PatientBirthDate, made.PatientSex) == (
        "Doe^Jane",
        "P1",
        "19600102",
        "F",
    )
    assert (made.StudyInstanceUID, made.StudyDate, made.StudyTime) == (STUDY_UID, "20200304", "101112")
    assert (made.StudyID, made.AccessionNumber, made.FrameOfReferenceUID) == ("S1", "A1", FRAME_UID)
    assert made.SeriesInstanceUID != header.SeriesInstanceUID
    assert (made.SeriesDate, made.SeriesTime) == ("20260102", "030405")
    assert not {"KVP", "Rows", "PixelSpacing", "AcquisitionNumber"} & set(made.dir()), "nothing else comes along"


def test_uids_are_valid_and_new_unless_a_seed_fixes_them(header: Dataset) -> None:
    first, second = make(header), make(header)
    for made in (first, second, make(header, "s")):
        assert UID(made.SOPInstanceUID).is_valid and UID(made.SeriesInstanceUID).is_valid
        assert made.SOPInstanceUID != made.SeriesInstanceUID
    assert first.SOPInstanceUID != second.SOPInstanceUID
    assert encode_dicom(make(header, "s")) == encode_dicom(make(header, "s"))
    assert make(header, "s").SOPInstanceUID != make(header, "t").SOPInstanceUID


def test_parts_of_a_seed_do_not_run_together() -> None:
    assert new_uid("a", "bc") != new_uid("ab", "c")
    assert len({new_uid("") for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("keyword", "value", "expected"),
    [
        ("PatientSex", "Female", ""),
        ("PatientBirthDate", "1960-01-02", ""),
        ("StudyTime", "10:11:12", ""),
        ("PatientName", "Żółć^Ąę", "Żółć^Ąę"),
        ("PatientName", "Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("PatientID", "x" * 70, "x" * 64),
        ("AccessionNumber", "123456789012345678", "1234567890123456"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # pydicom's, while the test makes the broken header
def test_values_that_break_the_rules_do_not_get_through(
    header: Dataset, tmp_path: Path, keyword: str, value: str, expected: str
) -> None:
    header.SpecificCharacterSet = "ISO_IR 192"
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        setattr(header, keyword, value)
        header.save_as(tmp_path / "odd.dcm")
    finally:
        pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE
    made = make(read_header(tmp_path / "odd.dcm"))
    write_dicom(tmp_path / "made.dcm", made)
    assert str(pydicom.dcmread(tmp_path / "made.dcm")[keyword].value) == expected


def test_what_the_ct_leaves_out_is_present_and_empty() -> None:
    header = Dataset()
    header.StudyInstanceUID, header.FrameOfReferenceUID = "1.2", "1.3"
    made = shared_modules(header)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert made[keyword].value in ("", None)
    assert "StudyDescription" not in made


def test_a_ct_without_identity_is_known_as_such(header: Dataset) -> None:
    header.PatientIdentityRemoved = "YES"
    made = make(header)
    assert (made.PatientIdentityRemoved, made.DeidentificationMethod) == ("YES", "as in the CT")


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.parametrize("value", [None, "", "not a uid"])
def test_nothing_can_refer_to_a_ct_without_these(header: Dataset, keyword: str, value: str | None) -> None:
    delattr(header, keyword)
    if value is not None:
        header.add(pydicom.DataElement(keyword, "LO", value))
    with pytest.raises(CaseError, match=f"the CT has no {keyword}"):
        make(header)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (3.0, "3"),
        (-249.51171875, "-249.51171875"),
        (1 / 3, "0.333333333"),
        (1e-12, "0"),
        (1e-6, "1e-06"),
        (-1234567.123456789, "-1234567.1234568"),
    ],
)
def test_decimal_strings(value: float, text: str) -> None:
    assert decimal_string(value) == text
    assert len(text) <= 16
    assert float(text) == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_decimal_string_of_what_is_no_number(value: float) -> None:
    with pytest.raises(CaseError, match="cannot be written"):
        decimal_string(value)


@pytest.mark.parametrize(
    ("text", "plain"), [("a\\b\nc\x00", "a b c"), ("  x  ", "x"), ("ä" * 70, "ä" * 64), ("\\\\", "")]
)
def test_plain_text(text: str, plain: str) -> None:
    assert plain_text(text) == plain


def test_the_file_is_whole_or_absent(header: Dataset, tmp_path: Path) -> None:
    made = make(header)
    digest = write_dicom(tmp_path / "new" / "made.dcm", made)
    assert len(digest) == 64
    read = pydicom.dcmread(tmp_path / "new" / "made.dcm")
    assert read.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID
    with pytest.raises(OutputError, match="cannot write"):
        write_dicom(tmp_path / "new" / "made.dcm" / "below-a-file.dcm", made)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["made.dcm"]
