"""Masks -> RTSTRUCT -> the same masks, as plastimatch and plain geometry read them; and what the file says besides."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from mtl_med.errors import UsageError
from mtl_med.geometry import Grid, lps_from_ras, reorient
from mtl_med.io.dicom_reference import CtReference, find_ct_series
from mtl_med.io.rtstruct_writer import interpreted_type, unique_labels, write_rtstruct
from tests.io.small_ct import (
    FRAME_UID,
    SERIES_UID,
    SHAPE,
    STUDY_UID,
    contours,
    dciodvfy_errors,
    plastimatch_masks,
    write_ct,
)

WHEN = datetime(2026, 1, 2, 3, 4, 5)
COS, SIN = np.cos(0.3), np.sin(0.3)
OBLIQUE = (COS, SIN * COS, SIN * SIN, -SIN, COS * COS, COS * SIN)


@pytest.fixture
def ct(tmp_path: Path) -> CtReference:
    write_ct(tmp_path / "ct")
    return find_ct_series(tmp_path / "ct")[SERIES_UID]


def masks(shape: tuple[int, int, int] = SHAPE) -> dict[str, np.ndarray]:
    """A ring with an island in its hole, a target that overlaps it, an outline, noise, and nothing."""
    x, y, z = np.indices(shape)
    distance = np.hypot(x - 24, y - 20)
    middle = (z > 2) & (z < 9)
    return {
        "Rectum": middle & ((distance < 15) & (distance > 6) | (distance < 3)),
        "PTV60": middle & (distance < 10),
        "External": distance < 19,
        "Noise": (z > 5) & (z < 8) & (np.random.default_rng(0).random(shape) < 0.5),
        "Bladder": distance < 0,
    }


def even_odd(path: Path, ct: CtReference) -> dict[str, np.ndarray]:
    """The masks that the contours in a file describe: pixel centres inside an odd number of them, by plain geometry."""
    from matplotlib.path import Path as Outline

    origins = lps_from_ras(np.stack([item.origin for item in ct.slices]))
    inverse = np.linalg.inv(np.diag([-1.0, -1.0, 1.0]) @ ct.steps)
    x, y = np.meshgrid(np.arange(ct.shape[0]), np.arange(ct.shape[1]), indexing="ij")
    centres = np.column_stack([x.ravel(), y.ravel()])
    found = {}
    for name, polygons in contours(path).items():
        mask = np.zeros(ct.shape, dtype=int)
        for points in polygons:
            off_plane = [np.abs((points - origin) @ inverse[2]).max() for origin in origins]
            k = int(np.argmin(off_plane))
            assert off_plane[k] < 1e-6, "every point lies in the plane of its slice"
            indices = (points - origins[k]) @ inverse.T
            mask[:, :, k] += Outline(indices[:, :2]).contains_points(centres).reshape(x.shape)
        found[name] = mask % 2 == 1
    return found


def test_the_contour_of_one_voxel(tmp_path: Path, ct: CtReference) -> None:
    """Voxel (3, 4, 5) of 1.5 x 2 x 3 mm, the first one at (-30.25, 12.5, -81) mm LPS."""
    mask = np.zeros(SHAPE)
    mask[3, 4, 5] = 1
    write_rtstruct(tmp_path / "rs.dcm", {"x": mask}, ct.grid, ct)
    (points,) = contours(tmp_path / "rs.dcm")["x"]
    assert set(map(tuple, points)) == {(x, y, -66.0) for x in (-26.5, -25.0) for y in (19.5, 21.5)}
    assert len(points) == 4


@pytest.mark.parametrize("holes", ["keyhole", "separate"])
def test_plain_geometry_reads_the_masks(tmp_path: Path, ct: CtReference, holes: str) -> None:
    write_rtstruct(tmp_path / "rs.dcm", masks(), ct.grid, ct, holes=holes)
    found = even_odd(tmp_path / "rs.dcm", ct)
    for name, mask in masks().items():
        assert np.array_equal(found[name], mask), name


@pytest.mark.parametrize("options", [(), ("--xor-contours",)], ids=["union", "xor"])
def test_plastimatch_reads_the_masks(require_judge, tmp_path: Path, ct: CtReference, options: tuple[str, ...]) -> None:
    """Whether it unites contours or counts crossings, holes and the island in one are where they were."""
    judge = require_judge("plastimatch")
    write_rtstruct(tmp_path / "rs.dcm", masks(), ct.grid, ct)
    found = plastimatch_masks(judge, tmp_path / "ct", tmp_path / "rs.dcm", tmp_path / "out", *options)
    for name in ("Rectum", "PTV60", "External", "Noise"):
        assert np.array_equal(found[name], masks()[name]), name


def test_a_union_of_separate_holes_would_fill_them(require_judge, tmp_path: Path, ct: CtReference) -> None:
    """Why keyholes are the default."""
    judge = require_judge("plastimatch")
    write_rtstruct(tmp_path / "rs.dcm", masks(), ct.grid, ct, holes="separate")
    found = plastimatch_masks(judge, tmp_path / "ct", tmp_path / "rs.dcm", tmp_path / "out")
    assert found["Rectum"].sum() > masks()["Rectum"].sum()


@pytest.mark.parametrize(
    "orientation",
    [(-1, 0, 0, 0, -1, 0), (-1, 0, 0, 0, 1, 0), (0, 1, 0, -1, 0, 0), (0, -1, 0, 1, 0, 0), (0, 1, 0, 0, 0, -1), OBLIQUE],
    ids=["HFP", "FFS", "HFDL", "HFDR", "sagittal", "oblique"],
)
def test_every_orientation(tmp_path: Path, orientation: tuple[float, ...]) -> None:
    write_ct(tmp_path / "ct", orientation=orientation)
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    turned = {name: reorient(mask, ct.grid, "RAS") for name, mask in masks().items()}
    grid = turned["Rectum"][1]
    write_rtstruct(tmp_path / "rs.dcm", {name: pair[0] for name, pair in turned.items()}, grid, ct)
    found = even_odd(tmp_path / "rs.dcm", ct)
    for name, mask in masks().items():
        assert np.array_equal(found[name], mask), name


def test_contours_lie_on_uneven_slices(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct", offsets_mm=[0, 3, 6, 9, 12, 13, 14, 15, 18, 24, 27, 30])
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    grid = Grid((*SHAPE[:2], 31), ct.slice_grid(0).affine)
    mask = np.zeros(grid.shape, dtype=bool)
    mask[10:30, 10:25, 8:20] = True
    write_rtstruct(tmp_path / "rs.dcm", {"x": mask}, grid, ct)
    found = even_odd(tmp_path / "rs.dcm", ct)["x"]
    assert np.flatnonzero(found.any(axis=(0, 1))).tolist() == [3, 4, 5, 6, 7, 8]
    assert all(np.array_equal(found[:, :, k], mask[:, :, 9]) for k in range(3, 9))


def test_dciodvfy_finds_no_error(require_judge, tmp_path: Path, ct: CtReference) -> None:
    judge = require_judge("dciodvfy")
    structures = masks() | {"x" * 80: masks()["PTV60"], "Öhr\\links": masks()["PTV60"]}
    write_rtstruct(tmp_path / "rs.dcm", structures, ct.grid, ct)
    assert dciodvfy_errors(judge, tmp_path / "rs.dcm") == []


def test_what_the_file_says(tmp_path: Path, ct: CtReference) -> None:
    uid = write_rtstruct(tmp_path / "rs.dcm", masks(), ct.grid, ct, when=WHEN)
    read = pydicom.dcmread(tmp_path / "rs.dcm")
    assert (read.SOPInstanceUID, read.Modality, read.ApprovalStatus) == (uid, "RTSTRUCT", "UNAPPROVED")
    assert (read.StructureSetDate, read.StructureSetTime) == ("20260102", "030405")
    assert "Research use only" in read.StructureSetDescription
    assert (read.PatientID, read.StudyInstanceUID) == ("P1", STUDY_UID)
    assert read.SeriesInstanceUID != SERIES_UID
    assert [roi.ROIName for roi in read.StructureSetROISequence] == list(masks())
    assert {roi.ROIGenerationAlgorithm for roi in read.StructureSetROISequence} == {"AUTOMATIC"}
    assert {roi.ReferencedFrameOfReferenceUID for roi in read.StructureSetROISequence} == {FRAME_UID}
    types = [item.RTROIInterpretedType for item in read.RTROIObservationsSequence]
    assert types == ["ORGAN", "PTV", "EXTERNAL", "ORGAN", "ORGAN"]


def test_references_to_the_ct(tmp_path: Path, ct: CtReference) -> None:
    write_rtstruct(tmp_path / "rs.dcm", masks(), ct.grid, ct)
    read = pydicom.dcmread(tmp_path / "rs.dcm")
    (frame,) = read.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert (frame.FrameOfReferenceUID, series.SeriesInstanceUID) == (FRAME_UID, SERIES_UID)
    place = {item.sop_uid: item.origin[2] for item in ct.slices}
    assert [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence] == list(place)
    for roi in read.ROIContourSequence:
        for number, contour in enumerate(roi.get("ContourSequence", []), start=1):
            (image,) = contour.ContourImageSequence
            assert float(contour.ContourData[2]) == pytest.approx(place[image.ReferencedSOPInstanceUID])
            assert (contour.ContourNumber, contour.ContourGeometricType) == (number, "CLOSED_PLANAR")
            assert contour.NumberOfContourPoints * 3 == len(contour.ContourData)


def test_slices_of_an_enhanced_ct_are_named_by_frame(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct", enhanced=True)
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    write_rtstruct(tmp_path / "rs.dcm", {"x": masks()["PTV60"]}, ct.grid, ct)
    read = pydicom.dcmread(tmp_path / "rs.dcm")
    frames = [item.ContourImageSequence[0].ReferencedFrameNumber for item in read.ROIContourSequence[0].ContourSequence]
    assert frames == [9, 8, 7, 6, 5, 4], "the last slice is the first frame"


def test_numbers_fit_into_decimal_strings(tmp_path: Path) -> None:
    write_ct(tmp_path / "ct", orientation=OBLIQUE, spacing_mm=(0.9765625, 1 / 3, 3.0))
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    write_rtstruct(tmp_path / "rs.dcm", {"x": masks()["Rectum"]}, ct.grid, ct)
    read = pydicom.dcmread(tmp_path / "rs.dcm")
    for contour in read.ROIContourSequence[0].ContourSequence:
        raw = contour.get_item("ContourData").value
        assert len(raw) % 2 == 0
        assert max(map(len, raw.split(b"\\"))) <= 16


def test_a_contour_of_more_than_64_kilobytes(tmp_path: Path) -> None:
    """Explicit transfer syntaxes count the bytes of a contour in 16 bits; ours must not."""
    write_ct(tmp_path / "ct", shape=(90, 80, 1))
    ct = find_ct_series(tmp_path / "ct")[SERIES_UID]
    maze = np.random.default_rng(1).random(ct.shape) < 0.7
    write_rtstruct(tmp_path / "rs.dcm", {"x": maze}, ct.grid, ct)
    read = pydicom.dcmread(tmp_path / "rs.dcm")
    sizes = [len(item.get_item("ContourData").value) for item in read.ROIContourSequence[0].ContourSequence]
    assert max(sizes) > 65536
    assert np.array_equal(even_odd(tmp_path / "rs.dcm", ct)["x"], maze)


def test_equal_seeds_give_equal_bytes(tmp_path: Path, ct: CtReference) -> None:
    for name, seed in (("a", "s"), ("b", "s"), ("c", "")):
        write_rtstruct(tmp_path / name, {"x": masks()["Rectum"]}, ct.grid, ct, seed=seed, when=WHEN)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert pydicom.dcmread(tmp_path / "a").SOPInstanceUID != pydicom.dcmread(tmp_path / "c").SOPInstanceUID


def test_names() -> None:
    long = "n" * 70
    names = ["a", "a\\", "\\", "", long, long + "!", "A"]
    labels = unique_labels(dict.fromkeys(names))
    assert list(labels) == names
    assert list(labels.values()) == ["a", "a_2", "unnamed", "unnamed_2", "n" * 64, "n" * 62 + "_2", "A"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("PTV70", "PTV"), ("CTVn_6000", "CTV"), ("GTV", "GTV"), ("ITV_x", ""), ("Body", "EXTERNAL"), ("Lens_L", "ORGAN")],
)
def test_interpreted_types(name: str, kind: str) -> None:
    assert interpreted_type(name) == kind


def test_no_structures(tmp_path: Path, ct: CtReference) -> None:
    with pytest.raises(UsageError, match="without structures"):
        write_rtstruct(tmp_path / "rs.dcm", {}, ct.grid, ct)
    assert not (tmp_path / "rs.dcm").exists()


def test_real_structures_come_back_from_plastimatch(require_judge, dicom_rt_data: Path, tmp_path: Path) -> None:
    """The structures of a clinical study, drawn by plastimatch, written by us and drawn by plastimatch again.

    Required: volume within 0.5 % and Dice 0.999 above 1 cc. Along voxel edges it is the same voxels.
    """
    judge, study = require_judge("plastimatch"), dicom_rt_data / "eclipse_prostate"
    series = tmp_path / "ct"
    series.mkdir()
    for path in study.glob("CT.*.dcm"):
        (series / path.name).symlink_to(path)
    (ct,) = find_ct_series(series).values()
    first = plastimatch_masks(judge, series, study / "RS.dcm", tmp_path / "first")
    write_rtstruct(tmp_path / "rs.dcm", first, ct.grid, ct)
    second = plastimatch_masks(judge, series, tmp_path / "rs.dcm", tmp_path / "second")
    filled = {name for name, mask in first.items() if mask.any()}
    assert len(filled) >= 5
    for name in filled:
        assert np.count_nonzero(second[name] != first[name]) == 0, name
