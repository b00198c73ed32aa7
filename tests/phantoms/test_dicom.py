"""Phantoms as DICOM studies, read by others (pydicom, SimpleITK, dciodvfy): geometry, pixels, encodings, identities."""

from __future__ import annotations

import re
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from mtl_med.errors import UsageError
from mtl_med.phantoms import NOTE_NAME, PelvisPhantom, make_pelvis, make_phantom
from mtl_med.phantoms.dicom import DicomStyle, Identity, Truth, write_dicom_study
from mtl_med.phantoms.dicom_cohort import write_dicom_cohort
from mtl_med.phantoms.dicom_style import CHOICES, VENDORS

ORIENTATIONS = {  # as PS3.3 and scanner manuals give them: row cosines, column cosines, in LPS
    "HFS": [1, 0, 0, 0, 1, 0],
    "HFP": [-1, 0, 0, 0, -1, 0],
    "HFDL": [0, -1, 0, 1, 0, 0],
    "HFDR": [0, 1, 0, -1, 0, 0],
    "FFS": [-1, 0, 0, 0, 1, 0],
    "FFP": [1, 0, 0, 0, -1, 0],
    "FFDL": [0, 1, 0, 1, 0, 0],
    "FFDR": [0, -1, 0, -1, 0, 0],
}
REGULAR = {
    **{position.lower(): DicomStyle(position=position) for position in ORIENTATIONS},
    "oblique": DicomStyle(oblique_deg=(11.0, -7.0, 5.0)),
    "oblique-ffp": DicomStyle(position="FFP", oblique_deg=(0.0, 15.0, 0.0)),
    "not-square": DicomStyle(pixel_spacing_mm=(9.0, 13.0), slice_spacing_mm=7.0),
    "descending": DicomStyle(order="descending"),
    "shuffled": DicomStyle(order="shuffled"),
    "sized": DicomStyle(size=(30, 26, 9), pixel_spacing_mm=(8.0, 8.0), slice_spacing_mm=9.0),
}
UNEVEN = {
    "tilt": DicomStyle(gantry_tilt_deg=12.0),
    "tilt-ffs": DicomStyle(position="FFS", gantry_tilt_deg=-9.0),
    "uneven": DicomStyle(upper_pitch=1.5),
}
FEW = ("Bladder", "Femur_Head_L")


@pytest.fixture(scope="module")
def pelvis() -> PelvisPhantom:
    return make_pelvis(5, shape=(40, 36, 20))


@pytest.fixture
def write(pelvis, tmp_path):
    def call(style: DicomStyle, name: str = "study", **changes) -> Truth:
        style = replace(style, structures=style.structures or FEW)
        return write_dicom_study(pelvis, tmp_path / name, options=style, **changes)

    return call


def slices(truth: Truth) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in truth.files["ct"]]


def hu_at(sets: list[pydicom.Dataset], points_ras: np.ndarray) -> np.ndarray:
    """HU of the pixels whose centres these points are, by the text of PS3.3 C.7.6.2.1.1; NaN where there is none."""
    found = np.full(len(points_ras), np.nan)
    for ds in sets:
        row, column = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
        away = points_ras * [-1, -1, 1] - np.array(ds.ImagePositionPatient, dtype=float)
        i = away @ row / float(ds.PixelSpacing[1])
        j = away @ column / float(ds.PixelSpacing[0])
        on = (np.abs(away @ np.cross(row, column)) < 1e-3) & (np.abs(i - np.rint(i)) < 1e-3)
        on &= np.abs(j - np.rint(j)) < 1e-3
        stored = ds.pixel_array[np.rint(j[on]).astype(int), np.rint(i[on]).astype(int)]
        found[on] = stored * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
    return found


@pytest.mark.parametrize("position", ORIENTATIONS)
def test_orientation_of_every_patient_position(write, position):
    (ds, *_) = slices(write(DicomStyle(position=position)))
    assert ds.PatientPosition == position
    assert np.array(ds.ImageOrientationPatient, dtype=float).tolist() == ORIENTATIONS[position]


@pytest.mark.parametrize("name", [*REGULAR, *UNEVEN])
def test_told_pixels_are_where_the_headers_say(write, name):
    truth = write((REGULAR | UNEVEN)[name])
    found = hu_at(slices(truth), truth.ct_points)
    assert np.array_equal(found, truth.ct_hu)
    assert np.ptp(truth.ct_hu) > 500


