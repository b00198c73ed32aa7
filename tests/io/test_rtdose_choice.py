"""Choosing among the doses of a study: the plan's own dose, complete sums, and never two plans added in silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mtl_med.errors import CaseError, GeometryError
from mtl_med.geometry import Grid
from mtl_med.io.rtdose import DoseHeader, RtDose, read_dose_header
from mtl_med.io.rtdose_choice import ALLOWANCES, choose_dose, pick_doses, sum_doses
from mtl_med.io.rtplan import RtPlan

GRID = Grid((3, 4, 5), np.diag([2.0, 2.0, 3.0, 1.0]))


def _dose(
    name: str, summation: str = "PLAN", *, plans=("1.1",), beams=(), group=None, gy=None, **changes
) -> DoseHeader:
    """A header; a dose of `gy` everywhere where that is given."""
    fields = {
        "path": Path(f"{name}.dcm"),
        "summation": summation,
        "dose_type": "PHYSICAL",
        "frame_of_reference": "1.9",
        "sop_uid": f"1.2.{name}",
        "plan_uids": plans,
        "structure_set_uid": "",
        "fraction_group": group,
        "beams": beams,
        "notes": (),
    } | changes
    if gy is None:
        return DoseHeader(**fields)
    return RtDose(**{"grid": GRID} | fields, dose_gy=np.full(GRID.shape, gy, dtype=np.float32))


def _plan(groups=None, uid: str = "1.1") -> RtPlan:
    groups = {1: (1, 2, 3)} if groups is None else groups
    return RtPlan(Path("rp.dcm"), "", uid, "", "1.9", (), 30, groups, ())


def _beams(*numbers: int, **changes) -> list[DoseHeader]:
    return [_dose(f"b{at}-{n}", "BEAM", beams=(n,), **changes) for at, n in enumerate(numbers)]


def _names(pick) -> list[str]:
    return [dose.path.stem for dose in pick.doses]


def test_the_plan_dose_wins_over_its_beams():
    pick = pick_doses([*_beams(1, 2, 3), _dose("whole")], _plan())
    assert _names(pick) == ["whole"]
    assert pick.notes == ("3 other dose files were left out: PLAN is used",)
    assert pick_doses([_dose("whole")]).notes == ()


def test_beams_are_added_only_when_all_are_there():
    dose = choose_dose(_beams(1, 2, 3, gy=2.0), _plan())
    np.testing.assert_array_equal(dose.dose_gy, np.float32(6))
    assert (dose.summation, dose.beams, dose.plan_uid, dose.sop_uid) == ("PLAN", (1, 2, 3), "1.1", "")
    assert dose.notes == ("3 BEAM doses were added up",)
    both = [_dose("two", "BEAM", beams=(2, 1)), _dose("three", "BEAM", beams=(3,))]
    assert _names(pick_doses(both, _plan())) == ["two", "three"]


@pytest.mark.parametrize(
    ("doses", "plan", "says"),
    [
        (_beams(1, 3), _plan(), "beams 2 are missing"),
        (_beams(1, 2, 3, 3), _plan(), "some beams are there twice"),
        (_beams(1, 2, 4), _plan(), "beams 3 are missing and beams 4 are not in the plan"),
        (_beams(1, 2, 3), None, "without the plan"),
        (_beams(1, 2, 3), _plan({1: (1, 2), 2: (3,)}), "2 fraction groups"),
        (_beams(1, 2, 3), _plan({}), "0 fraction groups"),
        (_beams(1, 2, 3, group=7), _plan(), "fraction group that the plan does not have"),
        ([_dose("b", "BEAM")], _plan(), "does not say of which beam"),
        ([_dose("f", "FRACTION")], _plan({1: (1,), 2: (2,)}), "2 fraction groups"),
        ([_dose("f", "FRACTION")], None, "without the plan"),
        ([_dose("x", "PLAM")], _plan(), "DoseSummationType is unknown"),
        ([_dose("m", "MULTI_PLAN")], _plan(), "MULTI_PLAN doses are used only on request"),
        ([_dose("s", "BEAM_SESSION")], _plan(), "BEAM_SESSION doses are used only on request"),
        ([_dose("b", "BRACHY")], _plan(), "BRACHY doses are used only on request"),
        ([], _plan(), "there is no dose"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_may_be_a_part_is_refused(doses, plan, says):
    with pytest.raises(CaseError, match=says):
        pick_doses(doses, plan)


def test_a_fraction_dose_stands_for_a_plan_of_one_fraction_group():
    pick = pick_doses([_dose("f", "FRACTION", group=1)], _plan())
    assert _names(pick) == ["f"]
    assert pick.notes == ("the dose is of summation type FRACTION",)
    with pytest.raises(CaseError, match="2 FRACTION doses, expected one"):
        pick_doses([_dose("f", "FRACTION"), _dose("g", "FRACTION")], _plan())


def test_two_plan_doses_are_never_added_silently():
    two = [_dose("boost", plans=("1.2",), gy=20.0), _dose("first", gy=46.0)]
    with pytest.raises(CaseError, match=r"2 PLAN doses, expected one. they belong to 2 plans") as caught:
        choose_dose(two)
    assert "boost.dcm, first.dcm" in str(caught.value)
    assert _names(pick_doses(two, _plan())) == ["first"]
    total = choose_dose(two, allow=["PLAN_SUM"])
    np.testing.assert_array_equal(total.dose_gy, np.float32(66))
    assert (total.summation, total.plan_uids) == ("MULTI_PLAN", ("1.2", "1.1"))
    assert total.notes == ("2 PLAN doses were added up",)


def test_a_sum_that_is_asked_for_does_not_hang_on_which_plan_lies_there():
    two = [_dose("boost", plans=("1.2",), gy=20.0), _dose("first", gy=46.0)]
    for plan in (_plan(), None):
        assert _names(pick_doses(two, plan, allow=["PLAN_SUM"])) == ["boost", "first"]


def test_two_doses_of_one_plan_are_ambiguous_even_where_sums_are_allowed():
    two = [_dose("old"), _dose("new")]
    for allow in ((), ("PLAN_SUM",)):
        with pytest.raises(CaseError, match="2 PLAN doses, expected one"):
            pick_doses(two, _plan(), allow=allow)


def test_copies_of_one_file_count_once():
    pick = pick_doses([_dose("rd"), _dose("copy", sop_uid="1.2.rd")], _plan())
    assert _names(pick) == ["rd"]
    assert pick.notes == ("1 dose files that are copies of another were left out",)


def test_doses_of_other_plans_are_left_out_and_counted():
    pick = pick_doses([_dose("other", plans=("1.2",)), _dose("mine")], _plan())
    assert _names(pick) == ["mine"]
    assert pick.notes == ("1 dose files that do not refer to the plan were left out",)
    with pytest.raises(CaseError, match="the plan has no dose"):
        pick_doses([_dose("other", plans=("1.2",))], _plan())


def test_a_dose_that_names_no_plan_is_taken_and_reported():
    pick = pick_doses([_dose("orphan", plans=()), _dose("other", plans=("1.2",))], _plan())
    assert _names(pick) == ["orphan"]
    assert pick.notes[0] == "the dose refers to no plan; it is taken for the dose of this one"


@pytest.mark.parametrize("summation", ["MULTI_PLAN", "BRACHY", "FRACTION_SESSION", "BEAM_SESSION", "BRACHY_SESSION"])
def test_other_summations_are_read_on_request(summation):
    assert summation in ALLOWANCES
    pick = pick_doses([_dose("rd", summation)], _plan(), allow=[summation])
    assert pick.notes == (f"the dose is of summation type {summation}",)


def test_session_stands_for_all_kinds_of_session():
    assert _names(pick_doses([_dose("rd", "BEAM_SESSION")], _plan(), allow=["SESSION"])) == ["rd"]
    with pytest.raises(CaseError, match="Pass --doses BRACHY if that is meant"):
        pick_doses([_dose("rd", "BRACHY")], _plan(), allow=["SESSION"])


def test_a_sum_that_the_clinic_made_wins_over_several_plans_on_request():
    doses = [_dose("a"), _dose("b", plans=("1.2",)), _dose("sum", "MULTI_PLAN", plans=("1.1", "1.2"))]
    assert _names(pick_doses(doses, allow=["MULTI_PLAN"])) == ["sum"]
    with pytest.raises(CaseError, match="2 PLAN doses"):
        pick_doses(doses)


def test_physical_and_effective_dose_are_not_mixed():
    doses = [_dose("physical"), _dose("effective", dose_type="EFFECTIVE")]
    with pytest.raises(CaseError, match="both physical and effective dose"):
        pick_doses(doses, _plan())
    assert _names(pick_doses(doses, _plan(), allow=["EFFECTIVE"])) == ["effective"]
    assert _names(pick_doses(doses, _plan(), allow=["PHYSICAL"])) == ["physical"]
    assert _names(pick_doses(doses[1:], _plan())) == ["effective"]


def _moved(mm: float) -> Grid:
    return Grid(GRID.shape, GRID.affine + np.pad([[mm]], ((0, 3), (3, 0))))


def test_doses_on_other_grids_are_added_where_all_are_known_and_it_is_told():
    doses = [_dose("a", gy=1.0), _dose("b", gy=2.0, grid=_moved(0.5), plans=("1.2",))]
    total = choose_dose(doses, allow=["PLAN_SUM"])
    assert total.grid.shape == total.dose_gy.shape == (2, 4, 5)
    np.testing.assert_allclose(total.dose_gy, 3.0)
    assert total.notes[0] == "2 PLAN doses were added up"
    assert "the doses lie on 2 grids: they were interpolated linearly onto the finest" in total.notes[1]
    with pytest.raises(GeometryError, match=r"a\.dcm, b\.dcm: the grids of the doses to be added do not overlap"):
        sum_doses([doses[0], _dose("b", gy=1.0, grid=_moved(50.0))])


def test_doses_of_other_types_or_frames_are_not_added():
    first = _dose("a", gy=1.0)
    for changes in ({"dose_type": "EFFECTIVE"}, {"frame_of_reference": "1.8"}):
        with pytest.raises(CaseError, match="cannot be added"):
            sum_doses([first, _dose("b", gy=1.0, **changes)])
    with pytest.raises(CaseError, match="no dose to add up"):
        sum_doses([])


def test_adding_leaves_the_single_doses_as_they_were():
    doses = _beams(1, 2, 3, gy=2.0)
    total = choose_dose(doses, _plan())
    assert {float(dose.dose_gy.max()) for dose in doses} == {2.0}
    assert total.dose_gy.dtype == np.float32
    single = choose_dose(doses[:1], _plan({1: (1,)}))
    assert single.dose_gy is doses[0].dose_gy
    assert single.sop_uid == doses[0].sop_uid


def test_the_beam_dose_of_the_eclipse_study_is_no_plan_dose(dicom_rt_data):
    plan = read_dose_header(dicom_rt_data / "eclipse_prostate" / "RD.dcm")
    beam = read_dose_header(dicom_rt_data / "one_defect_files" / "rd_beam_only.dcm")
    with pytest.raises(CaseError, match="none of 1 dose files can stand for the whole treatment"):
        choose_dose([beam])
    assert choose_dose([plan]).dose_gy.max() == pytest.approx(47.0756, abs=5e-5)
