"""Structure sets: real ones, defects one by one, made-up encodings, and mutations that must not pass in silence."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RTStructureSetStorage,
)

from mtl_med.errors import CaseError
from mtl_med.geometry import lps_from_ras
from mtl_med.io.rtstruct import Roi, StructureSet, read_rtstruct

SQUARE = [(0.5, 10.25, -3.0), (8.5, 10.25, -3.0), (8.5, 20.75, -3.0), (0.5, 20.75, -3.0)]
FRAME, SERIES, IMAGE = "1.2.3.4", "1.2.3.5", "1.2.3.6"


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return dataset


def contour(points: Any = SQUARE, kind: str = "CLOSED_PLANAR", **values: Any) -> Dataset:
    """An item of the Contour Sequence; `points` may be bytes that are no numbers."""
    made = item(ContourGeometricType=kind, **values)
    if isinstance(points, bytes):
        made.add_new("ContourData", "LT", points.decode())  # a type that pydicom writes as it is
    else:
        made.NumberOfContourPoints = values.get("NumberOfContourPoints", len(points))
        made.ContourData = [f"{number:.3f}" for number in np.ravel(points)]
    return made


def structure_set(*names: str, **contours: Any) -> Dataset:
    """One ROI per name with ten contours each, numbered from 1; `contours={2: [...]}` gives the second other ones."""
    drawn: dict[int, list[Dataset]] = contours.get("contours", {})
    ds = item(
        SOPClassUID=RTStructureSetStorage,
        SOPInstanceUID="1.2.3",
        Modality="RTSTRUCT",
        SpecificCharacterSet="ISO_IR 192",
        PatientName="Doe^Jane",
        PatientID="PATIENT-4711",
        StructureSetLabel="PLAN A",
        ReferencedFrameOfReferenceSequence=[
            item(
                FrameOfReferenceUID=FRAME,
                RTReferencedStudySequence=[
                    item(
                        RTReferencedSeriesSequence=[
                            item(
                                SeriesInstanceUID=SERIES,
                                ContourImageSequence=[item(ReferencedSOPInstanceUID=IMAGE)],
                            )
                        ]
                    )
                ],
            )
        ],
        StructureSetROISequence=[
            item(ROINumber=n, ROIName=name, ReferencedFrameOfReferenceUID=FRAME) for n, name in enumerate(names, 1)
        ],
        ROIContourSequence=[
            item(ReferencedROINumber=n, ContourSequence=drawn.get(n, squares(n))) for n in range(1, len(names) + 1)
        ],
        RTROIObservationsSequence=[
            item(ObservationNumber=n, ReferencedROINumber=n, RTROIInterpretedType="ORGAN")
            for n in range(1, len(names) + 1)
        ],
        ApprovalStatus="UNAPPROVED",
    )
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return ds


def squares(number: int) -> list[Dataset]:
    return [contour(np.add(SQUARE, [0, number, 2.5 * z])) for z in range(10)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[Dataset], StructureSet]:
    """Write a data set and read it back with the library."""

    def written_and_read(ds: Dataset) -> StructureSet:
        path = tmp_path / "RS.dcm"
        with pydicom.config.disable_value_validation():
            ds.save_as(path, enforce_file_format=True)
        return read_rtstruct(path)

    return written_and_read


def drawn(roi: Roi) -> tuple[str, int, int]:
    return roi.name, len(roi.contours), sum(map(len, roi.contours))


class TestRealStructures:
    def test_eclipse_study(self, dicom_rt_data: Path) -> None:
        path = dicom_rt_data / "eclipse_prostate" / "RS.dcm"
        found = read_rtstruct(path)
        assert [(*drawn(roi), roi.number, roi.interpreted_type) for roi in found.rois] == [
            ("BODY", 92, 47848, 1, "EXTERNAL"),
            ("Bladder", 21, 2152, 2, "ORGAN"),
            ("Femoral Head Lt", 19, 1380, 3, "ORGAN"),
            ("Femoral Head RT", 18, 1342, 4, "ORGAN"),
            ("PTV", 20, 1404, 5, "PTV"),
            ("Rectum", 40, 1594, 6, "ORGAN"),
        ]
        assert all(not roi.skipped for roi in found.rois) and found.notes == ()
        image = pydicom.dcmread(sorted(path.parent.glob("CT.*.dcm"))[0], stop_before_pixels=True)
        assert found.frame_of_reference == image.FrameOfReferenceUID
        assert found.series_uids == (image.SeriesInstanceUID,)
        assert image.SOPInstanceUID in found.sop_uids and len(found.sop_uids) == 96

    def test_coordinates_are_those_of_pydicom_in_ras(self, dicom_rt_data: Path) -> None:
        path = dicom_rt_data / "eclipse_prostate" / "RS.dcm"
        rectum = read_rtstruct(path).rois[5].contours
        truth = pydicom.dcmread(path).ROIContourSequence[5].ContourSequence
        for corners, expected in zip(rectum, truth, strict=True):
            np.testing.assert_array_equal(
                lps_from_ras(corners), np.array(expected.ContourData, dtype=float).reshape(-1, 3)
            )

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("rs_contourdata_not_multiple_of_3", ("PTV", 19, 1366, {"coordinates not a multiple of 3": 1})),
            ("rs_open_planar", ("PTV", 19, 1366, {"open contour": 1})),
            ("rs_point_contour", ("PTV", 19, 1366, {"point": 1})),
            ("rs_no_contour_sequence", ("Bladder", 0, 0, {})),
            ("rs_empty_roi_name", ("", 21, 2152, {})),
            ("rs_duplicate_roi_names", ("PTV", 21, 2152, {})),
            ("rs_roi_name_path_traversal", ("../../../tmp/evil", 21, 2152, {})),
            ("rs_contours_between_slices", ("PTV", 20, 1404, {})),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_one_defect_leaves_all_other_structures(
        self, dicom_rt_data: Path, name: str, expected: tuple[str, int, int, dict]
    ) -> None:
        found = read_rtstruct(dicom_rt_data / "one_defect_files" / f"{name}.dcm")
        assert len(found.rois) == 6
        assert expected in [(*drawn(roi), roi.skipped) for roi in found.rois]
        assert sum(bool(roi.contours) for roi in found.rois) == 6 - (expected[1] == 0)
        for reason in expected[3]:
            assert f"structure 'PTV': contours skipped: 1 x {reason}" in found.notes

    def test_another_frame_of_reference_is_told(self, dicom_rt_data: Path) -> None:
        right = read_rtstruct(dicom_rt_data / "eclipse_prostate" / "RS.dcm")
        wrong = read_rtstruct(dicom_rt_data / "one_defect_files" / "rs_wrong_frame_of_reference.dcm")
        assert wrong.frame_of_reference != right.frame_of_reference
        assert right.frame_of_reference not in {roi.frame_of_reference for roi in wrong.rois}

    @pytest.mark.parametrize("name", ["ct_empty", "ct_garbage", "ct_truncated", "ct_no_ipp", "rd_wrong_for"])
    def test_other_files_are_refused(self, dicom_rt_data: Path, name: str) -> None:
        with pytest.raises(CaseError, match=f"{name}.dcm: .*(is empty|no DICOM|truncated|no RTSTRUCT)"):
            read_rtstruct(dicom_rt_data / "one_defect_files" / f"{name}.dcm")


class TestEncodings:
    @pytest.mark.parametrize(
        "syntax",
        [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian],
        ids=lambda uid: uid.name,
    )
    @pytest.mark.parametrize("undefined", [False, True], ids=["lengths", "delimiters"])
    def test_all_say_the_same(
        self, read: Callable[[Dataset], StructureSet], syntax: pydicom.uid.UID, undefined: bool
    ) -> None:
        ds = structure_set("Bladder", "Rectum")
        ds.file_meta.TransferSyntaxUID = syntax
        for keyword in ("StructureSetROISequence", "ROIContourSequence"):
            ds[keyword].is_undefined_length = undefined
            for entry in ds[keyword].value:
                entry.is_undefined_length_sequence_item = undefined
        found = read(ds)
        assert [drawn(roi) for roi in found.rois] == [("Bladder", 10, 40), ("Rectum", 10, 40)]
        np.testing.assert_array_equal(lps_from_ras(found.rois[1].contours[2]), np.add(SQUARE, [0, 2, 5.0]))
        assert (found.frame_of_reference, found.series_uids, found.sop_uids) == (FRAME, (SERIES,), {IMAGE})
        assert (found.label, found.sop_uid, found.notes) == ("PLAN A", "1.2.3", ())

    def test_contour_longer_than_a_short_value(self, read: Callable[[Dataset], StructureSet]) -> None:
        """Above 64 kB explicit files hold the coordinates as UN with a long length."""
        circle = [(100 * np.cos(a), 100 * np.sin(a), 0) for a in np.linspace(0, 6.28, 5000)]
        with pytest.warns(UserWarning, match="64 kByte"):
            found = read(structure_set("BODY", contours={1: [contour(circle)]}))
        np.testing.assert_allclose(lps_from_ras(found.rois[0].contours[0]), circle, atol=5.1e-4)

    @pytest.mark.parametrize(
        "text",
        [
            b"0\\0\\1\\9\\0\\1\\9\\9\\1",
            b" 0.0 \\0\\ +1\\9e0\\0\\1.\\9\\ 9\\1 ",
            b"0\\-0\\1\\9\\0\\1\\9\\9\\1\0",
        ],
        ids=["plain", "spaces, signs, exponents", "padded with zero"],
    )
    def test_forms_of_numbers(self, read: Callable[[Dataset], StructureSet], text: bytes) -> None:
        corners = read(structure_set("PTV", contours={1: [contour(text)]})).rois[0].contours[0]
        np.testing.assert_array_equal(lps_from_ras(corners), [(0, 0, 1), (9, 0, 1), (9, 9, 1)])

    def test_images_named_by_the_contours_only(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("PTV", contours={1: [contour(ContourImageSequence=[item(ReferencedSOPInstanceUID="1.9")])]})
        del ds.ReferencedFrameOfReferenceSequence
        found = read(ds)
        assert (found.sop_uids, found.series_uids, found.frame_of_reference) == ({"1.9"}, (), FRAME)


class TestContours:
    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            (contour([SQUARE[0]], "POINT"), "point"),
            (contour(kind="OPEN_PLANAR"), "open contour"),
            (contour(kind="OPEN_NONPLANAR"), "open contour"),
            (contour(kind="CLOSED_PLANAS"), "unknown geometric type"),
            (contour(SQUARE[:2]), "fewer than 3 points"),
            (contour([]), "fewer than 3 points"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\9\\1\\5"), "coordinates not a multiple of 3"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\x\\1"), "unreadable coordinates"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\1_0\\1"), "unreadable coordinates"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\1,5\\1"), "unreadable coordinates"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\\\1"), "unreadable coordinates"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\9\\1\\"), "unreadable coordinates"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\nan\\1"), "impossible coordinates"),
            (contour(b"0\\0\\1\\9\\0\\1\\9\\1e300\\1"), "impossible coordinates"),
            (contour(ContourOffsetVector=[0, 0, 5]), "contour with an offset"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_unusable_ones_are_skipped_and_counted(
        self, read: Callable[[Dataset], StructureSet], bad: Dataset, reason: str
    ) -> None:
        found = read(structure_set("Bladder", "PTV", contours={2: [contour(), bad, contour()]}))
        assert drawn(found.rois[0]) == ("Bladder", 10, 40)
        assert drawn(found.rois[1]) == ("PTV", 2, 8)
        assert found.rois[1].skipped == {reason: 1}
        assert found.notes == (f"structure 'PTV': contours skipped: 1 x {reason}",)

    @pytest.mark.parametrize("kind", ["CLOSED_PLANAR", "CLOSEDPLANAR_XOR", "closed_planar "])
    def test_kinds_read_as_closed(self, read: Callable[[Dataset], StructureSet], kind: str) -> None:
        with pydicom.config.disable_value_validation():
            ds = structure_set("PTV", contours={1: [contour(kind=kind)]})
        assert drawn(read(ds).rois[0]) == ("PTV", 1, 4)

    def test_other_number_of_points_than_stated(self, read: Callable[[Dataset], StructureSet]) -> None:
        found = read(structure_set("PTV", contours={1: [contour(), contour(NumberOfContourPoints=5)]}))
        assert drawn(found.rois[0]) == ("PTV", 2, 8)
        assert found.notes == ("structure 'PTV': 1 contours hold another number of points than they state",)


class TestStructures:
    NAMES = ("", "PTV", "PTV", "ptv", "Größe Prüfling 膀胱", "../../etc/passwd", "con", "x" * 64)

    def test_every_name_is_kept_as_written(self, read: Callable[[Dataset], StructureSet]) -> None:
        found = read(structure_set(*self.NAMES))
        assert [drawn(roi) for roi in found.rois] == [(name, 10, 40) for name in self.NAMES]
        assert found.notes == ("the structure of ROI number 1 has no name",)

    def test_name_with_a_backslash(self, read: Callable[[Dataset], StructureSet]) -> None:
        assert read(structure_set("PTV\\boost")).rois[0].name == "PTV\\boost"

    def test_not_drawn(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder", "Rectum", "PTV")
        del ds.ROIContourSequence[2]
        del ds.ROIContourSequence[0].ContourSequence
        found = read(ds)
        assert [drawn(roi) for roi in found.rois] == [("Bladder", 0, 0), ("Rectum", 10, 40), ("PTV", 0, 0)]
        assert found.notes == ("structure 'Bladder' is not drawn", "structure 'PTV' is not drawn")

    def test_nothing_drawn_at_all(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder")
        del ds.ROIContourSequence
        found = read(ds)
        assert [drawn(roi) for roi in found.rois] == [("Bladder", 0, 0)]
        assert found.notes == ("no structure is drawn (ROIContourSequence is missing or empty)",)

    def test_contours_of_an_unlisted_number_belong_to_nobody(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder", "Rectum")
        ds.ROIContourSequence[1].ReferencedROINumber = 77
        found = read(ds)
        assert [drawn(roi) for roi in found.rois] == [("Bladder", 10, 40), ("Rectum", 0, 0), ("", 0, 0)]
        assert found.rois[2].skipped == {"ROI number not listed": 10}
        assert found.notes == (
            "structure 'Rectum' is not drawn",
            "contours of ROI number 77, which is not listed, are left out",
        )

    @pytest.mark.parametrize("sequence", ["StructureSetROISequence", "ROIContourSequence"])
    def test_number_used_twice_gives_nobody_the_wrong_contours(
        self, read: Callable[[Dataset], StructureSet], sequence: str
    ) -> None:
        ds = structure_set("Bladder", "Rectum", "PTV")
        keyword = "ROINumber" if sequence == "StructureSetROISequence" else "ReferencedROINumber"
        setattr(ds[sequence].value[1], keyword, 3)
        found = read(ds)
        assert {roi.name: len(roi.contours) for roi in found.rois if roi.name} == {"Bladder": 10, "Rectum": 0, "PTV": 0}
        assert sum(roi.skipped.get("ROI number not unique", 0) for roi in found.rois) == 20
        assert any("'PTV' is left empty" in note for note in found.notes)

    def test_a_second_item_without_contours_takes_none_away(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder", "Rectum")
        empty = Dataset()
        empty.ReferencedROINumber = 1
        ds.ROIContourSequence.append(empty)
        assert [len(roi.contours) for roi in read(ds).rois] == [10, 10]

    @pytest.mark.parametrize("text", ["", "one"])
    def test_unreadable_number(self, read: Callable[[Dataset], StructureSet], text: str) -> None:
        ds = structure_set("Bladder", "Rectum")
        ds.StructureSetROISequence[0].add_new("ROINumber", "LO", text)
        found = read(ds)
        assert [(roi.number, *drawn(roi)) for roi in found.rois[:2]] == [(-1, "Bladder", 0, 0), (2, "Rectum", 10, 40)]
        assert "contours of ROI number 1, which is not listed, are left out" in found.notes

    def test_contradicting_types(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder", "PTV")
        ds.RTROIObservationsSequence[1].ReferencedROINumber = 1
        ds.RTROIObservationsSequence[1].RTROIInterpretedType = "PTV"
        found = read(ds)
        assert [roi.interpreted_type for roi in found.rois] == ["", ""]
        assert found.notes == ("no structure has a readable type (RTROIInterpretedType)",)

    @pytest.mark.parametrize(
        ("kind", "note"),
        [
            ("", None),
            ("DOSE_REGION", None),
            ("GLAND", "structure 'PTV' has a type that DICOM does not know (RTROIInterpretedType)"),
            ("Doe^Jane", "structure 'PTV' has no readable type (RTROIInterpretedType)"),
        ],
    )
    def test_types(self, read: Callable[[Dataset], StructureSet], kind: str, note: str | None) -> None:
        ds = structure_set("Bladder", "PTV")
        ds.RTROIObservationsSequence[1].add_new("RTROIInterpretedType", "LO", kind)  # CS allows no small letters
        found = read(ds)
        assert [roi.interpreted_type for roi in found.rois] == ["ORGAN", "" if "^" in kind else kind]
        assert found.notes == ((note,) if note else ())

    def test_structure_without_observation(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder", "PTV")
        del ds.RTROIObservationsSequence[1]
        assert read(ds).notes == ("structure 'PTV' has no readable type (RTROIInterpretedType)",)

    def test_name_in_another_character_set_than_declared(self, tmp_path: Path) -> None:
        path = tmp_path / "RS.dcm"
        structure_set("Prost_ta", "PTV").save_as(path, enforce_file_format=True)
        path.write_bytes(path.read_bytes().replace(b"Prost_ta", b"Prost\xe4ta"))
        found = read_rtstruct(path)
        assert [drawn(roi) for roi in found.rois] == [("Prost\ufffdta", 10, 40), ("PTV", 10, 40)]
        assert found.notes == ("the name of structure 'Prost\ufffdta' cannot be decoded in full",)

    def test_two_frames_of_reference(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("Bladder", "Rectum", "PTV")
        ds.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.99"
        found = read(ds)
        assert found.frame_of_reference == FRAME
        assert [roi.frame_of_reference for roi in found.rois] == [FRAME, "1.2.99", FRAME]
        assert found.notes == ("structures lie in 2 frames of reference",)


class TestRefusals:
    def test_no_structures(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set()
        with pytest.raises(CaseError, match="RS.dcm: has no structures"):
            read(ds)

    def test_another_modality(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("PTV")
        ds.SOPClassUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.481.2", "RTDOSE"
        with pytest.raises(CaseError, match=r"is no RTSTRUCT \(its Modality is RTDOSE\)"):
            read(ds)

    def test_a_text_where_a_sequence_belongs(self, read: Callable[[Dataset], StructureSet]) -> None:
        ds = structure_set("PTV")
        del ds.ROIContourSequence
        ds.add_new("ROIContourSequence", "UT", "Doe^Jane")
        with pytest.raises(CaseError, match="its ROIContourSequence is no sequence") as caught:
            read(ds)
        assert "Doe" not in str(caught.value)

    def test_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(CaseError, match="nowhere.dcm"):
            read_rtstruct(tmp_path / "nowhere.dcm")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound file."""
    path = tmp_path_factory.mktemp("mutations") / "whole.dcm"
    structure_set("Bladder", "Rectum", "PTV").save_as(path, enforce_file_format=True)
    return path