@pytest.mark.parametrize("name", REGULAR)
def test_simpleitk_finds_the_bones_at_their_places(write, pelvis, name):
    """The left femoral head is bright where its solid is, and the grid that is told is that of ITK."""
    truth = write(REGULAR[name])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(truth.folder), truth.uids["ct series"]))
    image = reader.Execute()
    centre = np.array(pelvis.solids["Femur_Head_L"].centre) * [-1, -1, 1]
    around = centre + np.array([[dx, dy, 0] for dx in (-6, 6) for dy in (-6, 6)])
    values = [image.GetPixel(image.TransformPhysicalPointToIndex(point.tolist())) for point in around]
    assert np.mean(values) > 200
    grid = truth.grid
    assert grid is not None
    assert image.GetSize() == grid.shape
    corner = np.array(grid.shape) - 1
    for index in (np.zeros(3), corner):
        there = np.array(image.TransformIndexToPhysicalPoint([int(i) for i in index]))
        assert there * [-1, -1, 1] == pytest.approx(grid.points_ras(index[None])[0], abs=1e-3)


def test_plain_study_holds_the_voxels_of_the_phantom(write, pelvis):
    truth = write(DicomStyle())
    stack = sorted(slices(truth), key=lambda ds: float(ds.ImagePositionPatient[2]))
    volume = np.stack([ds.pixel_array.T.astype(int) - 1024 for ds in stack], axis=2)[::-1, ::-1]
    assert np.array_equal(volume, pelvis.ct_hu)


def test_tilted_slices_advance_along_the_couch(write):
    truth = write(UNEVEN["tilt"])
    first, second, *_ = slices(truth)
    step = np.subtract(second.ImagePositionPatient, first.ImagePositionPatient).astype(float)
    row, column = np.array(first.ImageOrientationPatient, dtype=float).reshape(2, 3)
    normal = np.cross(row, column)
    assert step / np.linalg.norm(step) == pytest.approx([0, 0, 1], abs=1e-6)
    assert np.degrees(np.arccos(normal[2])) == pytest.approx(12)
    assert truth.grid is None


def test_uneven_missing_and_doubled_slices(write):
    def gaps(truth: Truth) -> np.ndarray:
        heights = sorted(float(ds.ImagePositionPatient[2]) for ds in slices(truth))
        return np.round(np.diff(heights), 6)

    assert np.unique(gaps(write(UNEVEN["uneven"], "a"))).tolist() == [12.0, 18.0]
    assert gaps(write(DicomStyle(missing_slices=(7,)), "b")).tolist().count(24.0) == 1
    for differ in (False, True):
        truth = write(DicomStyle(duplicated_slices=(7,), duplicates_differ=differ), f"c{differ}")
        assert gaps(truth).tolist().count(0.0) == 1
        twins = [ds for ds in slices(truth) if ds.InstanceNumber == 8]
        assert len({ds.SOPInstanceUID for ds in twins}) == 2
        assert np.array_equal(twins[0].pixel_array, twins[1].pixel_array) is not differ


def test_slices_out_of_range_are_refused(write):
    with pytest.raises(UsageError, match="missing_slices"):
        write(DicomStyle(missing_slices=(20,)))


def test_instance_numbers_follow_the_order_asked_for(write):
    for order in ("ascending", "descending", "shuffled"):
        stack = sorted(slices(write(DicomStyle(order=order), order)), key=lambda ds: float(ds.ImagePositionPatient[2]))
        numbers = [int(ds.InstanceNumber) for ds in stack]
        assert sorted(numbers) == list(range(1, 21))
        assert (numbers == sorted(numbers)) is (order == "ascending")
        assert (numbers == sorted(numbers)[::-1]) is (order == "descending")


@pytest.mark.parametrize(
    "style",
    [
        DicomStyle(signed=True, intercept=0.0),
        DicomStyle(bits_stored=12),
        DicomStyle(slope=2.0, intercept=-1100.0),
        DicomStyle(rescale_per_slice=True),
    ],
    ids=["signed", "twelve-bits", "slope", "per-slice"],
)
def test_rescale_gives_hounsfield_units(write, pelvis, style):
    truth = write(style)
    assert np.array_equal(hu_at(slices(truth), truth.ct_points), truth.ct_hu)
    whole = write(DicomStyle(), "plain")
    assert np.abs(hu_at(slices(truth), whole.ct_points) - whole.ct_hu).max() <= 1.0
    assert (len({float(ds.RescaleSlope) for ds in slices(truth)}) > 1) is style.rescale_per_slice


