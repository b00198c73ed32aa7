"""Masks -> DICOM SEG: every voxel, overlaps and empty structures, on the slices of the CT."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mtl_med.errors import CaseError, UsageError
from mtl_med.geometry import lps_from_ras, reorient
from mtl_med.io.dicom_reference import CtReference, find_ct_series
from mtl_med.io.dicom_seg import require_highdicom, write_seg
from tests.io.small_ct import AXIAL, FRAME_UID, SERIES_UID, SHAPE, STUDY_UID, dciodvfy_errors, write_ct

WHEN = datetime(2026, 1, 2, 3, 4, 5)
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = (COS, SIN * COS, SIN * SIN, -SIN, COS * COS, COS * SIN)


@pytest.fixture
def highdicom(require_judge) -> str:
    """The extra `dicom`."""
    return require_judge("highdicom")


@pytest.fixture
def ct(tmp_path: Path) -> CtReference:
    write_ct(tmp_path / "ct")
    return find_ct_series(tmp_path / "ct")[SERIES_UID]


def masks() -> dict[str, np.ndarray]:
    x, y, z = np.indices(SHAPE)
    distance = np.hypot(x - 24, y - 20)
    middle = (z > 2) & (z < 9)
    return {
        "Rectum": middle & (distance < 15) & (distance > 6),
        "PTV60": middle & (distance < 10),
        "Bladder": distance < 0,
        "Some thing": (np.random.default_rng(0).random(SHAPE) < 0.5) & (z != 5),
    }


def decoded(path: Path, ct: CtReference) -> dict[str, np.ndarray]:
    """Segment label -> mask, from the bits of the file and the places of its frames."""
    read = pydicom.dcmread(path)
    bits = np.unpackbits(np.frombuffer(read.PixelData, dtype=np.uint8), bitorder="little")
    frames = bits[: read.NumberOfFrames * read.Rows * read.Columns].reshape(-1, read.Rows, read.Columns)
    labels = {int(item.SegmentNumber): item.SegmentLabel for item in read.SegmentSequence}
    found = {label: np.zeros(ct.shape, dtype=bool) for label in labels.values()}
    origins = lps_from_ras(np.stack([item.origin for item in ct.slices]))
    shared = read.SharedFunctionalGroupsSequence[0]
    for frame, groups in zip(frames, read.PerFrameFunctionalGroupsSequence, strict=True):
        segment = groups.get("SegmentIdentificationSequence") or shared.SegmentIdentificationSequence
        place = np.array([float(mm) for mm in groups.PlanePositionSequence[0].ImagePositionPatient])
        distances = np.linalg.norm(origins - place, axis=1)
        assert distances.min() < 1e-5
        found[labels[int(segment[0].ReferencedSegmentNumber)]][:, :, int(distances.argmin())] |= frame.T > 0
    return found


@pytest.mark.parametrize("orientation", [AXIAL, (-1, 0, 0, 0, 1, 0), OBLIQUE], ids=["HFS", "FFS", "oblique"])
def test_the_masks_come_back(highdicom: str, tmp_path: Path, orientation: tuple[float, ...]) -> None:
    write_ct(tmp_path / "ct", orientation=orientation)
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    turned = {name: reorient(mask, ct.grid, "RAS") for name, mask in masks().items()}
    write_seg(tmp_path / "seg.dcm", {name: pair[0] for name, pair in turned.items()}, turned["PTV60"][1], ct)
    found = decoded(tmp_path / "seg.dcm", ct)
    assert list(found) == list(masks())
    for name, mask in masks().items():
        assert np.array_equal(found[name], mask), name


def test_dciodvfy_finds_no_error(highdicom: str, require_judge, tmp_path: Path, ct: CtReference) -> None:
    judge = require_judge("dciodvfy")
    for name, structures in (("all", masks()), ("one", {"PTV60": masks()["PTV60"]}), ("none", {"x": np.zeros(SHAPE)})):
        write_seg(tmp_path / f"{name}.dcm", structures, ct.grid, ct)
        assert dciodvfy_errors(judge, tmp_path / f"{name}.dcm") == []


def test_what_the_file_says(highdicom: str, tmp_path: Path, ct: CtReference) -> None:
    uid = write_seg(tmp_path / "seg.dcm", masks(), ct.grid, ct, when=WHEN)
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (read.SOPInstanceUID, read.Modality, read.SegmentationType) == (uid, "SEG", "BINARY")
    assert (read.PatientID, read.StudyInstanceUID, read.FrameOfReferenceUID) == ("P1", STUDY_UID, FRAME_UID)
    assert read.SeriesInstanceUID != SERIES_UID
    assert (read.ContentDate, read.ContentTime) == ("20260102", "030405")
    assert "Research use only" in read.ContentDescription
    assert {item.SegmentAlgorithmType for item in read.SegmentSequence} == {"AUTOMATIC"}
    kinds = [item.SegmentedPropertyTypeCodeSequence[0].CodeMeaning for item in read.SegmentSequence]
    assert kinds == ["Rectum", "Planning target volume", "Bladder", "Anatomical Structure"]
    used = {item.ReferencedSOPInstanceUID for item in read.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert used <= {item.sop_uid for item in ct.slices}


def test_left_and_right_are_told_by_code(highdicom: str, require_judge, tmp_path: Path, ct: CtReference) -> None:
    """A viewer that shows codes must not show two heads of femur that are one and the same."""
    mask = masks()["PTV60"]
    write_seg(
        tmp_path / "seg.dcm", dict.fromkeys(("Femur_Head_L", "Femur_Head_R", "PTV_L", "Bladder"), mask), ct.grid, ct
    )
    found = {}
    for item in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence:
        kind = item.SegmentedPropertyTypeCodeSequence[0]
        sides = kind.get("SegmentedPropertyTypeModifierCodeSequence", [])
        found[item.SegmentLabel] = [kind.CodeValue, *((side.CodeValue, side.CodeMeaning) for side in sides)]
    assert found["Femur_Head_L"] == ["2812003", ("7771000", "Left")]
    assert found["Femur_Head_R"] == ["2812003", ("24028007", "Right")]
    assert [len(found[name]) for name in ("PTV_L", "Bladder")] == [1, 1]
    assert dciodvfy_errors(require_judge("dciodvfy"), tmp_path / "seg.dcm") == []


def test_no_structure_with_a_voxel(
    highdicom: str, tmp_path: Path, ct: CtReference, caplog: pytest.LogCaptureFixture
) -> None:
    write_seg(tmp_path / "seg.dcm", {"x": np.zeros(SHAPE), "y": np.zeros(SHAPE)}, ct.grid, ct)
    assert not any(mask.any() for mask in decoded(tmp_path / "seg.dcm", ct).values())
    assert not caplog.records


def test_an_enhanced_ct(highdicom: str, require_judge, tmp_path: Path) -> None:
    judge = require_judge("dciodvfy")
    write_ct(tmp_path / "ct", enhanced=True)
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    write_seg(tmp_path / "seg.dcm", masks(), ct.grid, ct)
    found = decoded(tmp_path / "seg.dcm", ct)
    assert all(np.array_equal(found[name], mask) for name, mask in masks().items())
    assert dciodvfy_errors(judge, tmp_path / "seg.dcm") == []


def test_a_ct_with_a_poor_header(highdicom: str, require_judge, tmp_path: Path) -> None:
    """What highdicom would stumble over, such as a missing study date, is left empty."""
    judge = require_judge("dciodvfy")
    missing = dict.fromkeys(("StudyDate", "StudyID", "AccessionNumber", "PatientSex", "SliceThickness"))
    write_ct(tmp_path / "ct", **missing)
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    write_seg(tmp_path / "seg.dcm", masks(), ct.grid, ct)
    assert dciodvfy_errors(judge, tmp_path / "seg.dcm") == []


def test_equal_seeds_give_equal_bytes(highdicom: str, tmp_path: Path, ct: CtReference) -> None:
    for name in ("a", "b"):
        write_seg(tmp_path / name, masks(), ct.grid, ct, seed="s", when=WHEN)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_highdicom_refuses_is_told(highdicom: str, tmp_path: Path, ct: CtReference, monkeypatch) -> None:
    import highdicom as library

    def refuse(**_: object) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(library.seg, "Segmentation", refuse)
    with pytest.raises(CaseError, match="highdicom cannot make a segmentation on this CT: no such thing"):
        write_seg(tmp_path / "seg.dcm", masks(), ct.grid, ct)


def test_without_highdicom(tmp_path: Path, ct: CtReference, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError, match=r"DICOM SEG needs highdicom .* pip install 'mtl_med\[dicom\]'"):
        require_highdicom()
    with pytest.raises(UsageError, match="highdicom"):
        write_seg(tmp_path / "seg.dcm", masks(), ct.grid, ct)
    assert not (tmp_path / "seg.dcm").exists()


def test_no_structures(highdicom: str, tmp_path: Path, ct: CtReference) -> None:
    with pytest.raises(UsageError, match="without structures"):
        write_seg(tmp_path / "seg.dcm", {}, ct.grid, ct)