class TestMutations:
    """Damaged bytes end in an error, in a remark, or in the same structures with other numbers."""

    @pytest.mark.parametrize("sixteenths", range(16))
    def test_truncated_anywhere(self, whole: Path, tmp_path: Path, sixteenths: int) -> None:
        path = tmp_path / "cut.dcm"
        data = whole.read_bytes()
        path.write_bytes(data[: len(data) * sixteenths // 16])
        with pytest.raises(CaseError, match="cut.dcm"):
            read_rtstruct(path)

    @pytest.mark.parametrize("seed", range(4))
    def test_changed_bytes_lose_no_structure_in_silence(self, whole: Path, tmp_path: Path, seed: int) -> None:
        rng, data, path = random.Random(seed), whole.read_bytes(), tmp_path / "mutated.dcm"
        truth = [len(roi.contours) for roi in read_rtstruct(whole).rois]
        outcomes = dict.fromkeys(("refused", "remarked", "same"), 0)
        for _ in range(50):
            mutated = bytearray(data)
            for _ in range(rng.choice([1, 1, 3])):
                mutated[rng.randrange(len(mutated))] = rng.randrange(256)
            path.write_bytes(mutated)
            try:
                found = read_rtstruct(path)
            except CaseError as error:
                assert "Doe" not in str(error) and "4711" not in str(error)
                outcomes["refused"] += 1
                continue
            same = [len(roi.contours) for roi in found.rois] == truth
            assert same or found.notes, "structures were lost without a word"
            outcomes["same" if same else "remarked"] += 1
        assert outcomes["refused"] and outcomes["same"]