@pytest.mark.parametrize("syntax", CHOICES["transfer_syntax"])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
def test_every_transfer_syntax_holds_the_same_pixels(write, syntax, signed):
    """jpeg2000, jpeg-ls, jpeg and rle need the codecs of the test environment to be read back."""
    style = DicomStyle(signed=signed, intercept=0.0 if signed else -1024.0, bits_stored=16 if signed else 12)
    plain = slices(write(style, "plain"))
    other = slices(write(replace(style, transfer_syntax=syntax), "other"))
    for first, second in zip(plain, other, strict=True):
        assert np.array_equal(first.pixel_array, second.pixel_array)
    assert other[0].file_meta.TransferSyntaxUID.is_compressed is (syntax in ("rle", "jpeg", "jpeg2000", "jpeg-ls"))


def test_dcmtk_reads_our_lossless_jpeg(write, tmp_path, require_judge):
    require_judge("dcmdjpeg")
    truth = write(DicomStyle(transfer_syntax="jpeg"))
    plain = tmp_path / "plain.dcm"
    subprocess.run(["dcmdjpeg", truth.files["ct"][5], plain], check=True)
    assert np.array_equal(pydicom.dcmread(plain).pixel_array, slices(write(DicomStyle(), "b"))[5].pixel_array)


def test_files_without_preamble_need_force(write):
    truth = write(DicomStyle(preamble=False))
    raw = truth.files["ct"][0].read_bytes()
    assert raw[128:132] != b"DICM"
    with pytest.raises(pydicom.errors.InvalidDicomError):
        pydicom.dcmread(truth.files["ct"][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert pydicom.dcmread(truth.files["ct"][0], force=True).Modality == "CT"


def test_enhanced_ct_holds_the_slices_of_the_plain_one(write):
    plain = write(DicomStyle(), "plain")
    (path,) = write(DicomStyle(enhanced=True, order="shuffled"), "enhanced").files["ct"]
    ds = pydicom.dcmread(path)
    groups = ds.PerFrameFunctionalGroupsSequence
    heights = [float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups]
    assert heights != sorted(heights)
    for one in slices(plain):
        frame = heights.index(float(one.ImagePositionPatient[2]))
        assert np.array_equal(ds.pixel_array[frame], one.pixel_array)


def test_same_options_same_bytes_and_other_patients_other_uids(write):
    first, second, third = (write(DicomStyle(), name, patient_id=name[:1]) for name in ("a1", "a2", "b"))
    for kind, paths in first.files.items():
        assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in second.files[kind]], kind
    assert first.uids == second.uids
    assert not set(first.uids.values()) & set(third.uids.values())


def test_second_series_and_extras_lie_beside(write):
    truth = write(DicomStyle(second_ct=True, extras=("localizer", "mr", "sr", "registration", "dicomdir", "text")))
    series = [ds.SeriesInstanceUID for ds in slices(truth)]
    assert series.count(truth.uids["ct series"]) == 20
    assert series.count(truth.uids["second ct series"]) == 10
    assert len(truth.files["other"]) == 7
    (localizer,) = (path for path in truth.files["other"] if path.name == "localizer.dcm")
    assert "LOCALIZER" in pydicom.dcmread(localizer).ImageType


def test_edit_sees_every_dataset_before_it_is_written(write):
    seen = []

    def edit(kind: str, ds: pydicom.Dataset) -> None:
        seen.append(kind)
        if kind == "ct":
            del ds.ImagePositionPatient

    truth = write(DicomStyle(edit=edit))
    assert {kind: seen.count(kind) for kind in seen} == {kind: len(paths) for kind, paths in truth.files.items()}
    assert all("ImagePositionPatient" not in ds for ds in slices(truth))


TECHNICAL = re.compile(
    "Manufacturer|ManufacturerModelName|SpecificCharacterSet|RescaleType|CodingSchemeDesignator|ROIName|PrivateCreator|"
    "PositionReferenceIndicator|DoseReferenceDescription|IssuerOfPatientID|Private"
)


def test_identity_is_planted_into_every_text_field(write):
    """Whatever text is left without a trace of the person is on a short list of technical words."""
    identity = Identity()
    truth = write(DicomStyle(identity=identity, file_names="patient", extras=("mr",)))
    assert truth.patient_id == identity.patient_id
    assert identity.strings == truth.planted
    for path in (path for paths in truth.files.values() for path in paths):
        assert "Plantedova" in path.name
        ds = pydicom.dcmread(path)
        assert (ds.PatientName, ds.PatientID) == (identity.name, identity.patient_id)
        for element in ds.iterall():
            if element.VR in ("LO", "LT", "SH", "ST", "UT", "PN") and not TECHNICAL.search(element.keyword):
                assert any(word in str(element.value) for word in truth.planted), (path.name, element)
            if element.VR in ("DA", "TM"):
                assert str(element.value) in truth.planted, (path.name, element)
    names = [item.ROIName for item in pydicom.dcmread(truth.files["rtstruct"][0]).StructureSetROISequence]
    assert names[-1] == "Boost Plantedova"


def test_without_identity_nothing_is_planted(write):
    truth = write(DicomStyle())
    assert truth.planted == ()
    words = [word.encode() for word in Identity().strings]
    for path in (path for paths in truth.files.values() for path in paths):
        data = path.read_bytes()
        assert not [word for word in words if word in data]


@pytest.mark.parametrize("vendor", VENDORS)
def test_vendor_styles_are_whole_studies(write, vendor):
    truth = write(DicomStyle.like(vendor))
    assert np.abs(hu_at(slices(truth), truth.ct_points) - truth.ct_hu).max() == 0
    (plan,), (structures,) = truth.files["rtplan"], truth.files["rtstruct"]
    assert pydicom.dcmread(plan).Manufacturer == VENDORS[vendor]["manufacturer"]
    names = [item.ROIName for item in pydicom.dcmread(structures).StructureSetROISequence]
    assert names == [one.name for one in truth.structures.values()]
    assert truth.files["rtdose"]


def test_head_and_neck_phantom_is_written_too(tmp_path):
    phantom = make_phantom((2, 1), shape=(40, 40, 32), all_contours=True)
    truth = write_dicom_study(phantom, tmp_path)
    assert {"External", "Brainstem", "PTV70"} <= set(truth.structures)
    for name in ("External", "PTV70"):
        mask = phantom.ct_hu > -1024 if name == "External" else phantom.structures[name]
        held = mask.sum() * phantom.grid.voxel_volume_mm3 / 1000
        assert truth.structures[name].volume_cc == pytest.approx(held, rel=0.05)
        assert truth.structures[name].centroid_ras == pytest.approx(phantom.grid.centroid_ras(mask), abs=1.5)
    assert np.abs(hu_at(slices(truth), truth.ct_points) - truth.ct_hu).max() == 0


def test_cohort_is_marked_as_phantoms(tmp_path):
    folders = write_dicom_cohort(tmp_path / "out", patients=2, shape=(32, 32, 16))
    assert [folder.name for folder in folders] == ["phantom000", "phantom001"]
    assert "PHANTOM DATA" in (tmp_path / "out" / NOTE_NAME).read_text()
    for folder in folders:
        plan = pydicom.dcmread(folder / "RP.dcm")
        assert plan.PatientID == folder.name.upper()
        assert plan.Manufacturer in {style["manufacturer"] for style in VENDORS.values()}


def test_cohort_never_mixes_with_other_data(tmp_path):
    (tmp_path / "patient").mkdir()
    with pytest.raises(UsageError, match="not phantoms"):
        write_dicom_cohort(tmp_path, patients=1)
    with pytest.raises(UsageError, match="at least 1"):
        write_dicom_cohort(tmp_path / "new", patients=0)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"position": "HFX"}, "HFS"),
        ({"dose": "beams"}, "beam"),
        ({"contour_faults": ("points",)}, "point"),
        ({"extras": ("mri",)}, "mr"),
        ({"dose_bits": 8}, "16 or 32"),
        ({"decimals": 12}, "decimals"),
        ({"dose_offsets": "absolute", "oblique_deg": (5.0, 0, 0)}, "transverse"),
    ],
)
def test_options_that_cannot_be_are_refused(options, named):
    with pytest.raises(UsageError, match=named):
        DicomStyle(**options)
    with pytest.raises(UsageError, match="eclipse"):
        DicomStyle.like("eclipsed")


@pytest.mark.parametrize("kind", ["ct", "rtstruct", "rtplan", "rtdose"])
def test_plain_files_pass_dciodvfy(write, require_judge, kind):
    program = require_judge("dciodvfy")
    path: Path = write(DicomStyle()).files[kind][0]
    done = subprocess.run([program, path], capture_output=True, text=True)
    errors = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]
    assert errors == []
