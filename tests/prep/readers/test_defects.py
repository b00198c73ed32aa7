"""The real study with one of its files replaced by a defective copy: what the specification's table says, happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from mtl_med.errors import CaseError, GeometryError
from mtl_med.prep.raw import RawCase
from mtl_med.prep.readers.dicom_rt import read, scan
from mtl_med.prep.recipe import Recipe

Options = Callable[..., Recipe]
NAMES = {
    "Body": "BODY",
    "Bladder": "Bladder",
    "Femur_Head_L": "Femoral Head Lt",
    "Femur_Head_R": "Femoral Head RT",
    "PTV": "PTV",
    "Rectum": "Rectum",
}
REPLACED = "CT.050.dcm"  # the slice at z = -2.5 mm, of which the defective CT files are copies


def read_only(folder: Path, recipe: Recipe) -> RawCase:
    (source,) = scan(folder, recipe)
    assert not source.fault, source.fault
    return read(source, recipe)


@pytest.fixture(scope="module")
def plain(coarse_eclipse: Path, dicom_recipe: Recipe) -> RawCase:
    """The study without defect, with a coarse CT."""
    return read_only(coarse_eclipse, dicom_recipe)


@pytest.fixture
def with_defect(
    coarse_eclipse: Path, dicom_rt_data: Path, linked_copy: Callable[..., Path], tmp_path: Path
) -> Callable[[str], Path]:
    """`with_defect("rs_open_planar")` is a copy of the coarse study with that file in place of its own."""

    def make(defect: str) -> Path:
        original = {"rs": "RS.dcm", "rd": "RD.dcm", "ct": REPLACED}[defect[:2]]
        bad = dicom_rt_data / "one_defect_files" / f"{defect}.dcm"
        return linked_copy(coarse_eclipse, tmp_path / defect, without=[original], plus=[bad])

    return make


def same_masks(case: RawCase, plain: RawCase, but: str = "") -> bool:
    return all(np.array_equal(case.masks[name], plain.masks[name]) for name in NAMES if name != but)


def test_the_study_itself(plain: RawCase) -> None:
    assert {name: fact.original for name, fact in plain.facts.items()} == NAMES
    assert plain.measures["dose.own_grid_max_gy"] == pytest.approx(47.0756, abs=1e-4)
    assert plain.measures["dose.own_grid_mean_gy"] == pytest.approx(9.9408, abs=1e-4)
    assert plain.measures["PTV.dose_coverage_percent"] == 100
    assert plain.remarks == [] and plain.unmatched == {}
    assert plain.facts["PTV"].prescription_gy is None and plain.fractions is None
    inside = plain.volumes["mask_dose"] > 0
    assert (
        not (inside & (plain.masks["Body"] == 0)).any()
        and (plain.volumes["dose"][~inside & (plain.masks["Body"] > 0)] == 0).all()
    )


REFUSED = {
    "rd_beam_only": "without the plan it is unknown whether its BEAM doses are complete",
    "rd_no_scaling": "DoseGridScaling",
    "rd_relative_units": "DoseUnits is RELATIVE, expected GY",
    "rd_truncated_pixels": "truncated",
    "rd_wrong_for": "another frame of reference than the CT",
    "rs_wrong_frame_of_reference": "another frame of reference than the CT",
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refused_with_the_reason(with_defect: Callable[[str], Path], with_options: Options, defect: str) -> None:
    folder = with_defect(defect)
    with pytest.raises(CaseError, match=REFUSED[defect]) as caught:
        read_only(folder, with_options())
    assert str(folder / f"{defect}.dcm") in str(caught.value)


@pytest.mark.parametrize("defect", ["rd_wrong_for", "rs_wrong_frame_of_reference"])
def test_the_user_may_overrule_the_frame_of_reference(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase, defect: str
) -> None:
    case = read_only(with_defect(defect), with_options(force=True))
    assert same_masks(case, plain) and np.array_equal(case.volumes["dose"], plain.volumes["dose"])


def test_absolute_offsets_mean_the_same_dose(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase
) -> None:
    case = read_only(with_defect("rd_gfov_absolute_option_b"), with_options())
    assert np.array_equal(case.volumes["dose"], plain.volumes["dose"]) and case.remarks == []


SKIPPED = {
    "rs_contourdata_not_multiple_of_3": "coordinates not a multiple of 3",
    "rs_open_planar": "open contour",
    "rs_point_contour": "point",
}


@pytest.mark.parametrize("defect", SKIPPED)
def test_one_contour_is_skipped_and_counted_and_its_structure_stays(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase, defect: str
) -> None:
    case = read_only(with_defect(defect), with_options())
    assert same_masks(case, plain, but="PTV")
    lost = (plain.masks["PTV"] > 0) & (case.masks["PTV"] == 0)
    assert lost.any() and (case.masks["PTV"] <= plain.masks["PTV"]).all()
    assert len(np.unique(np.nonzero(lost)[2])) == 1, "the contour of a single slice"
    assert case.account["skipped"] == [f"PTV: 1 x {SKIPPED[defect]}"]
    assert any(SKIPPED[defect] in remark and "PTV" in remark for remark in case.remarks)


def test_contours_between_slices_go_to_the_nearest(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase
) -> None:
    case = read_only(with_defect("rs_contours_between_slices"), with_options())
    assert same_masks(case, plain, but="PTV")
    assert case.masks["PTV"].sum() == pytest.approx(plain.masks["PTV"].sum(), rel=0.01)
    shift = case.grid.centroid_ras(case.masks["PTV"]) - plain.grid.centroid_ras(plain.masks["PTV"])
    assert abs(shift[2]) == pytest.approx(1.25, abs=1.3) and np.abs(shift[:2]).max() < 0.01
    assert any("20 contours lie between slices and were put on the nearest" in remark for remark in case.remarks)


@pytest.mark.parametrize("defect", ["rs_duplicate_roi_names", "rs_empty_roi_name", "rs_roi_name_path_traversal"])
def test_bad_names_become_unique_safe_ones_and_all_structures_stay(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase, defect: str
) -> None:
    original = {
        "rs_duplicate_roi_names": "PTV",
        "rs_empty_roi_name": "",
        "rs_roi_name_path_traversal": "../../../tmp/evil",
    }
    case = read_only(with_defect(defect), with_options())
    (new,) = set(case.masks) - set(NAMES)
    assert len(case.masks) == 6 and "/" not in new and ".." not in new and new
    assert case.facts[new].original == original.get(defect, "")
    if defect == "rs_duplicate_roi_names":  # the first that has contours keeps the name
        assert np.array_equal(case.masks["PTV"], plain.masks["Bladder"])
        assert np.array_equal(case.masks[new], plain.masks["PTV"])
    else:
        assert same_masks(case, plain, but="Bladder") and np.array_equal(case.masks[new], plain.masks["Bladder"])
    if defect != "rs_duplicate_roi_names":
        assert case.unmatched == {original.get(defect, ""): new}


def test_no_contours_is_an_empty_structure(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase
) -> None:
    case = read_only(with_defect("rs_no_contour_sequence"), with_options())
    assert same_masks(case, plain, but="Bladder")
    assert not case.masks["Bladder"].any() and "Bladder" in case.facts
    assert case.remarks == ["structure 'Bladder' is not drawn"]


CT_REFUSED = {
    "ct_empty": (GeometryError, r"5 mm.*files beside it could not be used: 1 x is empty.*--resample"),
    "ct_garbage": (GeometryError, r"5 mm.*files beside it could not be used: 1 x is no DICOM file.*--resample"),
    "ct_no_ipp": (CaseError, "ImagePositionPatient"),
    "ct_truncated": (CaseError, "truncated|pixel"),
}


@pytest.mark.parametrize("defect", CT_REFUSED)
def test_a_ct_with_a_bad_slice_is_refused(
    with_defect: Callable[[str], Path], with_options: Options, defect: str
) -> None:
    kind, message = CT_REFUSED[defect]
    with pytest.raises(kind, match=message):
        read_only(with_defect(defect), with_options())


@pytest.mark.parametrize("defect", ["ct_empty", "ct_garbage"])
def test_a_skipped_slice_is_interpolated_on_request(
    with_defect: Callable[[str], Path], with_options: Options, plain: RawCase, defect: str
) -> None:
    case = read_only(with_defect(defect), with_options(resample=True))
    assert same_masks(case, plain) and case.grid.shape == plain.grid.shape
    differ = np.flatnonzero((case.volumes["ct"] != plain.volumes["ct"]).any(axis=(0, 1)))
    assert set(differ) <= {50}
    assert any("95" in remark or "1 of 96" in remark for remark in case.remarks)
    assert any("could not be used" in remark for remark in case.remarks)


def test_a_slice_of_other_identity_takes_its_place(
    dicom_rt_data: Path, linked_copy: Callable[..., Path], tmp_path: Path, with_options: Options
) -> None:
    """In place of the original the duplicate position is no duplicate: only its identity is new."""
    bad = dicom_rt_data / "one_defect_files" / "ct_duplicate_slice_position.dcm"
    folder = linked_copy(dicom_rt_data / "eclipse_prostate", tmp_path / "x", without=[REPLACED, "RD.dcm"], plus=[bad])
    case = read_only(folder, with_options(grid=6.0))
    assert "1 of 96 images that the RTSTRUCT refers to are not in the CT series" in case.remarks
    assert any(".csv file" in told for told in case.account["skipped"])


def test_a_slice_that_is_there_twice(
    dicom_rt_data: Path, linked_copy: Callable[..., Path], tmp_path: Path, with_options: Options
) -> None:
    """Beside its original: the copy has the same values, and is dropped with a remark."""
    bad = dicom_rt_data / "one_defect_files" / "ct_duplicate_slice_position.dcm"
    folder = linked_copy(dicom_rt_data / "eclipse_prostate", tmp_path / "x", without=["RD.dcm", "RS.dcm"], plus=[bad])
    case = read_only(folder, with_options())
    assert case.grid.shape == (512, 512, 96)
    assert any("1 repeated slice was dropped" in remark for remark in case.remarks)


def test_the_full_study_is_read_as_others_read_it(dicom_rt_data: Path, with_options: Options) -> None:
    """CT as SimpleITK reads it; volumes as the polygons have them (shared data: NOTES.md)."""
    folder = dicom_rt_data / "eclipse_prostate"
    case = read_only(folder, with_options())
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames([str(path) for path in sorted(folder.glob("CT.*"))])
    image = sitk.DICOMOrient(reader.Execute(), "LPS")
    values = sitk.GetArrayFromImage(image)  # z, y, x; LPS
    assert np.array_equal(case.volumes["ct"], values[:, ::-1, ::-1].T)
    origin = image.TransformIndexToPhysicalPoint((511, 511, 0))
    assert np.allclose(case.grid.affine[:3, 3], np.array(origin) * [-1, -1, 1])
    exact_cc = {"Body": 10697.2, "Bladder": 117.49, "Femur_Head_L": 49.40, "Femur_Head_R": 50.34, "PTV": 49.18}
    for name, volume_cc in exact_cc.items():
        found = case.masks[name].sum() * case.grid.voxel_volume_mm3 / 1000
        assert found == pytest.approx(volume_cc, rel=0.002), name
    assert case.remarks == []
    rectum = case.masks["Rectum"].sum() * case.grid.voxel_volume_mm3 / 1000
    assert rectum == pytest.approx(30.72, rel=3 * 0.0009)
