"""Which of the doses of a study is the one to learn from, and sums of beams that are certain to be complete."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtl_med.errors import CaseError
from mtl_med.io.rtdose import DoseHeader, RtDose, read_rtdose
from mtl_med.io.rtdose_sum import DoseSum
from mtl_med.io.rtplan import RtPlan

__all__ = ["ALLOWANCES", "DosePick", "choose_dose", "pick_doses", "sum_doses"]

# Dose Summation Types that are taken only where they are asked for: they hold several plans or a part of one.
ON_REQUEST = (
    *("MULTI_PLAN", "PLAN_OVERVIEW", "BRACHY", "FRACTION_SESSION", "BEAM_SESSION", "BRACHY_SESSION"),
    *("CONTROL_POINT", "RECORD"),
)
# What `allow` can hold: the above, SESSION for all that end so, PLAN_SUM to add the doses of several plans, and a dose
# type where both types are there.
ALLOWANCES = (*ON_REQUEST, "SESSION", "PLAN_SUM", "PHYSICAL", "EFFECTIVE")


@dataclass(frozen=True)
class DosePick:
    """The doses that are to be used.

    Args:
        doses: one, or several to be added.
        notes: sentences about what was left out or added.
    """

    doses: tuple[DoseHeader, ...]
    notes: tuple[str, ...]


def choose_dose(
    doses: Sequence[DoseHeader],
    plan: RtPlan | None = None,
    *,
    allow: Collection[str] = (),
    frame_of_reference: str | None = None,
) -> RtDose:
    """The one dose of a study, read and where needed summed.

    Args:
        doses: headers, or doses that are read already.
        plan: the plan whose dose is wanted.
        allow: as for `pick_doses`.
        frame_of_reference: as for `read_rtdose`.

    Raises:
        CaseError: as `pick_doses` and `read_rtdose`.
        GeometryError: the grids of doses to be added do not overlap.
    """
    pick = pick_doses(doses, plan, allow=allow)
    read = (dose if isinstance(dose, RtDose) else _read(dose.path, frame_of_reference) for dose in pick.doses)
    return sum_doses(read, notes=pick.notes)


def _read(path: Path, frame_of_reference: str | None) -> RtDose:
    return read_rtdose(path, frame_of_reference=frame_of_reference)


def pick_doses(doses: Sequence[DoseHeader], plan: RtPlan | None = None, *, allow: Collection[str] = ()) -> DosePick:
    """Choose among the doses of a study by their headers.

    A PLAN dose wins over the others. A FRACTION dose stands for the plan if the plan has one fraction group; BEAM doses
    do, added up, if in addition every beam of the group is there once. Doses of several plans, sessions, brachytherapy
    and parts are taken only where `allow` names them, and doses of two plans are added only where it holds "PLAN_SUM".

    Args:
        doses: headers.
        plan: the plan whose dose is wanted; without it only doses of whole plans can be used.
        allow: members of ALLOWANCES.

    Raises:
        CaseError: no dose can be used, or several can and it is not clear which is meant.

    Source: DICOM PS3.3 C.8.8.3 (Dose Summation Type); each type covers all fractions of what it is summed over.
    """
    if "SESSION" in allow:
        allow = [*allow, *(kind for kind in ON_REQUEST if kind.endswith("_SESSION"))]
    distinct = _distinct(doses)
    plan_doses = [dose for dose in distinct if dose.summation == "PLAN"]
    # A sum of plans is asked for: that the file of one of them is missing does not make its dose another treatment's.
    adds = "PLAN_SUM" in allow and len({dose.plan_uids for dose in plan_doses}) > 1
    candidates, notes = _of_plan(distinct, None if adds else plan)
    if len(distinct) < len(doses):
        notes.append(f"{len(doses) - len(distinct)} dose files that are copies of another were left out")
    kinds: dict[str, list[DoseHeader]] = {}
    for dose in candidates:
        kinds.setdefault(dose.summation, []).append(dose)
    reasons = []
    for kind in ("PLAN", "FRACTION", "BEAM", *(kind for kind in ON_REQUEST if kind in allow)):
        found = _one_type(kinds.get(kind, []), allow)
        if kind == "PLAN" and len(found) > 1 and "MULTI_PLAN" in allow and len(kinds.get("MULTI_PLAN", [])) == 1:
            continue
        reason = _why_not(kind, found, plan, allow)
        if found and not reason:
            return DosePick(tuple(found), tuple(notes + _notes(kind, found, candidates)))
        reasons += [reason] if reason else []
    asked = sorted({kind for kind in kinds if kind in ON_REQUEST} - set(allow))
    reasons += [f"{kind} doses are used only on request" for kind in asked]
    reasons += ["its DoseSummationType is unknown"] if set(kinds) - {"PLAN", "FRACTION", "BEAM", *ON_REQUEST} else []
    raise CaseError(
        f"none of {len(candidates)} dose files can stand for the whole treatment" if candidates else "there is no dose",
        where=_where(candidates),
        why="; ".join(reasons),
        fix=f"Pass --doses {' '.join(asked)} if that is meant" if asked else "Export the dose of the whole plan",
    )


def _distinct(doses: Iterable[DoseHeader]) -> list[DoseHeader]:
    """Without copies of the same file."""
    found: dict[object, DoseHeader] = {}
    for dose in doses:
        found.setdefault(dose.sop_uid or dose.path, dose)
    return list(found.values())


def _of_plan(doses: list[DoseHeader], plan: RtPlan | None) -> tuple[list[DoseHeader], list[str]]:
    """Doses that refer to the plan; if none does, those that refer to no plan at all."""
    if plan is None or not doses:
        return doses, []
    mine = [dose for dose in doses if plan.sop_uid in dose.plan_uids]
    unnamed = [dose for dose in doses if not dose.plan_uids]
    if not mine and not unnamed:
        raise CaseError(
            f"the plan has no dose: all {len(doses)} dose files refer to other plans",
            where=_where(doses),
            fix="Export the dose of this plan",
        )
    chosen, notes = (
        (mine, []) if mine else (unnamed, ["the dose refers to no plan; it is taken for the dose of this one"])
    )
    if len(chosen) < len(doses):
        notes.append(f"{len(doses) - len(chosen)} dose files that do not refer to the plan were left out")
    return chosen, notes


def _one_type(doses: list[DoseHeader], allow: Collection[str]) -> list[DoseHeader]:
    """Doses of the type that was asked for, where there are physical and effective ones."""
    types = {dose.dose_type for dose in doses}
    wanted = types & set(allow)
    return [dose for dose in doses if dose.dose_type in wanted] if len(types) > 1 and len(wanted) == 1 else doses


def _why_not(kind: str, doses: list[DoseHeader], plan: RtPlan | None, allow: Collection[str]) -> str:
    """Why doses of one summation type cannot be used; "" if they can, or there are none."""
    if not doses:
        return ""
    if len({dose.dose_type for dose in doses}) > 1:
        raise _ambiguous(
            kind, doses, "there is both physical and effective dose", "Pass --doses PHYSICAL or --doses EFFECTIVE"
        )
    if kind == "PLAN" and len(doses) > 1 and "PLAN_SUM" in allow:
        return _why_no_plan_sum(doses)
    if kind in ("FRACTION", "BEAM"):
        reason = _why_no_part(kind, doses, plan)
        if reason or kind == "BEAM":
            return reason
    if len(doses) > 1:
        plans = len({dose.plan_uids for dose in doses})
        fix = (
            "Keep the dose of one plan, or pass --doses PLAN_SUM to add them"
            if plans > 1
            else "Keep the one that is meant"
        )
        raise _ambiguous(kind, doses, f"they belong to {plans} plans" if plans > 1 else "", fix)
    return ""


def _why_no_plan_sum(doses: list[DoseHeader]) -> str:
    plans = {dose.plan_uids for dose in doses}
    if len(plans) < len(doses) or () in plans:
        raise _ambiguous("PLAN", doses, "not every one belongs to a plan of its own", "Keep one dose per plan")
    return ""


def _why_no_part(kind: str, doses: list[DoseHeader], plan: RtPlan | None) -> str:
    if plan is None:
        return f"without the plan it is unknown whether its {kind} doses are complete"
    if len(plan.fraction_groups) != 1:
        return f"the plan has {len(plan.fraction_groups)} fraction groups, {kind} doses need exactly one"
    ((group, wanted),) = plan.fraction_groups.items()
    if any(dose.fraction_group not in (None, group) for dose in doses):
        return f"a {kind} dose refers to a fraction group that the plan does not have"
    if kind == "FRACTION":
        return ""
    beams = [beam for dose in doses for beam in dose.beams]
    if any(not dose.beams for dose in doses):
        return "a BEAM dose does not say of which beam"
    if sorted(beams) == sorted(wanted):
        return ""
    missing, unknown = sorted(set(wanted) - set(beams)), sorted(set(beams) - set(wanted))
    parts = [f"beams {_list(missing)} are missing"] if missing else []
    parts += [f"beams {_list(unknown)} are not in the plan"] if unknown else []
    return f"of {len(wanted)} BEAM doses {' and '.join(parts or ['some beams are there twice'])}"


def _list(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")


def _ambiguous(kind: str, doses: list[DoseHeader], why: str, fix: str) -> CaseError:
    return CaseError(f"{len(doses)} {kind} doses, expected one", where=_where(doses), why=why, fix=fix)


def _where(doses: list[DoseHeader]) -> str:
    return ", ".join(str(dose.path) for dose in doses[:4]) + (", ..." if len(doses) > 4 else "")


def _notes(kind: str, used: list[DoseHeader], candidates: list[DoseHeader]) -> list[str]:
    notes = [f"{len(used)} {kind} doses were added up"] if len(used) > 1 else []
    if kind not in ("PLAN", "BEAM"):
        notes.append(f"the dose is of summation type {kind}")
    rest = len(candidates) - len(used)
    return [*notes, f"{rest} other dose files were left out: {kind} is used"] if rest else notes


def sum_doses(doses: Iterable[RtDose], *, notes: Sequence[str] = ()) -> RtDose:
    """The sum of doses, as `DoseSum` makes it; a single dose comes back with nothing but the notes added.

    Args:
        doses: read one after the other, so that a generator keeps memory low.
        notes: sentences to put before their own.

    Raises:
        CaseError: no dose, or doses of different type or frame of reference.
        GeometryError: their grids do not overlap.
    """
    iterator: Iterator[RtDose] = iter(doses)
    first = next(iterator, None)
    if first is None:
        raise CaseError("there is no dose to add up", fix="Export the dose")
    total = DoseSum()
    total.add(first.dose_gy, first.grid)
    used: list[DoseHeader] = [first]
    for dose in iterator:
        if (dose.dose_type, dose.frame_of_reference) != (first.dose_type, first.frame_of_reference):
            raise CaseError(
                "two doses of different type or frame of reference cannot be added",
                where=_where([first, dose]),
                fix="Export them again, for one CT",
            )
        total.add(dose.dose_gy, dose.grid)
        used.append(_without_voxels(dose))
    dose_gy, grid, told = total.total(_where(used))
    own = dict.fromkeys(note for dose in used for note in dose.notes)
    fields = vars(first) | {"dose_gy": dose_gy, "grid": grid, "notes": (*notes, *told, *own)}
    if len(used) > 1:
        plans = tuple(dict.fromkeys(uid for dose in used for uid in dose.plan_uids))
        beams = tuple(beam for dose in used for beam in dose.beams)
        summation = "PLAN" if len(plans) < 2 else "MULTI_PLAN"
        fields |= {"sop_uid": "", "plan_uids": plans, "beams": beams, "summation": summation}
    return RtDose(**fields)


def _without_voxels(dose: RtDose) -> DoseHeader:
    return DoseHeader(**{key: value for key, value in vars(dose).items() if key not in ("dose_gy", "grid")})
