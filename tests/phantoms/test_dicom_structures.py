"""RTSTRUCT of the phantoms: the truth that comes with a study is what an independent reading of its contours gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pydicom
import pytest

from mtl_med.phantoms import PelvisPhantom, make_pelvis
from mtl_med.phantoms.dicom import DicomStyle, Truth, write_dicom_study
from mtl_med.phantoms.dicom_style import VENDORS
from mtl_med.phantoms.solids import Ellipsoid

STYLES = {
    "plain": DicomStyle(),
    "ffs": DicomStyle(position="FFS"),
    "hfdr": DicomStyle(position="HFDR"),
    "oblique": DicomStyle(oblique_deg=(11.0, -7.0, 5.0)),
    "tilt": DicomStyle(gantry_tilt_deg=15.0),
    "uneven": DicomStyle(upper_pitch=1.5),
    "keyhole": DicomStyle(holes="keyhole"),
    "xor": DicomStyle(holes="xor"),
    "big-endian": DicomStyle(transfer_syntax="big-endian"),
    **{vendor: DicomStyle.like(vendor) for vendor in VENDORS},
}
FEW = ("External", "Bladder", "Bladder_Wall", "CTV", "PTV")


@pytest.fixture(scope="module")
def pelvis() -> PelvisPhantom:
    return make_pelvis(5, shape=(40, 36, 24), walls=True)


@pytest.fixture(scope="module")
def write(pelvis, tmp_path_factory):
    """Studies with few structures; the same style is written once."""
    written: dict[str, Truth] = {}

    def call(style: DicomStyle) -> Truth:
        style = replace(style, structures=style.structures or FEW)
        if repr(style) not in written:
            written[repr(style)] = write_dicom_study(pelvis, tmp_path_factory.mktemp("study"), options=style)
        return written[repr(style)]

    return call


def contours(truth: Truth) -> dict[int, list[pydicom.Dataset]]:
    ds = pydicom.dcmread(truth.files["rtstruct"][0])
    return {int(item.ReferencedROINumber): list(item.get("ContourSequence", ())) for item in ds.ROIContourSequence}


def points(contour: pydicom.Dataset) -> np.ndarray:
    return np.array(contour.ContourData, dtype=float).reshape(-1, 3) * [-1, -1, 1]


def vector_area(corners: np.ndarray) -> np.ndarray:
    """Area of a flat polygon in space times its normal."""
    here = corners - corners[0]
    return np.cross(here, np.roll(here, -1, axis=0)).sum(axis=0) / 2


@pytest.mark.parametrize("name", STYLES)
def test_told_volumes_are_those_of_the_written_contours(write, name):
    """Areas as vectors, so that holes subtract and the direction of the planes does not matter."""
    truth = write(STYLES[name])
    thickness, normal = truth.scan.thickness_mm, truth.scan.normal
    by_number = contours(truth)
    for structure, told in truth.structures.items():
        volume = 0.0
        for contour in by_number[told.number]:
            corners = points(contour)
            nearest = np.abs(truth.scan.heights_mm - (corners @ normal).mean()).argmin()
            volume += float(vector_area(corners) @ normal) * thickness[nearest]
        assert abs(volume) / 1000 == pytest.approx(told.volume_cc, rel=1e-5, abs=1e-6), structure


@pytest.mark.parametrize("name", STYLES)
def test_contours_lie_in_the_planes_of_the_images(write, name):
    truth = write(STYLES[name])
    heights = truth.scan.heights_mm
    for told in truth.structures.values():
        for corners in told.contours:
            distance = np.abs(corners @ truth.scan.normal - heights[:, None]).min(axis=0)
            assert distance.max() < (2e-2 if name == "eclipse" else 1e-3)


@pytest.mark.parametrize("name", ["plain", "ffs", "hfdr", "oblique", "tilt"])
def test_organs_are_where_their_solids_are(pelvis, tmp_path, name):
    """Fine slices: the stack of contours then is the ellipsoid, whichever way it is cut."""
    style = replace(STYLES[name], slice_spacing_mm=2.5, structures=("Bladder", "Femur_Head_L", "Femur_Head_R"))
    for structure, told in write_dicom_study(pelvis, tmp_path, options=style).structures.items():
        solid = pelvis.solids[structure]
        assert isinstance(solid, Ellipsoid)
        assert told.volume_cc * 1000 == pytest.approx(solid.volume_mm3, rel=0.01)
        assert told.centroid_ras == pytest.approx(solid.centre, abs=0.1)


def test_references_name_the_slice_of_each_contour(write):
    truth = write(DicomStyle(order="shuffled"))
    places = {}
    for path in truth.files["ct"]:
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        places[ds.SOPInstanceUID] = float(ds.ImagePositionPatient[2])
    for found in contours(truth).values():
        for contour in found:
            (image,) = contour.ContourImageSequence
            assert places[image.ReferencedSOPInstanceUID] == pytest.approx(points(contour)[0, 2], abs=1e-3)


@pytest.mark.parametrize("link", ["full", "series", "frame"])
def test_link_to_the_images_is_as_full_as_asked(write, link):
    truth = write(DicomStyle(link=link))
    ds = pydicom.dcmread(truth.files["rtstruct"][0])
    (frame,) = ds.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == truth.uids["frame"]
    assert ("RTReferencedStudySequence" in frame) is (link != "frame")
    if link != "frame":
        series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        assert series.SeriesInstanceUID == truth.uids["ct series"]
        assert len(series.get("ContourImageSequence", ())) == (24 if link == "full" else 0)
    assert all(
        ("ContourImageSequence" in one) is (link == "full") for found in contours(truth).values() for one in found
    )


def test_holes_are_contours_of_their_own_or_keyholes(write):
    counts = {}
    for holes in ("separate", "xor", "keyhole"):
        truth = write(DicomStyle(holes=holes))
        found = contours(truth)[truth.structures["Bladder_Wall"].number]
        counts[holes] = len(found)
        kinds = {contour.ContourGeometricType for contour in found}
        assert kinds <= ({"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"} if holes == "xor" else {"CLOSED_PLANAR"})
        assert ("CLOSEDPLANAR_XOR" in kinds) is (holes == "xor")
    assert counts["separate"] == counts["xor"] > counts["keyhole"]


def test_contours_may_be_closed_twice_and_rounded(write):
    truth = write(DicomStyle(repeat_first_point=True, decimals=1))
    for found in contours(truth).values():
        for contour in found:
            corners = points(contour)
            assert np.array_equal(corners[0], corners[-1])
            assert np.array_equal(corners, np.round(corners, 1))
            assert int(contour.NumberOfContourPoints) == len(corners)


@pytest.mark.parametrize(
    ("fault", "kind", "more"),
    [
        ("point", "POINT", 1),
        ("open_planar", "OPEN_PLANAR", 1),
        ("open_nonplanar", "OPEN_NONPLANAR", 1),
        ("two_points", "CLOSED_PLANAR", 1),
        ("ragged", "CLOSED_PLANAR", 1),
        ("repeated", "CLOSED_PLANAR", 1),
        ("outside", "CLOSED_PLANAR", 2),
        ("missing_middle", "CLOSED_PLANAR", -2),
    ],
)
def test_faulty_contours_come_on_top_of_sound_ones(write, fault, kind, more):
    sound, faulty = write(DicomStyle()), write(DicomStyle(contour_faults=(fault,)))
    number = sound.structures["Bladder"].number
    before, after = contours(sound)[number], contours(faulty)[number]
    assert len(after) - len(before) == more
    assert after[-1].ContourGeometricType == kind
    same = sound.structures["Bladder"].volume_cc == faulty.structures["Bladder"].volume_cc
    assert same is (fault != "missing_middle")
    if fault == "ragged":
        assert len(after[-1].ContourData) % 3 == 2
    if fault == "repeated":
        assert sum(one.ContourData == after[-1].ContourData for one in after) == 2


def test_contours_between_slices_are_off_by_less_than_half_a_pitch(write):
    sound, off = write(DicomStyle()), write(DicomStyle(contour_faults=("between_slices",)))
    first, second = (truth.structures["Bladder"] for truth in (sound, off))
    assert second.centroid_ras - first.centroid_ras == pytest.approx([0, 0, 3.0], abs=1e-3)
    assert second.volume_cc == pytest.approx(first.volume_cc)


def test_rois_without_contours_and_contours_without_rois(write):
    truth = write(DicomStyle(contour_faults=("no_contour_sequence", "dangling")))
    ds = pydicom.dcmread(truth.files["rtstruct"][0])
    named = {int(item.ROINumber) for item in ds.StructureSetROISequence}
    found = contours(truth)
    assert found[truth.structures["empty"].number] == []
    assert np.isnan(truth.structures["empty"].centroid_ras).all()
    (dangling,) = set(found) - named
    assert found[dangling]


def test_odd_names_are_written_as_they_are(write):
    odd = ("", "../../etc/passwd", "CON", "ptv", "PTV", "PTV", "Prostata größer", "前列腺", "x" * 64, "a\tb", " pad ")
    truth = write(DicomStyle(extra_rois=odd))
    ds = pydicom.dcmread(truth.files["rtstruct"][0])
    names = {int(item.ROINumber): item.ROIName or "" for item in ds.StructureSetROISequence}
    for index, name in enumerate(odd):
        told = truth.structures[f"extra/{index}"]
        assert names[told.number].strip() == name.strip()
        assert told.volume_cc > 1
    centres = np.array([truth.structures[f"extra/{index}"].centroid_ras for index in range(len(odd))])
    apart = np.linalg.norm(centres[:, None] - centres[None], axis=2) + 1e3 * np.eye(len(odd))
    assert apart.min() > 20


def test_other_frame_of_reference_on_request(write):
    truth = write(DicomStyle(foreign_frames=("rtstruct",)))
    ds = pydicom.dcmread(truth.files["rtstruct"][0])
    assert ds.ReferencedFrameOfReferenceSequence[0].FrameOfReferenceUID != truth.uids["frame"]
    assert pydicom.dcmread(truth.files["rtdose"][0]).FrameOfReferenceUID == truth.uids["frame"]


def test_interpreted_types_on_request(write):
    def types(style: DicomStyle) -> list[str]:
        ds = pydicom.dcmread(write(style).files["rtstruct"][0])
        return [item.RTROIInterpretedType for item in ds.RTROIObservationsSequence]

    found = types(DicomStyle(structures=("External", "Bladder", "CTV", "PTV")))
    assert found == ["EXTERNAL", "ORGAN", "CTV", "PTV"]
    assert set(types(DicomStyle(roi_types=False))) == {""}
