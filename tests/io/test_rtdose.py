"""RTDOSE reading: the right Gy at the right place for every form of grid, and a refusal for what is no dose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    RTDoseStorage,
    RTPlanStorage,
    RTStructureSetStorage,
)

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import lps_from_ras
from mtl_med.io.rtdose import read_dose_header, read_rtdose

FRAMES, ROWS, COLUMNS = 5, 4, 6
SPACING_MM = (2.0, 3.0)  # between rows, between columns
POSITION = (-31.5, 12.25, -40.0)
SCALING = 1e-6
FRAME_UID = "2.25.1111"
NAME = "Doe^Planted"
TILT = 0.3
ORIENTATIONS = {
    "HFS": (1, 0, 0, 0, 1, 0),
    "HFP": (-1, 0, 0, 0, -1, 0),
    "FFS": (-1, 0, 0, 0, 1, 0),
    "FFP": (1, 0, 0, 0, -1, 0),
    "HFDL": (0, -1, 0, 1, 0, 0),
    "HFDR": (0, 1, 0, -1, 0, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "oblique": (np.cos(TILT), np.sin(TILT), 0, -np.sin(TILT), np.cos(TILT), 0),
    "tilted": (1, 0, 0, 0, np.cos(TILT), np.sin(TILT)),
}


def _true_dose(points_lps: np.ndarray) -> np.ndarray:
    """Gy at points: linear, so that linear interpolation is exact, and different along each axis."""
    return 40 + points_lps @ [0.11, 0.23, 0.37]


def _points(orientation, offsets) -> np.ndarray:
    """(frames, rows, columns, 3) LPS mm of voxel centres, written down from the standard."""
    row, column = np.array(orientation, dtype=float).reshape(2, 3)
    frame, down, along = np.meshgrid(offsets, np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
    return (
        np.array(POSITION)
        + along[..., None] * SPACING_MM[1] * row
        + down[..., None] * SPACING_MM[0] * column
        + frame[..., None] * np.cross(row, column)
    )


def _stored(dose_gy: np.ndarray, bits: int = 32) -> np.ndarray:
    return np.rint(dose_gy / (SCALING if bits == 32 else 2e-3)).astype(f"<u{bits // 8}")


def _file(path: Path, *, syntax=ExplicitVRLittleEndian, orientation="HFS", offsets=None, bits=32, **changes) -> Path:
    """An RTDOSE of the true dose; `changes` overwrite attributes, None deletes them. `vector` is what is written."""
    offsets = np.arange(FRAMES) * 2.5 if offsets is None else np.asarray(offsets, dtype=float)
    cosines = ORIENTATIONS[orientation]
    stored = _stored(_true_dose(_points(cosines, offsets)), bits)
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = RTDoseStorage, "2.25.42", "RTDOSE"
    ds.PatientName, ds.PatientID = NAME, "ID-PLANTED"
    ds.FrameOfReferenceUID = FRAME_UID
    ds.ImagePositionPatient = [f"{mm:.6f}" for mm in POSITION]
    ds.ImageOrientationPatient = [f"{part:.12f}" for part in cosines]
    ds.PixelSpacing = [str(mm) for mm in SPACING_MM]
    ds.NumberOfFrames, ds.Rows, ds.Columns = stored.shape
    ds.FrameIncrementPointer = Tag("GridFrameOffsetVector")
    ds.GridFrameOffsetVector = [f"{mm:.6f}" for mm in changes.pop("vector", offsets)]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PixelRepresentation = 1, "MONOCHROME2", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.DoseUnits, ds.DoseType, ds.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    ds.DoseGridScaling = str(SCALING if bits == 32 else 2e-3)
    ds.PixelData = (
        stored.astype(stored.dtype.newbyteorder(">")).tobytes() if (syntax == ExplicitVRBigEndian) else stored.tobytes()
    )
    ds["PixelData"].VR = "OW"
    for keyword, value in changes.items():
        if value is None:
            delattr(ds, keyword)
        else:
            setattr(ds, keyword, value)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = RTDoseStorage, "2.25.42"
    if syntax == RLELossless:
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.compress(RLELossless, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = syntax
    ds.save_as(path, enforce_file_format=True)
    return path


def _check_places(dose, tolerance_gy: float = 2e-5) -> None:
    """Every voxel holds the true dose of where the grid says that it lies."""
    indices = np.argwhere(np.ones(dose.grid.shape, dtype=bool))
    expected = _true_dose(lps_from_ras(dose.grid.points_ras(indices)))
    np.testing.assert_allclose(dose.dose_gy[tuple(indices.T)], expected, atol=tolerance_gy)


def test_a_dose_is_read_to_the_voxel(tmp_path):
    dose = read_rtdose(_file(tmp_path / "rd.dcm"))
    assert dose.dose_gy.dtype == np.float32
    assert dose.grid.shape == dose.dose_gy.shape == (COLUMNS, ROWS, FRAMES)
    assert dose.grid.spacing_mm == pytest.approx((3.0, 2.0, 2.5))
    # Row 1, column 2, frame 3: 6 mm to the left, 2 mm backwards and 7.5 mm upwards of the position.
    assert dose.dose_gy[2, 1, 3] == pytest.approx(40 + 0.11 * -25.5 + 0.23 * 14.25 + 0.37 * -32.5, abs=1e-5)
    np.testing.assert_allclose(dose.grid.points_ras([[2, 1, 3]]), [[25.5, -14.25, -32.5]])
    assert (dose.summation, dose.dose_type, dose.frame_of_reference) == ("PLAN", "PHYSICAL", FRAME_UID)
    assert (dose.sop_uid, dose.plan_uid, dose.beams, dose.fraction_group) == ("2.25.42", "", (), None)
    assert dose.notes == ()


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("direction", [1, -1], ids=["ascending", "descending"])
def test_relative_offsets_follow_row_cross_column(tmp_path, orientation, direction):
    path = _file(tmp_path / "rd.dcm", orientation=orientation, offsets=np.arange(FRAMES) * 2.5 * direction)
    dose = read_rtdose(path)
    assert dose.grid.shape == (COLUMNS, ROWS, FRAMES)
    row, column = np.array(ORIENTATIONS[orientation], dtype=float).reshape(2, 3)
    expected = lps_from_ras(np.stack([row * 3.0, column * 2.0, np.cross(row, column) * 2.5])).T
    np.testing.assert_allclose(dose.grid.affine[:3, :3], expected, atol=1e-5)
    _check_places(dose)


@pytest.mark.parametrize("orientation", ["HFS", "HFP", "FFS", "FFP", "HFDL"])
@pytest.mark.parametrize("direction", [1, -1], ids=["ascending", "descending"])
def test_absolute_offsets_are_patient_z(tmp_path, orientation, direction):
    offsets = np.arange(FRAMES) * 2.5 * direction
    z = _points(ORIENTATIONS[orientation], offsets)[:, 0, 0, 2]
    _check_places(read_rtdose(_file(tmp_path / "rd.dcm", orientation=orientation, offsets=offsets, vector=z)))


def test_simpleitk_puts_the_same_dose_at_the_same_places(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    for orientation in ("HFS", "FFP", "oblique", "tilted"):
        path = _file(tmp_path / f"{orientation}.dcm", orientation=orientation)
        dose, image = read_rtdose(path), sitk.ReadImage(str(path), sitk.sitkFloat64)
        assert image.GetSize() == dose.grid.shape
        for index in ((0, 0, 0), (4, 1, 2), (5, 3, 4)):
            place = lps_from_ras(dose.grid.points_ras(np.array([index])))[0]
            np.testing.assert_allclose(image.TransformIndexToPhysicalPoint(index), place, atol=1e-4)
            assert image[index] * SCALING == pytest.approx(float(dose.dose_gy[index]), abs=1e-4)


def test_uneven_planes_are_resampled_and_reported(tmp_path):
    for offsets in ([0, 2, 4, 9, 12], [0, -2, -4, -9, -12]):
        dose = read_rtdose(_file(tmp_path / "rd.dcm", offsets=offsets))
        assert dose.grid.shape == (COLUMNS, ROWS, 7)
        assert dose.grid.spacing_mm[2] == pytest.approx(2.0)
        assert dose.notes == ("dose planes 2 to 5 mm apart were resampled to 2 mm",)
        _check_places(dose)


def test_planes_written_with_few_decimals_are_even(tmp_path):
    dose = read_rtdose(_file(tmp_path / "rd.dcm", vector=[0, 1.95, 3.91, 5.86, 7.81]))
    assert dose.grid.spacing_mm[2] == pytest.approx(7.81 / 4)
    assert dose.notes == ()


@pytest.mark.parametrize(
    ("vector", "says"),
    [
        ([0, 2.5, 5, 7.5], "GridFrameOffsetVector"),
        ([0, 2.5, 5, 7.5, 10, 12.5], "GridFrameOffsetVector"),
        ([0, 2.5, 5, 4, 10], "one direction"),
        ([0, 2.5, 2.5, 5, 7.5], "one direction"),
        ([7, 9.5, 12, 14.5, 17], "first grid frame offset is 7 mm"),
        ([0, 2.5, 5, 7.5, 90], "gap of 82.5 mm"),
    ],
    ids=["too short", "too long", "back and forth", "twice", "neither form", "a wide gap"],
)
def test_planes_that_make_no_grid_are_refused(tmp_path, vector, says):
    with pytest.raises(CaseError, match=says):
        read_rtdose(_file(tmp_path / "rd.dcm", vector=vector))


def test_absolute_offsets_on_planes_that_are_not_transverse_are_refused(tmp_path):
    z = np.arange(FRAMES) * 2.5 + POSITION[2]
    with pytest.raises(GeometryError, match="expected 0"):
        read_rtdose(_file(tmp_path / "rd.dcm", orientation="tilted", vector=z))


REFUSED = {
    "relative units": ({"DoseUnits": "RELATIVE"}, "DoseUnits is RELATIVE, expected GY"),
    "no units": ({"DoseUnits": None}, "DoseUnits is missing"),
    "error": ({"DoseType": "ERROR"}, "DoseType is ERROR"),
    "no type": ({"DoseType": None}, "DoseType is missing"),
    "no summation": ({"DoseSummationType": None}, "DoseSummationType is missing"),
    "scaling 0": ({"DoseGridScaling": "0"}, "DoseGridScaling is 0"),
    "scaling below 0": ({"DoseGridScaling": "-0.001"}, "DoseGridScaling is -0.001"),
    "no scaling": ({"DoseGridScaling": None}, "DoseGridScaling"),
    "empty scaling": ({"DoseGridScaling": ""}, "DoseGridScaling"),
    "no offsets": ({"GridFrameOffsetVector": None}, "GridFrameOffsetVector"),
    "no position": ({"ImagePositionPatient": None}, "ImagePositionPatient"),
    "no orientation": ({"ImageOrientationPatient": None}, "ImageOrientationPatient"),
    "no spacing": ({"PixelSpacing": None}, "PixelSpacing"),
    "spacing 0": ({"PixelSpacing": ["0", "3"]}, "PixelSpacing is 0, 3 mm"),
    "skewed": ({"ImageOrientationPatient": ["1", "0", "0", "0.1", "1", "0"]}, "ImageOrientationPatient is off"),
    "one plane": ({"NumberOfFrames": None}, "single plane"),
    "a million frames": ({"NumberOfFrames": 10**6}, "NumberOfFrames is 1e"),
    "65535 x 65535": ({"Rows": 65535, "Columns": 65535}, "(?i)bytes|pixel"),
    "fewer rows than pixels": ({"Rows": ROWS - 1}, "(?i)bytes|pixel"),
    "half of the pixels": ({"PixelData": bytes(FRAMES * ROWS * COLUMNS * 2)}, "(?i)bytes|pixel"),
    "no pixels": ({"PixelData": None}, "(?i)pixel"),
    "cGy called Gy": ({"DoseGridScaling": "0.0001"}, "highest dose is 3[0-9]{3} Gy"),
    "no RTDOSE": ({"SOPClassUID": RTPlanStorage}, "is no RTDOSE"),
}


@pytest.mark.parametrize(("changes", "says"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_dose_is_refused_with_its_reason(tmp_path, changes, says):
    path = _file(tmp_path / "rd.dcm", **changes)
    with pytest.raises(CaseError, match=says) as caught:
        read_rtdose(path)
    assert caught.value.where == str(path)
    assert "PLANTED" not in str(caught.value).upper()


def test_free_text_where_a_code_should_be_is_not_repeated(tmp_path):
    for keyword in ("DoseUnits", "DoseType"):
        path = _file(tmp_path / "rd.dcm")
        data = path.read_bytes()
        old = b"GY" if keyword == "DoseUnits" else b"PHYSICAL"
        at = data.rindex(old)
        path.write_bytes(data[:at] + (b"a@" if old == b"GY" else b"Doe,John") + data[at + len(old) :])
        with pytest.raises(CaseError, match=f"{keyword} is missing or invalid"):
            read_rtdose(path)


def test_a_dose_of_another_frame_of_reference_is_refused(tmp_path):
    path = _file(tmp_path / "rd.dcm")
    assert read_rtdose(path, frame_of_reference=FRAME_UID).frame_of_reference == FRAME_UID
    with pytest.raises(CaseError, match="another frame of reference"):
        read_rtdose(path, frame_of_reference="2.25.2222")
    without = _file(tmp_path / "without.dcm", FrameOfReferenceUID=None)
    assert read_rtdose(without).frame_of_reference == ""
    unnamed = read_rtdose(without, frame_of_reference=FRAME_UID)
    assert unnamed.notes[-1] == "the dose names no frame of reference; it is taken to lie in that of the CT"


def test_only_terms_of_the_standard_are_quoted(tmp_path):
    """A name in capitals is a code string by its form."""
    for keyword in ("DoseUnits", "DoseType"):
        with pytest.raises(CaseError, match=f"{keyword} is missing or invalid") as caught:
            read_rtdose(_file(tmp_path / "rd.dcm", **{keyword: "DOEJANE"}))
        assert "DOEJANE" not in str(caught.value)


@pytest.mark.parametrize(
    ("syntax", "bits"),
    [
        *[(ImplicitVRLittleEndian, bits) for bits in (16, 32)],
        *[(ExplicitVRBigEndian, bits) for bits in (16, 32)],
        *[(DeflatedExplicitVRLittleEndian, bits) for bits in (16, 32)],
        (RLELossless, 16),
    ],
    ids=lambda value: getattr(value, "name", f"{value} bits"),
)
def test_transfer_syntaxes_give_the_same_dose(tmp_path, syntax, bits):
    plain = read_rtdose(_file(tmp_path / "plain.dcm", bits=bits))
    other = read_rtdose(_file(tmp_path / "other.dcm", bits=bits, syntax=syntax))
    np.testing.assert_array_equal(other.dose_gy, plain.dose_gy)
    _check_places(plain, tolerance_gy=2e-3 if bits == 16 else 2e-5)


def _signed(lowest_gy: float, highest_gy: float = 40.0) -> dict:
    values = np.full((FRAMES, ROWS, COLUMNS), highest_gy / SCALING)
    values[1, 2, 3] = lowest_gy / SCALING
    return {"PixelRepresentation": 1, "PixelData": values.astype("<i4").tobytes()}


def test_negative_dose_is_noise_or_refused(tmp_path):
    dose = read_rtdose(_file(tmp_path / "noise.dcm", **_signed(-0.1)))
    assert dose.dose_gy[3, 2, 1] == dose.dose_gy.min() == 0
    assert dose.notes == ("1 voxels of slightly negative dose were set to 0",)
    with pytest.raises(CaseError, match="negative dose, down to -30 Gy"):
        read_rtdose(_file(tmp_path / "difference.dcm", **_signed(-30)))


def test_oddities_are_noted(tmp_path):
    effective = read_rtdose(_file(tmp_path / "rd.dcm", DoseType="EFFECTIVE"))
    assert effective.dose_type == "EFFECTIVE"
    assert "effective dose" in effective.notes[0]
    deformed = read_rtdose(_file(tmp_path / "rd.dcm", SpatialTransformOfDose="NON_RIGID"))
    assert "registration" in deformed.notes[0]
    nothing = read_rtdose(_file(tmp_path / "rd.dcm", PixelData=bytes(FRAMES * ROWS * COLUMNS * 4)))
    assert nothing.notes == ("the dose is 0 everywhere",)
    high = read_rtdose(_file(tmp_path / "rd.dcm", DoseGridScaling="0.00001"))
    assert "unusual" in high.notes[0]
    path = _file(tmp_path / "mixed case.dcm")
    path.write_bytes(path.read_bytes().replace(b"CS\x02\x00GY", b"CS\x02\x00Gy"))
    assert read_rtdose(path).notes == ()


def test_references_are_read_with_the_header(tmp_path):
    beam = Dataset()
    beam.ReferencedBeamNumber = 3
    group = Dataset()
    group.ReferencedFractionGroupNumber, group.ReferencedBeamSequence = 2, [beam]
    plan = Dataset()
    plan.ReferencedSOPClassUID, plan.ReferencedSOPInstanceUID = RTPlanStorage, "2.25.7"
    plan.ReferencedFractionGroupSequence = [group]
    structures = Dataset()
    structures.ReferencedSOPClassUID, structures.ReferencedSOPInstanceUID = RTStructureSetStorage, "2.25.8"
    path = _file(
        tmp_path / "rd.dcm",
        DoseSummationType="BEAM",
        ReferencedRTPlanSequence=[plan],
        ReferencedStructureSetSequence=[structures],
    )
    for header in (read_dose_header(path), read_rtdose(path)):
        assert (header.summation, header.plan_uid, header.plan_uids) == ("BEAM", "2.25.7", ("2.25.7",))
        assert (header.fraction_group, header.beams, header.structure_set_uid) == (2, (3,), "2.25.8")


def test_the_header_is_read_although_the_pixels_are_not_there(tmp_path):
    path = _file(tmp_path / "rd.dcm")
    path.write_bytes(path.read_bytes()[:-100])
    assert read_dose_header(path).summation == "PLAN"
    with pytest.raises(CaseError):
        read_rtdose(path)


def test_flipped_bytes_end_as_a_dose_or_as_a_refusal(tmp_path):
    whole = bytearray(_file(tmp_path / "rd.dcm").read_bytes())
    header = len(whole) - FRAMES * ROWS * COLUMNS * 4
    rng = np.random.default_rng(4)
    path, read = tmp_path / "flipped.dcm", 0
    for _ in range(150):
        flipped = bytearray(whole)
        flipped[rng.integers(132, header)] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            dose = read_rtdose(path)
        except CaseError as error:
            assert "PLANTED" not in str(error).upper()
            continue
        read += 1
        assert dose.dose_gy.shape == dose.grid.shape
        assert np.isfinite(dose.dose_gy).all()
        assert dose.dose_gy.min() >= 0
    assert 0 < read < 150


# ---- real data


def test_the_eclipse_dose_has_its_known_maximum_and_mean(dicom_rt_data):
    dose = read_rtdose(dicom_rt_data / "eclipse_prostate" / "RD.dcm")
    assert dose.grid.shape == (136, 86, 92)
    assert dose.grid.spacing_mm == pytest.approx((2.5, 2.5, 2.5))
    assert dose.dose_gy.max() == pytest.approx(47.0756, abs=5e-5)
    assert dose.dose_gy.mean(dtype=np.float64) == pytest.approx(9.9408, abs=5e-5)
    np.testing.assert_allclose(dose.grid.affine[:3, 3], [162.8260187, 105.0168634, -122.5], atol=1e-6)


def test_simpleitk_reads_the_same_eclipse_dose(dicom_rt_data):
    sitk = pytest.importorskip("SimpleITK")
    path = dicom_rt_data / "eclipse_prostate" / "RD.dcm"
    dose, image = read_rtdose(path), sitk.ReadImage(str(path), sitk.sitkFloat64)
    scaling = 0.0007845941544
    np.testing.assert_allclose(sitk.GetArrayViewFromImage(image).T * scaling, dose.dose_gy, atol=1e-4)
    np.testing.assert_allclose(image.GetOrigin(), lps_from_ras(dose.grid.affine[None, :3, 3])[0], atol=1e-4)


def test_plastimatch_reads_the_same_eclipse_dose(dicom_rt_data, require_judge, tmp_path):
    import subprocess

    import nibabel

    from mtl_med.geometry import Grid, reorient

    judge, path = require_judge("plastimatch"), dicom_rt_data / "eclipse_prostate" / "RD.dcm"
    command = [judge, "convert", "--input", path, "--output-dose-img", tmp_path / "dose.nii.gz"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    judged = nibabel.load(tmp_path / "dose.nii.gz")
    theirs, grid = reorient(np.asarray(judged.dataobj), Grid(judged.shape, judged.affine), "RAS")
    dose = read_rtdose(path)
    ours, our_grid = reorient(dose.dose_gy, dose.grid, "RAS")
    np.testing.assert_allclose(our_grid.affine, grid.affine, atol=1e-3)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_absolute_offsets_of_the_eclipse_dose_give_the_same_grid(dicom_rt_data):
    dose = read_rtdose(dicom_rt_data / "eclipse_prostate" / "RD.dcm")
    absolute = read_rtdose(dicom_rt_data / "one_defect_files" / "rd_gfov_absolute_option_b.dcm")
    np.testing.assert_array_equal(absolute.dose_gy, dose.dose_gy)
    np.testing.assert_allclose(absolute.grid.affine, dose.grid.affine, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("rd_no_scaling", "DoseGridScaling"),
        ("rd_relative_units", "DoseUnits is RELATIVE"),
        ("rd_truncated_pixels", "(?i)bytes|pixel|truncated"),
        ("rd_wrong_for", "another frame of reference"),
    ],
)
def test_defective_eclipse_doses_are_refused(dicom_rt_data, name, says):
    right = read_dose_header(dicom_rt_data / "eclipse_prostate" / "RD.dcm").frame_of_reference
    with pytest.raises(CaseError, match=says):
        read_rtdose(dicom_rt_data / "one_defect_files" / f"{name}.dcm", frame_of_reference=right)
