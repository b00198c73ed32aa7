"""Which dose of a DICOM case is the one to learn from, and whether it is the dose that the plan prescribes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.errors import CaseError

if TYPE_CHECKING:
    from mtl_med.io.rtdose import DoseHeader, RtDose
    from mtl_med.io.rtdose_choice import DosePick
    from mtl_med.io.rtplan import RtPlan
    from mtl_med.prep.dicom_source import DicomSource
    from mtl_med.prep.recipe import ReaderOptions

__all__ = ["own_plan", "pick_dose", "read_dose"]

_OF_SEVERAL = ("MULTI_PLAN", "PLAN_OVERVIEW")  # Dose Summation Types that are a sum of plans by definition


def read_dose(
    source: DicomSource, plan: RtPlan | None, options: ReaderOptions, frame_of_reference: str
) -> RtDose | None:
    """The dose of a case: of several the one that counts, or the sum that is complete; None where it has none.

    Args:
        source: the case.
        plan: its plan.
        options: what the user decides.
        frame_of_reference: UID of the CT's; "" if it has none.

    Raises:
        CaseError: as `choose_dose`.
        GeometryError: as `choose_dose`.
    """
    from mtl_med.io.rtdose_choice import choose_dose

    headers, refused = _headers(source.doses)
    if not headers:
        return None
    asks = frame_of_reference and not options.force
    dose = choose_dose(
        headers,
        _wanted(headers, plan),
        allow=options.doses,
        frame_of_reference=frame_of_reference if asks else None,
    )
    return replace(dose, notes=(*dose.notes, *(f"an RTDOSE was left out: {error.what}" for error in refused)))


def pick_dose(source: DicomSource, plan: RtPlan | None, options: ReaderOptions) -> DosePick | None:
    """The doses that `read_dose` would read, by their headers; None where there is none.

    Raises:
        CaseError: as `pick_doses`.
    """
    from mtl_med.io.rtdose_choice import pick_doses

    headers, _ = _headers(source.doses)
    return pick_doses(headers, _wanted(headers, plan), allow=options.doses) if headers else None


def own_plan(plan: RtPlan | None, dose: RtDose | None) -> tuple[RtPlan | None, str]:
    """The plan if what it prescribes is this dose, and else None with a sentence that says so.

    A dose that names no plan is that of the only one, and a plan without dose may prescribe.

    Args:
        plan: the plan of the case.
        dose: the dose that was chosen.
    """
    if plan is None or dose is None:
        return plan, ""
    if dose.summation not in _OF_SEVERAL and not set(dose.plan_uids) - {plan.sop_uid}:
        return plan, ""
    what = "is a sum of plans" if plan.sop_uid in dose.plan_uids or not dose.plan_uids else "refers to another plan"
    return None, f"neither prescription nor fractions are taken from the RTPLAN: the dose {what}"


def _headers(paths: Sequence[Path]) -> tuple[list[DoseHeader], list[CaseError]]:
    """Headers of doses, and why others cannot be used; it is an error if none can."""
    from mtl_med.io.rtdose import read_dose_header

    headers, refused = [], []
    for path in paths:
        try:
            headers.append(read_dose_header(path))
        except CaseError as error:
            refused.append(error)
    if refused and not headers:
        raise refused[0]
    return headers, refused


def _wanted(headers: Sequence[DoseHeader], plan: RtPlan | None) -> RtPlan | None:
    """The plan by which to choose; None where a dose of another plan lies beside its own, which may be meant as well.

    That the other plan was not exported does not tell which of both doses is meant.
    """
    named = {uid for dose in headers if dose.summation == "PLAN" for uid in dose.plan_uids}
    return None if plan is not None and plan.sop_uid in named and len(named) > 1 else plan
