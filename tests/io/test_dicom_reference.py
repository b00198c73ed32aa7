"""CT series found in folders, and where their slices lie."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

from mtl_med.errors import CaseError, GeometryError, NothingFoundError
from mtl_med.geometry import Grid, same_grid
from mtl_med.io.dicom_reference import find_ct_series
from tests.io.small_ct import AXIAL, SERIES_UID, SHAPE, ras_affine, write_ct

COS, SIN = np.cos(0.3), np.sin(0.3)
ORIENTATIONS = {
    "supine": AXIAL,
    "prone": (-1, 0, 0, 0, -1, 0),
    "decubitus": (0, 1, 0, -1, 0, 0),
    "feet-first": (-1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (COS, SIN * COS, SIN * SIN, -SIN, COS * COS, COS * SIN),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("enhanced", [False, True], ids=["slices", "enhanced"])
def test_grid_of_a_ct(tmp_path: Path, orientation: str, enhanced: bool) -> None:
    affine = write_ct(tmp_path, orientation=ORIENTATIONS[orientation], enhanced=enhanced)
    (ct,) = find_ct_series(tmp_path).values()
    assert (ct.series_uid, ct.shape) == (SERIES_UID, SHAPE)
    assert ct.grid is not None
    assert same_grid(ct.grid, Grid(SHAPE, ras_affine(affine)), tolerance_mm=1e-5)
    numbers = [item.frame if enhanced else int(item.sop_uid.split(".")[-1]) for item in ct.slices]
    assert numbers == (list(range(12, 0, -1)) if enhanced else list(range(1, 13)))


def test_slices_are_ordered_by_place_and_not_by_number(tmp_path: Path) -> None:
    write_ct(tmp_path, offsets_mm=[-3.0 * k for k in range(12)])
    (ct,) = find_ct_series(tmp_path).values()
    assert [int(item.sop_uid.split(".")[-1]) for item in ct.slices] == list(range(12, 0, -1))
    assert np.linalg.det(ct.grid.affine[:3, :3]) > 0, "rows, columns and slices make a right-handed system"


@pytest.mark.parametrize(
    ("offsets_mm", "is_even"),
    [([0, 3, 6, 9], True), ([0, 3, 6, 9.05], True), ([0, 3, 6, 10], False), ([0, 3, 9, 12], False), ([5], True)],
)
def test_uneven_slices_have_no_common_grid(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offsets_mm: list[float], is_even: bool
) -> None:
    write_ct(tmp_path, shape=(6, 5, len(offsets_mm)), offsets_mm=offsets_mm)
    (ct,) = find_ct_series(tmp_path).values()
    assert (ct.grid is not None) == is_even
    assert ("slices are missing, unevenly spaced or tilted" in caplog.text) != is_even
    assert ct.pitch_mm == pytest.approx(offsets_mm[-1] / 3 if len(offsets_mm) > 1 else 3.0)


def test_other_files_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ct(tmp_path / "ct" / "deep")
    write_ct(tmp_path / "scout", SeriesInstanceUID="1.2.9", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_ct(tmp_path / "mr", SeriesInstanceUID="1.2.8", SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    (tmp_path / "notes.txt").write_text("no DICOM")
    (tmp_path / "empty.dcm").touch()
    assert list(find_ct_series(tmp_path)) == [SERIES_UID]
    assert "2 files are no readable DICOM and were passed over" in caplog.text


def test_several_series_are_told_apart(tmp_path: Path) -> None:
    write_ct(tmp_path / "a")
    write_ct(tmp_path / "b", SeriesInstanceUID="1.2.9", shape=(8, 8, 3))
    found = find_ct_series(tmp_path)
    assert {uid: ct.shape for uid, ct in found.items()} == {SERIES_UID: SHAPE, "1.2.9": (8, 8, 3)}


def test_copies_of_a_file_count_once(tmp_path: Path) -> None:
    write_ct(tmp_path / "a")
    write_ct(tmp_path / "again")
    (ct,) = find_ct_series(tmp_path).values()
    assert len(ct.slices) == SHAPE[2]


def test_a_folder_without_ct(tmp_path: Path) -> None:
    with pytest.raises(NothingFoundError, match="holds no CT images"):
        find_ct_series(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "error", "sentence"),
    [
        ({"FrameOfReferenceUID": None}, CaseError, "has no FrameOfReferenceUID"),
        ({"ImagePositionPatient": None}, CaseError, "has no ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.5, 1, 0]}, GeometryError, "ImageOrientationPatient"),
        ({"PixelSpacing": [0, 1]}, GeometryError, "PixelSpacing"),
        ({"ImagePositionPatient": [1, 2, 3]}, GeometryError, "lies where another image of its CT lies"),
    ],
)
def test_defects(tmp_path: Path, attributes: dict, error: type[Exception], sentence: str) -> None:
    write_ct(tmp_path, **attributes)
    with pytest.raises(error, match=sentence):
        find_ct_series(tmp_path)


def test_images_of_two_sizes(tmp_path: Path) -> None:
    write_ct(tmp_path / "a")
    write_ct(tmp_path / "b", shape=(8, 8, 3))
    with pytest.raises(GeometryError, match="differs from other images of its CT in size"):
        find_ct_series(tmp_path)


@pytest.mark.parametrize(
    ("keyword", "what"),
    [("PatientID", "patient"), ("StudyInstanceUID", "study"), ("FrameOfReferenceUID", "frame of reference")],
)
def test_images_of_two_patients(tmp_path: Path, keyword: str, what: str) -> None:
    """What is written takes its identity from one image, which must be that of all."""
    write_ct(tmp_path)
    path = sorted(tmp_path.iterdir())[-1]
    image = pydicom.dcmread(path)
    setattr(image, keyword, "1.2.3")
    image.save_as(path)
    with pytest.raises(CaseError, match=rf"{path.name}: belongs to another {what} than other images of its CT series"):
        find_ct_series(tmp_path)


def test_a_series_that_cannot_be_used_beside_one_that_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_ct(tmp_path / "planning")
    write_ct(tmp_path / "scout", SeriesInstanceUID="1.2.9", FrameOfReferenceUID=None, shape=(8, 8, 3))
    assert list(find_ct_series(tmp_path)) == [SERIES_UID]
    assert "a CT series cannot be used and was passed over" in caplog.text
    assert "has no FrameOfReferenceUID" in caplog.text
