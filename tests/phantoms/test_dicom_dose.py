"""RTDOSE and RTPLAN of the phantoms: every form sums to the dose that is told, on the grid that is told."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from mtl_med.geometry import Grid
from mtl_med.phantoms import PelvisPhantom, make_pelvis
from mtl_med.phantoms.dicom import DicomStyle, Truth, write_dicom_study

FORMS = {  # summation types of the files
    "plan": ["PLAN"],
    "beam": ["BEAM"] * 3,
    "beam-incomplete": ["BEAM"] * 2,
    "plan+beam": ["PLAN", "BEAM", "BEAM", "BEAM"],
    "fraction": ["FRACTION"],
    "multi-plan": ["MULTI_PLAN"],
    "two-plans": ["PLAN", "PLAN"],
    "session": ["FRACTION_SESSION"],
    "brachy": ["BRACHY"],
    "effective": ["PLAN"],
    "error": ["PLAN"],
    "relative": ["PLAN"],
    "none": [],
}


@pytest.fixture(scope="module")
def pelvis() -> PelvisPhantom:
    return make_pelvis(6, shape=(40, 36, 24))


@pytest.fixture
def write(pelvis, tmp_path):
    def call(name: str = "study", **options) -> Truth:
        style = DicomStyle(**{"structures": ("CTV", "PTV"), **options})
        return write_dicom_study(pelvis, tmp_path / name, options=style)

    return call


def doses(truth: Truth) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in truth.files.get("rtdose", ())]


def gy(ds: pydicom.Dataset) -> np.ndarray:
    """(columns, rows, frames)"""
    return (ds.pixel_array * float(ds.DoseGridScaling)).transpose(2, 1, 0)


def frame_heights(ds: pydicom.Dataset) -> np.ndarray:
    """Position of the frames along the normal, for offsets that are relative."""
    row, column = np.array(ds.ImageOrientationPatient, dtype=float).reshape(2, 3)
    start = np.array(ds.ImagePositionPatient, dtype=float) @ np.cross(row, column)
    return start + np.array(ds.GridFrameOffsetVector, dtype=float)


def grid_heights(grid: Grid) -> np.ndarray:
    normal = grid.affine[:3, 2] / grid.spacing_mm[2]
    return grid.points_ras(np.stack([np.zeros(grid.shape[2])] * 2 + [np.arange(grid.shape[2])], axis=1)) @ normal


@pytest.mark.parametrize("form", FORMS)
def test_files_of_a_form_sum_to_the_told_dose(write, form):
    truth = write(dose=form)
    found = doses(truth)
    assert [ds.DoseSummationType for ds in found] == FORMS[form]
    counted = [ds for ds in found if form != "plan+beam" or ds.DoseSummationType == "PLAN"]
    if counted:
        assert np.abs(sum(gy(ds) for ds in counted) - truth.dose_gy).max() < 1e-4


def test_beams_are_shares_of_the_plan_and_the_incomplete_ones_fall_short(write):
    whole = write("plan").dose_gy
    both = doses(write("both", dose="plan+beam"))
    assert np.abs(sum(gy(ds) for ds in both[1:]) - whole).max() < 1e-4
    assert np.abs(write("beam", dose="beam").dose_gy - whole).max() < 1e-4
    short = write("short", dose="beam-incomplete").dose_gy
    assert 0.3 < short.sum() / whole.sum() < 0.9


def test_dose_types_and_units(write):
    assert doses(write("a", dose="effective"))[0].DoseType == "EFFECTIVE"
    assert doses(write("b", dose="error"))[0].DoseType == "ERROR"
    assert doses(write("c", dose="relative"))[0].DoseUnits == "RELATIVE"
    assert doses(write("d"))[0].DoseUnits == "GY"


def test_dose_is_the_phantoms_own_at_its_voxels(write, pelvis):
    """Without another spacing the dose grid falls on voxel centres, so that nothing is interpolated."""
    truth = write()
    x, y, z = np.indices(truth.dose_grid.shape).reshape(3, -1)
    places = truth.dose_grid.points_ras(np.stack([x, y, z], axis=1))
    voxels = (places - pelvis.grid.affine[:3, 3]) / pelvis.grid.spacing_mm
    assert np.abs(voxels - np.rint(voxels)).max() < 1e-6
    own = pelvis.dose_gy[tuple(np.rint(voxels).astype(int).T)]
    assert np.abs(own - truth.dose_gy.ravel()).max() < 1e-4
    assert truth.dose_gy.max() == pytest.approx(pelvis.dose_gy.max(), abs=1e-4)


@pytest.mark.parametrize("position", ["HFS", "HFP", "FFS", "FFP", "HFDL", "HFDR"])
def test_told_grid_is_that_of_the_file(write, position):
    truth = write(position=position)
    (ds,) = doses(truth)
    assert ds.pixel_array.shape == truth.dose_grid.shape[::-1]
    assert frame_heights(ds) == pytest.approx(grid_heights(truth.dose_grid), abs=1e-3)
    first = np.array(ds.ImagePositionPatient, dtype=float) * [-1, -1, 1]
    assert first == pytest.approx(truth.dose_grid.affine[:3, 3], abs=1e-4)
    row = np.array(ds.ImageOrientationPatient[:3], dtype=float) * [-1, -1, 1]
    assert row * float(ds.PixelSpacing[1]) == pytest.approx(truth.dose_grid.affine[:3, 0], abs=1e-4)


@pytest.mark.parametrize("position", ["HFS", "FFS"])
@pytest.mark.parametrize("form", ["absolute", "absolute-descending"])
def test_absolute_offsets_are_heights_in_the_patient(write, position, form):
    truth = write(position=position, dose_offsets=form)
    (ds,) = doses(truth)
    offsets = np.array(ds.GridFrameOffsetVector, dtype=float)
    assert offsets[0] == pytest.approx(float(ds.ImagePositionPatient[2]), abs=1e-6)
    frames = np.arange(truth.dose_grid.shape[2])
    heights = truth.dose_grid.points_ras(np.stack([0 * frames, 0 * frames, frames], axis=1))[:, 2]
    turned = form == "absolute-descending"
    assert offsets == pytest.approx(heights[::-1] if turned else heights, abs=1e-4)
    assert np.abs((gy(ds)[:, :, ::-1] if turned else gy(ds)) - truth.dose_gy).max() < 1e-4


def test_descending_offsets_begin_at_the_head(write):
    truth = write(dose_offsets="descending")
    (ds,) = doses(truth)
    offsets = np.array(ds.GridFrameOffsetVector, dtype=float)
    assert offsets[0] == 0
    assert (np.diff(offsets) < 0).all()
    assert frame_heights(ds)[::-1] == pytest.approx(grid_heights(truth.dose_grid), abs=1e-3)
    assert np.abs(gy(ds)[:, :, ::-1] - truth.dose_gy).max() < 1e-4


def test_uneven_offsets_leave_frames_out(write):
    truth = write(dose_offsets="uneven")
    (ds,) = doses(truth)
    gaps = np.diff(np.array(ds.GridFrameOffsetVector, dtype=float))
    assert np.unique(np.round(gaps / gaps[0], 6)).tolist() == [1.0, 2.0]
    kept = np.abs(frame_heights(ds)[:, None] - grid_heights(truth.dose_grid)).argmin(axis=1)
    assert np.abs(gy(ds) - truth.dose_gy[:, :, kept]).max() < 1e-4


def test_faulty_offsets(write):
    assert "GridFrameOffsetVector" not in doses(write("a", dose_offsets="missing"))[0]
    (short,) = doses(write("b", dose_offsets="short"))
    assert len(short.GridFrameOffsetVector) == int(short.NumberOfFrames) - 2


@pytest.mark.parametrize(("bits", "limit_gy"), [(32, 1e-6), (16, 1e-3)])
def test_bits_limit_the_error(write, bits, limit_gy):
    truth = write(dose_bits=bits)
    (ds,) = doses(truth)
    assert ds.BitsAllocated == bits
    exact = write("exact").dose_gy
    assert np.abs(gy(ds) - exact).max() < limit_gy
    assert np.abs(gy(ds) - truth.dose_gy).max() < 1e-5


def test_spacing_and_share_of_the_dose_grid(write):
    whole, part = write("a", dose_spacing_mm=5.0), write("b", dose_spacing_mm=5.0, dose_share=0.5)
    assert whole.dose_grid.spacing_mm == pytest.approx((5, 5, 5))
    assert part.dose_grid.shape[2] == round(whole.dose_grid.shape[2] / 2)
    assert np.abs(part.dose_gy - whole.dose_gy[:, :, : part.dose_grid.shape[2]]).max() < 1e-4


def test_dose_stays_straight_under_a_tilted_gantry_and_turns_with_oblique_planes(write):
    (straight,) = doses(write("a", gantry_tilt_deg=10.0))
    assert np.array(straight.ImageOrientationPatient, dtype=float) == pytest.approx([1, 0, 0, 0, 1, 0])
    truth = write("b", oblique_deg=(10.0, 0.0, 0.0))
    turned = np.array(doses(truth)[0].ImageOrientationPatient, dtype=float)
    assert turned == pytest.approx([1, 0, 0, 0, np.cos(np.radians(10)), -np.sin(np.radians(10))])
    centre = truth.dose_grid.centroid_ras(truth.dose_gy > 0.9 * truth.dose_gy.max())
    plain = write("c")
    assert centre == pytest.approx(plain.dose_grid.centroid_ras(plain.dose_gy > 0.9 * plain.dose_gy.max()), abs=4)


def test_files_refer_to_each_other(write):
    truth = write(dose="beam")
    (plan,) = (pydicom.dcmread(path) for path in truth.files["rtplan"])
    assert plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID == truth.uids["rtstruct"]
    for number, ds in enumerate(doses(truth), start=1):
        (to_plan,) = ds.ReferencedRTPlanSequence
        assert to_plan.ReferencedSOPInstanceUID == plan.SOPInstanceUID
        (group,) = to_plan.ReferencedFractionGroupSequence
        assert group.ReferencedFractionGroupNumber == 1
        assert group.ReferencedBeamSequence[0].ReferencedBeamNumber == number


def test_two_plans_have_a_dose_each(write):
    truth = write(dose="two-plans")
    plans = [pydicom.dcmread(path).SOPInstanceUID for path in truth.files["rtplan"]]
    referred = [ds.ReferencedRTPlanSequence[0].ReferencedSOPInstanceUID for ds in doses(truth)]
    assert len(set(plans)) == 2
    assert referred == plans


@pytest.mark.parametrize("plan", ["written", "absent", "unreferenced"])
def test_plan_may_be_absent_or_not_even_referred_to(write, plan):
    truth = write(plan=plan)
    assert ("rtplan" in truth.files) is (plan == "written")
    assert ("ReferencedRTPlanSequence" in doses(truth)[0]) is (plan != "unreferenced")


def test_study_without_structures(write):
    truth = write(rtstruct=False)
    assert "rtstruct" not in truth.files
    assert "ReferencedStructureSetSequence" not in doses(truth)[0]
    assert truth.structures == {}


@pytest.mark.parametrize("form", ["volume", "site", "coordinates", "none"])
def test_forms_of_the_prescription(write, pelvis, form):
    truth = write(prescription=form)
    ds = pydicom.dcmread(truth.files["rtplan"][0])
    found = list(ds.get("DoseReferenceSequence", ()))
    assert [one.DoseReferenceStructureType for one in found] == {
        "volume": ["VOLUME", "VOLUME"],
        "none": [],
    }.get(form, [form.upper()])
    for one in found:
        assert float(one.TargetPrescriptionDose) == pelvis.prescriptions_gy["PTV"]
    if form == "volume":
        numbers = [int(one.ReferencedROINumber) for one in found]
        assert numbers == [truth.structures[name].number for name in ("CTV", "PTV")]
    assert int(ds.FractionGroupSequence[0].NumberOfFractionsPlanned) == pelvis.fractions == truth.fractions


def test_imaging_beams_have_neither_dose_nor_meterset(write):
    ds = pydicom.dcmread(write(setup_beams=2).files["rtplan"][0])
    listed = ds.FractionGroupSequence[0].ReferencedBeamSequence
    assert [int(one.ReferencedBeamNumber) for one in listed if "BeamMeterset" not in one] == [4, 5]
    assert [one.TreatmentDeliveryType for one in ds.BeamSequence] == ["TREATMENT"] * 3 + ["SETUP"] * 2


def test_dvh_of_a_vendor_is_in_percent(write):
    (ds,) = doses(write(dvh_in_percent=True))
    assert ds.DVHSequence[0].DoseUnits == "RELATIVE"
    assert ds.DoseUnits == "GY"


def test_other_frame_of_reference_on_request(write):
    truth = write(foreign_frames=("rtdose",))
    assert doses(truth)[0].FrameOfReferenceUID != truth.uids["frame"]
