"""DICOM-RT cases as they are read: every structure where it was drawn, every dose where it is known, nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset, dcmread

from mtl_med.dosimetry.inputs import from_case
from mtl_med.errors import CaseError, GeometryError
from mtl_med.io.nifti import read_nifti
from mtl_med.manifest import Case
from mtl_med.prep.convert import Job, prepare_case, read_quality
from mtl_med.prep.raw import RawCase
from mtl_med.prep.readers.dicom_rt import read, scan
from mtl_med.prep.recipe import Recipe
from mtl_med.scoring import known_dose

MadeStudy = Callable[..., "object"]
Options = Callable[..., Recipe]


def read_only(folder: Path, recipe: Recipe) -> RawCase:
    (source,) = scan(folder, recipe)
    assert not source.fault, source.fault
    return read(source, recipe)


def ras(point: np.ndarray) -> np.ndarray:
    return np.asarray(point) * [-1, -1, 1]


def test_a_study_becomes_a_case(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct().rtplan(prescriptions=[(3, 66.0)], fractions=33).rtdose(62.5, plan=1)
    case = read_only(study.folder, with_options())
    assert case.grid.axis_codes == "RAS" and case.grid.shape == (12, 10, 6)
    assert np.allclose(case.grid.spacing_mm, (3, 4, 5))
    assert case.volumes["ct"].dtype == np.int16 and case.volumes["dose"].dtype == np.float32
    assert np.allclose(case.volumes["dose"], 62.5, atol=1e-5)
    assert {name: int(case.masks[name].sum()) for name in case.masks} == {
        "Body": 10 * 8 * 6,
        "Bladder": 2 * 3 * 3,
        "PTV_7000": 4 * 3 * 4,
    }
    assert {name: (fact.original, fact.kind) for name, fact in case.facts.items()} == {
        "Body": ("BODY", "external"),
        "Bladder": ("Bladder", "oar"),
        "PTV_7000": ("PTV_7000", "target"),
    }
    assert np.array_equal(case.volumes["mask_dose"], case.masks["Body"])
    assert case.facts["PTV_7000"].prescription_gy == 66 and case.fractions == 33
    assert any("the plan prescribes 66 Gy to PTV_7000, its name says 70 Gy" in remark for remark in case.remarks)
    assert case.measures["PTV_7000.dose_coverage_percent"] == 100
    assert case.measures["dose.own_grid_max_gy"] == pytest.approx(62.5)
    assert case.account["converted"][0] == "CT of 12 x 10 x 6 voxels of 3 x 4 x 5 mm, int16"
    assert case.unmatched == {}


def test_voxels_lie_where_they_were(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct().rtdose()
    case = read_only(study.folder, with_options())
    stored = study.hu()
    for index in ((0, 0, 0), (5, 1, 2), (11, 9, 5), (3, 7, 4)):
        place = np.linalg.solve(case.grid.affine, [*ras(study.point(*index)), 1])[:3]
        assert np.abs(place - np.rint(place)).max() < 1e-9
        assert case.volumes["ct"][tuple(np.rint(place).astype(int))] == stored[index[::-1]]
    middle = ras(study.point(6.0, 4.5, 2.5) + 0.5 * (study.point(1, 1, 0) - study.point(0, 0, 0)))
    assert np.abs(case.grid.centroid_ras(case.masks["PTV_7000"]) - middle).max() < 1e-9


AXES = {
    "head-first-supine": (1, 0, 0, 0, 1, 0),
    "prone": (-1, 0, 0, 0, -1, 0),
    "decubitus": (0, -1, 0, 1, 0, 0),
    "feet-first": (-1, 0, 0, 0, 1, 0),
    "sagittal": (0, 1, 0, 0, 0, -1),
    "coronal": (1, 0, 0, 0, 0, -1),
    "oblique": (0.9848077530, 0.1736481777, 0, -0.1736481777, 0.9848077530, 0),
}


@pytest.mark.parametrize("name", AXES)
def test_structures_and_dose_of_every_orientation_lie_in_place(
    made_study: MadeStudy, with_options: Options, name: str
) -> None:
    study = made_study(cosines=tuple(map(float, AXES[name])))
    ramp = 1 + np.arange(study.slices)[:, None, None] + 0.25 * np.arange(study.columns)
    study.ct().rtstruct().rtdose(np.broadcast_to(ramp, (study.slices, study.rows, study.columns)))
    case = read_only(study.folder, with_options())
    assert case.grid.axis_codes == "RAS"
    for structure, centre in {"Bladder": (3.5, 4.0, 2.0), "PTV_7000": (6.5, 5.0, 2.5)}.items():
        found = case.grid.centroid_ras(case.masks[structure])
        assert np.abs(found - ras(study.point(*centre))).max() < 1e-3
    place = np.rint(np.linalg.solve(case.grid.affine, [*ras(study.point(8, 4, 3)), 1])[:3]).astype(int)
    assert case.volumes["dose"][tuple(place)] == pytest.approx(1 + 3 + 0.25 * 8, abs=0.011)


def dose_grid(study: object, **changes: object) -> object:
    """The same study with another grid for its dose."""
    fields = {"columns": 5, "rows": 5, "slices": 4, "spacing": (6.0, 5.0), "pitch": 6.0}
    return study.variant(**(fields | {"position": tuple(study.point(2.1, 1.9, 0.4))} | changes))


def test_dose_is_interpolated_linearly_and_unknown_outside(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct(refer="series")
    dose = dose_grid(study)
    x, y, z = np.meshgrid(*[np.arange(n) for n in (dose.columns, dose.rows, dose.slices)], indexing="ij")
    dose.rtdose((10 + 2 * x + 3 * y + 4 * z).T.astype(float))
    case = read_only(study.folder, with_options(allow_partial_dose=True))
    points = case.grid.points_ras(np.argwhere(np.ones(case.grid.shape))) * [-1, -1, 1]
    index = (points - np.array(dose.position)) @ dose.axes.T / [dose.spacing[1], dose.spacing[0], dose.pitch]
    inside = ((index >= -1e-9) & (index <= np.array([dose.columns, dose.rows, dose.slices]) - 1 + 1e-9)).all(axis=1)
    wanted = np.where(inside, 10 + index @ [2, 3, 4], 0).reshape(case.grid.shape)
    assert 0 < inside.sum() < inside.size / 2
    assert np.abs(case.volumes["dose"] - wanted).max() < 1e-4
    assert np.array_equal(case.volumes["mask_dose"] > 0, inside.reshape(case.grid.shape) & (case.masks["Body"] > 0))


def test_a_target_that_leaves_the_dose_needs_the_users_word(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct(refer="series")
    study.variant(slices=3).rtdose()
    with pytest.raises(GeometryError, match=r"dose grid covers 50 % of PTV_7000 \(expected 100 %\): dose x .*"):
        read_only(study.folder, with_options())
    case = read_only(study.folder, with_options(allow_partial_dose=True))
    assert case.measures["PTV_7000.dose_coverage_percent"] == 50
    assert any(remark.startswith("dose grid covers 50 % of PTV_7000") for remark in case.remarks)


def test_on_the_grid_of_the_dose_a_target_that_leaves_it_needs_the_users_word_too(
    made_study: MadeStudy, with_options: Options
) -> None:
    """Its mask is cut there, so that the mask itself would say that all of it is covered."""
    study = made_study().ct().rtstruct(refer="series")
    study.variant(slices=3).rtdose()
    with pytest.raises(GeometryError, match=r"dose grid covers 50 % of PTV_7000 \(expected 100 %\): .*z 45..60 mm"):
        read_only(study.folder, with_options(grid="dose"))
    case = read_only(study.folder, with_options(grid="dose", allow_partial_dose=True))
    assert case.grid.shape == (12, 10, 3) and case.masks["PTV_7000"].sum() == 4 * 3 * 2
    assert case.measures["PTV_7000.dose_coverage_percent"] == 50
    assert "Bladder is cut: the dose grid covers 66.7 % of it" in case.remarks
    assert case.kept_percent["PTV_7000"] == 50 and case.kept_percent["Bladder"] == pytest.approx(200 / 3)
    assert not read_only(study.folder, with_options(allow_partial_dose=True)).kept_percent, "the grid of the CT"


def test_a_slice_that_a_structure_leaves_out_stays_empty_and_is_told(
    made_study: MadeStudy, with_options: Options
) -> None:
    """Three contours on every second slice are no reason to believe that slices were twice as thick."""
    study = made_study(slices=9).ct()
    rois = study.usual_rois()
    rois["Bladder"] = ("ORGAN", study.box((2.5, 4.5), (2.5, 5.5), (1, 7))[::2])
    study.rtstruct(rois).rtdose()
    case = read_only(study.folder, with_options())
    drawn = np.flatnonzero(case.masks["Bladder"].any(axis=(0, 1)))
    assert drawn.tolist() == [1, 3, 5, 7]
    assert any(remark.startswith("Bladder: no contour on 3 slices in 3 gaps between") for remark in case.remarks)
    case = read_only(study.folder, with_options(interpolate_gaps=True))
    assert np.flatnonzero(case.masks["Bladder"].any(axis=(0, 1))).tolist() == list(range(1, 8))


def test_contours_of_another_ct_are_as_thick_as_they_were_drawn(made_study: MadeStudy, with_options: Options) -> None:
    """A structure set that agrees with a CT by its frame of reference alone was drawn on other slices."""
    study = made_study(slices=9).ct()
    rois = study.usual_rois()
    rois["Bladder"] = ("ORGAN", study.box((2.5, 4.5), (2.5, 5.5), (1, 7))[::2])
    study.rtstruct(rois, refer="")
    case = read_only(study.folder, with_options())
    assert np.flatnonzero(case.masks["Bladder"].any(axis=(0, 1))).tolist() == list(range(0, 8))
    assert any("each contour fills its share" in remark for remark in case.remarks)


def test_a_structure_that_the_dose_grid_does_not_reach_is_not_called_empty(
    made_study: MadeStudy, with_options: Options
) -> None:
    study = made_study(slices=8).ct()
    rois = study.usual_rois()
    rois["Liver"] = ("ORGAN", study.box((2.5, 4.5), (2.5, 5.5), (6, 7)))
    study.rtstruct(rois, refer="series")
    study.variant(slices=5).rtdose()
    case = read_only(study.folder, with_options(grid="dose"))
    assert "Liver is cut: the dose grid covers 0 % of it" in case.remarks
    assert not any("no voxel centre" in remark for remark in case.remarks)


def test_a_target_beside_the_dose_is_refused_on_every_grid(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct(refer="series")
    study.variant(slices=2, position=tuple(study.point(0, 0, 5))).rtdose()
    for grid in ("ct", "dose"):
        with pytest.raises(GeometryError, match="dose grid covers 0 % of PTV_7000"):
            read_only(study.folder, with_options(grid=grid))


def test_dose_beside_the_ct_is_refused(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct()
    study.variant(position=(500.0, 500.0, 500.0)).rtdose()
    with pytest.raises(CaseError, match="the dose grid lies outside the CT") as caught:
        read_only(study.folder, with_options())
    assert caught.value.where.startswith("P1_")


def test_an_oblique_dose_is_known_only_within_its_own_box(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct(refer="series")
    dose = dose_grid(study, cosines=tuple(map(float, AXES["oblique"])), position=tuple(study.point(4.1, 2.2, 0.4)))
    dose.rtdose(np.full((dose.slices, dose.rows, dose.columns), 20.0))
    case = read_only(study.folder, with_options(allow_partial_dose=True))
    points = case.grid.points_ras(np.argwhere(np.ones(case.grid.shape))) * [-1, -1, 1]
    index = (points - np.array(dose.position)) @ dose.axes.T / [dose.spacing[1], dose.spacing[0], dose.pitch]
    inside = ((index > 0) & (index < np.array([dose.columns, dose.rows, dose.slices]) - 1)).all(axis=1)
    assert np.array_equal(case.volumes["dose"] > 0, inside.reshape(case.grid.shape))
    assert np.allclose(case.volumes["dose"][case.volumes["dose"] > 0], 20, atol=1e-4)


def test_without_external_contour_the_dose_counts_within_the_body(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct()
    rois = study.usual_rois()
    study.rtstruct({name: rois[name] for name in ("Bladder", "PTV_7000")}).rtdose()
    case = read_only(study.folder, with_options())
    assert np.array_equal(case.volumes["mask_dose"] > 0, case.volumes["ct"] > -300)
    assert any("the body" in told for told in case.account["converted"])


def test_what_is_stored_says_that_dose_beyond_its_grid_is_unknown(
    made_study: MadeStudy, with_options: Options, tmp_path: Path
) -> None:
    """Whether or not somebody drew the patient's outline, and also where it is 0: `dvh` and `evaluate` go by it."""
    study = made_study().ct()
    rois = study.usual_rois()
    study.rtstruct({name: rois[name] for name in ("Bladder", "PTV_7000")}, refer="series")
    grid = dose_grid(study)
    dose = np.full((grid.slices, grid.rows, grid.columns), 60.0)
    dose[:, :, : grid.columns // 2] = 0
    grid.rtdose(dose)
    recipe = with_options(allow_partial_dose=True)
    (source,) = scan(study.folder, recipe)
    (tmp_path / "cases").mkdir()
    case, _ = prepare_case(recipe, tmp_path / "cases", False, Job(source, "fit"))
    assert case.dose_grid is not None and not case.names("external")
    case = Case.read(case.folder)
    stored = read_nifti(case.path("dose"), np.float32)[0]
    known = known_dose(case)
    assert known is not None and 0 < known.sum() < known.size
    assert not stored[~known].any() and 0 < np.count_nonzero(stored[known] == 0) < known.sum()
    found = from_case(case)
    covered = read_quality(case).measures
    for name in ("Bladder", "PTV_7000"):
        inside = read_nifti(case.path(f"structures/{name}"), np.uint8)[0] > 0
        assert np.array_equal(found.known[inside], known[inside])
    doses = stored[(read_nifti(case.path("structures/PTV_7000"), np.uint8)[0] > 0) & known]
    assert covered["PTV_7000.D95_gy"] == pytest.approx(np.percentile(doses, 5)), "of all that is known, and no more"


def test_ct_alone_and_ct_without_dose(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct()
    case = read_only(study.folder, with_options())
    assert set(case.volumes) == {"ct"} and not case.facts and len(case.masks) == 0
    case = read_only(study.rtstruct().folder, with_options())
    assert set(case.volumes) == {"ct"} and set(case.masks) == {"Body", "Bladder", "PTV_7000"}
    with pytest.raises(CaseError, match="no dose whose grid"):
        read_only(study.folder, with_options(grid="dose"))


@pytest.mark.parametrize("grid", [2.0, "dose"])
def test_other_grids_keep_places_and_volumes(made_study: MadeStudy, with_options: Options, grid: object) -> None:
    study = made_study().ct().rtstruct()
    fine = study.variant(
        columns=36, rows=40, slices=30, spacing=(1.0, 1.0), pitch=1.0, position=tuple(study.point(-0.33, -0.38, -0.4))
    )
    fine.rtdose(np.full((30, 40, 36), 44.0))
    case = read_only(study.folder, with_options(grid=grid))
    spacing = 1.0 if grid == "dose" else 2.0
    assert np.allclose(case.grid.spacing_mm, spacing)
    for name, voxels in {"Bladder": 2 * 3 * 3, "PTV_7000": 4 * 3 * 4}.items():
        volume = case.masks[name].sum() * case.grid.voxel_volume_mm3
        assert volume == pytest.approx(voxels * 60, rel=0.12)
        centre = {"Bladder": (3.5, 4.0, 2.0), "PTV_7000": (6.5, 5.0, 2.5)}[name]
        assert np.abs(case.grid.centroid_ras(case.masks[name]) - ras(study.point(*centre))).max() <= spacing / 2 + 1e-9
    if grid == "dose":
        assert case.grid.shape == (36, 40, 30) and np.all(case.volumes["dose"] == np.float32(44))


def test_a_thin_structure_keeps_its_thickness_on_finer_slices(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct()
    study.rtstruct({"Bladder": ("ORGAN", study.box((2.5, 4.5), (2.5, 5.5), (2, 2)))})
    case = read_only(study.folder, with_options(grid=1.0))
    volume = case.masks["Bladder"].sum() * case.grid.voxel_volume_mm3
    assert volume == pytest.approx(2 * 3 * 60, rel=0.01), "one slice of 5 mm"


@pytest.mark.parametrize("grid", [0.0, -1.0, 0.001])
def test_grids_that_cannot_be_meant_are_refused(made_study: MadeStudy, with_options: Options, grid: float) -> None:
    study = made_study().ct().rtstruct()
    with pytest.raises(GeometryError, match="spacing|would make a grid"):
        read_only(study.folder, with_options(grid=grid))


def test_beams_are_summed_when_all_are_there(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct().rtplan(beams=(1, 2))
    study.rtdose(20.0, label=1, summation="BEAM", plan=1, beam=1)
    with pytest.raises(CaseError, match="beams 2 are missing"):
        read_only(study.folder, with_options())
    study.rtdose(30.0, label=2, summation="BEAM", plan=1, beam=2)
    case = read_only(study.folder, with_options())
    assert np.allclose(case.volumes["dose"], 50)
    study.rtdose(55.0, label=3, plan=1)
    assert np.allclose(read_only(study.folder, with_options()).volumes["dose"], 55), "the dose of the plan wins"


def test_doses_of_two_plans_are_never_summed_silently(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct().rtplan(label=1).rtplan(label=2)
    study.rtdose(40.0, plan=1).rtdose(20.0, plan=2, label=2)
    with pytest.raises(CaseError, match="2 PLAN doses, expected one"):
        read_only(study.folder, with_options())
    case = read_only(study.folder, with_options(doses=("PLAN_SUM",)))
    assert np.allclose(case.volumes["dose"], 60) and any("2 PLAN doses were added up" in r for r in case.remarks)


def test_a_sum_of_plans_has_not_the_prescription_of_one(made_study: MadeStudy, with_options: Options) -> None:
    """Only the plan of 50 Gy was exported; the dose is 50 + 20 Gy."""
    study = made_study().ct().rtstruct().rtplan(label=1, prescriptions=[(3, 50.0)], fractions=25)
    study.rtdose(50.0, plan=1).rtdose(20.0, plan=2, label=2)
    with pytest.raises(
        CaseError, match="2 PLAN doses, expected one.*Keep the dose of one plan, or pass --doses PLAN_SUM"
    ):
        read_only(study.folder, with_options())
    case = read_only(study.folder, with_options(doses=("PLAN_SUM",)))
    assert np.allclose(case.volumes["dose"], 70)
    assert case.facts["PTV_7000"].prescription_gy == 70 and case.fractions is None, "by its name"
    told = "neither prescription nor fractions are taken from the RTPLAN: the dose is a sum of plans"
    assert told in case.remarks
    (study.folder / "RD2.dcm").unlink()
    case = read_only(study.folder, with_options())
    assert case.facts["PTV_7000"].prescription_gy == 50 and case.fractions == 25, "the dose of that plan alone"


@pytest.mark.parametrize("plans", [(1, 2), (1,), ()], ids=["both", "the one here", "none"])
def test_a_sum_that_the_clinic_made_has_not_the_prescription_of_one_plan(
    made_study: MadeStudy, with_options: Options, plans: tuple[int, ...]
) -> None:
    study = made_study().ct().rtstruct().rtplan(label=1, prescriptions=[(3, 50.0)], fractions=25)

    def refer(made: Dataset) -> None:
        made.ReferencedRTPlanSequence = [Dataset() for _ in plans]
        for item, plan in zip(made.ReferencedRTPlanSequence, plans, strict=True):
            item.ReferencedSOPInstanceUID = study.uid(50, plan)

    study.rtdose(70.0, summation="MULTI_PLAN", edit=refer)
    case = read_only(study.folder, with_options(doses=("MULTI_PLAN",)))
    assert case.facts["PTV_7000"].prescription_gy == 70 and case.fractions is None
    assert any("the dose is a sum of plans" in remark for remark in case.remarks)


def test_a_dose_that_names_no_plan_has_the_prescription_of_the_only_one(
    made_study: MadeStudy, with_options: Options
) -> None:
    study = made_study().ct().rtstruct().rtplan(prescriptions=[(3, 66.0)], fractions=33).rtdose(62.0)
    case = read_only(study.folder, with_options())
    assert case.facts["PTV_7000"].prescription_gy == 66 and case.fractions == 33


def test_doses_of_two_plans_on_other_grids_are_summed_on_request(made_study: MadeStudy, with_options: Options) -> None:
    """The boost was calculated on larger voxels, and not in the first slice."""
    study = made_study().ct().rtstruct().rtplan(label=1).rtplan(label=2).rtdose(40.0, plan=1)
    fields = {"columns": 8, "rows": 8, "slices": 4, "spacing": (6.0, 5.0), "pitch": 7.0}
    study.variant(**fields, position=tuple(study.point(-0.5, -0.5, 0.6))).rtdose(20.0, plan=2, label=2)
    case = read_only(study.folder, with_options(doses=("PLAN_SUM",)))
    known = case.volumes["dose"] > 0
    assert np.allclose(case.volumes["dose"][known], 60) and known.any(axis=(0, 1)).tolist() == [False] + [True] * 4 + [
        False
    ]
    assert np.array_equal(case.volumes["mask_dose"] > 0, known & (case.masks["Body"] > 0)), "known where both are"
    assert case.measures["PTV_7000.dose_coverage_percent"] == 100
    assert any("interpolated linearly onto the finest, of 3 x 4 x 5 mm" in remark for remark in case.remarks)


def test_a_dose_of_another_frame_whose_plan_is_not_here_needs_the_users_word(
    made_study: MadeStudy, with_options: Options
) -> None:
    study = made_study().ct().rtstruct()
    study.rtdose(plan=9, edit=lambda made: setattr(made, "FrameOfReferenceUID", "1.2.99"))
    with pytest.raises(CaseError, match=r"RTDOSE RD1\.dcm belongs to another frame of reference than the CT.*--force"):
        read_only(study.folder, with_options())
    assert np.allclose(read_only(study.folder, with_options(force=True)).volumes["dose"], 60)


def test_a_dose_without_a_frame_is_taken_and_told(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct()
    study.rtdose(plan=9, edit=lambda made: delattr(made, "FrameOfReferenceUID"))
    case = read_only(study.folder, with_options())
    assert np.allclose(case.volumes["dose"], 60)
    assert "the dose names no frame of reference; it is taken to lie in that of the CT" in case.remarks


def test_structures_that_were_made_anonymous_by_themselves_need_the_users_word(
    made_study: MadeStudy, with_options: Options
) -> None:
    """Series and frame have other UIDs than the CT, and so has the dose that refers to these structures."""
    study = made_study().ct()
    study.variant(series=7, frame=8).rtstruct().rtdose(structures=1)
    with pytest.raises(
        CaseError, match=r"RTSTRUCT RS1\.dcm belongs to another frame of reference than the CT.*--force"
    ):
        read_only(study.folder, with_options())
    case = read_only(study.folder, with_options(force=True))
    assert int(case.masks["Bladder"].sum()) == 18 and np.allclose(case.volumes["dose"], 60)


def test_one_dose_that_cannot_be_used_beside_a_good_one_is_told(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct().rtdose()
    study.rtdose(label=2, edit=lambda made: setattr(made, "DoseUnits", "RELATIVE"))
    case = read_only(study.folder, with_options())
    assert np.allclose(case.volumes["dose"], 60)
    assert any("an RTDOSE was left out: DoseUnits is RELATIVE" in remark for remark in case.remarks)


@pytest.mark.parametrize(
    ("prescriptions", "expected", "remark"),
    [
        ([(3, 50.4)], 50.4, "its name says 70 Gy"),
        ([(None, 60.0)], 60.0, "its name says 70 Gy"),
        ([(3, 70.0)], 70.0, ""),
        ([], 70.0, ""),
        ([(3, 50.0), (3, 20.0)], 70.0, "the plan prescribes 20, 50 Gy to PTV_7000"),
        ([(2, 30.0)], 70.0, "the plan prescribes to 1 structures that are no targets here"),
    ],
    ids=["roi", "site", "same", "none", "two-of-one", "of-an-organ"],
)
def test_prescriptions_come_from_the_plan_before_the_name(
    made_study: MadeStudy, with_options: Options, prescriptions: list, expected: float, remark: str
) -> None:
    study = made_study().ct().rtstruct().rtplan(prescriptions=prescriptions)
    case = read_only(study.folder, with_options())
    assert case.facts["PTV_7000"].prescription_gy == pytest.approx(expected)
    assert case.facts["Bladder"].prescription_gy is None
    told = [item for item in case.remarks if "prescribes" in item]
    assert bool(told) == bool(remark) and all(remark in item for item in told)


def test_a_plan_of_another_structure_set_prescribes_nothing_by_number(
    made_study: MadeStudy, with_options: Options
) -> None:
    study = made_study().ct().rtstruct().rtplan(prescriptions=[(3, 50.4)])
    (path,) = [path for path in study.folder.rglob("*.dcm") if dcmread(path, force=True).Modality == "RTPLAN"]
    plan = dcmread(path)
    plan.ReferencedStructureSetSequence[0].ReferencedSOPInstanceUID = "2.25.4711"
    plan.save_as(path)
    case = read_only(study.folder, with_options())
    assert case.facts["PTV_7000"].prescription_gy == 70, "by its name"
    assert "the plan prescribes to structures of another structure set: nothing is taken from it" in case.remarks


def test_a_prescription_to_nobody_is_not_given_to_one_of_two(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct()
    rois = study.usual_rois()
    rois |= {"PTV1": ("PTV", rois["Bladder"][1]), "PTV2": ("PTV", rois["PTV_7000"][1])}
    del rois["PTV_7000"]
    study.rtstruct(rois).rtplan(prescriptions=[(None, 60.0)])
    case = read_only(study.folder, with_options())
    assert case.facts["PTV1"].prescription_gy is None and case.facts["PTV2"].prescription_gy is None
    assert any("does not say to which of 2 targets" in remark for remark in case.remarks)


def test_another_frame_of_reference_needs_the_users_word(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct()
    study.variant(frame=2).rtstruct()
    with pytest.raises(CaseError, match="structures belong to another frame of reference"):
        read_only(study.folder, with_options())
    case = read_only(study.folder, with_options(force=True))
    assert int(case.masks["Bladder"].sum()) == 18


def test_a_single_structure_of_another_frame_is_not_contoured(made_study: MadeStudy, with_options: Options) -> None:
    def spoil(made: Dataset) -> None:
        made.StructureSetROISequence[1].ReferencedFrameOfReferenceUID = "1.2.99"

    study = made_study().ct().rtstruct(edit=spoil)
    case = read_only(study.folder, with_options())
    assert "Bladder" in case.facts and "Bladder" not in case.masks
    assert any("Bladder is left out: it lies in another frame" in remark for remark in case.remarks)
    assert int(read_only(study.folder, with_options(force=True)).masks["Bladder"].sum()) == 18


def test_different_patients_need_the_users_word(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study(patient="A").ct()
    study.variant(patient="B").rtstruct()
    with pytest.raises(CaseError, match="different PatientIDs.*--force"):
        read_only(study.folder, with_options())
    assert set(read_only(study.folder, with_options(force=True)).masks) == {"Body", "Bladder", "PTV_7000"}


def test_a_missing_slice_is_a_gap_with_its_reason(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct().rtstruct()
    study.written[2].write_bytes(b"")
    with pytest.raises(GeometryError, match="10") as caught:
        read_only(study.folder, with_options())
    assert "files beside it could not be used: 1 x is empty" in str(caught.value) and "--resample" in str(caught.value)
    case = read_only(study.folder, with_options(resample=True))
    assert case.grid.shape == (12, 10, 6) and int(case.masks["PTV_7000"].sum()) == 48
    middle = np.linalg.solve(case.grid.affine, [*ras(study.point(5, 5, 2)), 1])[:3]
    assert case.volumes["ct"][tuple(np.rint(middle).astype(int))] == 2, "between 1 and 3"


def test_unknown_names_are_listed_and_kept(made_study: MadeStudy, with_options: Options) -> None:
    study = made_study().ct()
    some = study.usual_rois()["Bladder"][1]
    rois = dict.fromkeys(("../../../tmp/evil", "z_Ring 3", "Bladder", "BLADDER", ""), ("", some))
    case = read_only(study.rtstruct(rois).folder, with_options())
    assert len(case.masks) == len(case.facts) == 5 and "Bladder" in case.masks
    assert len({name.lower() for name in case.masks}) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]+", name) for name in case.masks)
    assert "../../../tmp/evil" in case.unmatched and "z_Ring 3" in case.unmatched


def test_a_table_of_the_users_own_goes_first_and_is_read_again_when_it_changes(
    made_study: MadeStudy, with_options: Options, tmp_path: Path
) -> None:
    study = made_study().ct()
    study.rtstruct({"zz special": ("", study.usual_rois()["Bladder"][1])})
    table = tmp_path / "mine.json"
    for name in ("Bladder", "Rectum"):
        table.write_text(f'[{{"name": "{name}", "original": "zz special"}}]')
        case = read_only(study.folder, with_options(table=table))
        assert set(case.masks) == {name} and case.facts[name].original == "zz special" and not case.unmatched


SECRETS = ("Doe", "JANE", "MRN4711", "20310517", "ACC8812", "Vip Ward", "1.2.1.")


def test_a_deidentified_case_tells_nothing(made_study: MadeStudy, with_options: Options, key: Path) -> None:
    study = made_study(folder="Vip Ward", patient="MRN4711", name="Doe^JANE").ct()
    rois = study.usual_rois() | {"Doe boost": ("", study.usual_rois()["Bladder"][1]), "empty of JANE": ("", [])}
    study.rtstruct(rois).rtplan(prescriptions=[(3, 66.0)]).rtdose(plan=1)
    (study.folder / "Doe.dcm").write_bytes(b"")
    recipe = with_options(key=key)
    (source,) = scan(study.folder.parent, recipe)
    case = read(source, recipe)
    shown = repr((case.id, case.facts, case.remarks, case.account, case.unmatched, case.measures, list(case.masks)))
    shown += repr((source.id, source.account, source.remarks, source.patient))
    for secret in SECRETS:
        assert secret.lower() not in shown.lower(), shown
    assert {"Bladder", "PTV_7000", "Body"} < set(case.masks) and len(case.masks) == 5
    assert len(case.unmatched) == 2 and all(name.startswith("ROI_") for name in case.unmatched.values())


def test_errors_of_a_deidentified_run_tell_nothing(
    made_study: MadeStudy, with_options: Options, key: Path, tmp_path: Path
) -> None:
    study = made_study(folder="Vip Ward", patient="MRN4711", name="Doe^JANE").ct().rtstruct()
    study.rtdose(edit=lambda made: setattr(made, "DoseGridScaling", "0"))
    recipe = with_options(key=key)
    (source,) = scan(study.folder.parent, recipe)
    with pytest.raises(CaseError, match="DoseGridScaling") as caught:
        prepare_case(recipe, tmp_path, False, Job(source, "fit"))
    text = f"{caught.value!r} {caught.value} {caught.value.where}"
    assert not any(secret.lower() in text.lower() for secret in SECRETS), text


@pytest.mark.parametrize("name", ["JS", "J.S.", "Bo", "12", "\u738b\u4f1f"])
def test_short_names_of_structures_are_not_told_either(
    made_study: MadeStudy, with_options: Options, key: Path, name: str
) -> None:
    """They may be somebody's initials, and are too short to be looked for in sentences."""
    study = made_study()
    study.ct().rtstruct({**study.usual_rois(), name: ("", ())})
    case = read_only(study.folder, with_options(key=key))
    (told,) = [remark for remark in case.remarks if "is not drawn" in remark]
    assert re.fullmatch(r"structure 'ROI_[0-9a-f]{8}' is not drawn", told)
    assert f"'{name}'" not in str([case.remarks, case.account, case.facts, case.unmatched])


def test_a_head_is_noted_only_where_names_are_hidden(made_study: MadeStudy, with_options: Options, key: Path) -> None:
    study = made_study().ct().rtstruct().rtdose()
    for recipe in (with_options(), with_options(key=key)):
        (source,) = scan(study.folder, recipe)
        assert not any("face" in remark for remark in read(source, recipe).remarks), "this is no head"
    (source,) = scan(study.folder, with_options(deface=True))
    assert any("no skull was found" in remark for remark in read(source, with_options(deface=True)).remarks)
