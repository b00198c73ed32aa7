"""The structures of an RTSTRUCT as masks with names, one at a time, and what a plan prescribes to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.errors import CaseError
from mtl_med.geometry import Grid
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.rasterise import rasterise
from mtl_med.prep.recipe import ReaderOptions, StructureFact
from mtl_med.prep.target_grid import Coverage

if TYPE_CHECKING:
    from mtl_med.io.rtplan import Prescription
    from mtl_med.io.rtstruct import Roi, StructureSet
    from mtl_med.prep.names import Match

__all__ = ["Drawn", "draw", "prescribe", "require_same_frame", "tell_beyond"]


@dataclass
class Drawn:
    """What became of the structures of a case.

    Args:
        facts: name -> fact, for all structures of the structure set.
        numbers: name -> ROI number.
        unmatched: names for which no standard name is known -> the name they got.
        remarks: sentences about what is odd.
        skipped: contours that were not used.
        sop_uid: of the structure set; "" where there is none.
    """

    facts: dict[str, StructureFact] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    unmatched: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    sop_uid: str = ""


def require_same_frame(structures: StructureSet, frame_of_reference: str, where: Path) -> None:
    """Refuse structures that were drawn in another frame of reference than the CT's; no UID is no contradiction.

    Raises:
        CaseError: they were.
    """
    if structures.frame_of_reference and frame_of_reference != structures.frame_of_reference and frame_of_reference:
        raise CaseError(
            "the structures belong to another frame of reference than the CT",
            where=where,
            why="Where they lie in this CT is unknown",
            fix="Take the RTSTRUCT that was drawn on this CT, or pass --force if both are known to agree",
        )


def draw(
    rois: Sequence[Roi],
    matches: Sequence[Match],
    grid: Grid,
    masks: PackedMasks | Coverage,
    *,
    frame_of_reference: str,
    slice_pitch_mm: float | None,
    options: ReaderOptions,
    where: Path,
) -> Drawn:
    """Rasterise structures, each into `masks` under the name that it got.

    A structure without usable contours is listed as empty. One that lies in another frame of reference than the CT is
    not contoured, unless `options.force` says that both agree.

    Args:
        rois: structures as drawn.
        matches: what each of them is.
        grid: grid to draw on; its slices run parallel to the contours.
        masks: where the masks go.
        frame_of_reference: UID of the CT's; "" if it has none.
        slice_pitch_mm: distance between the slices that were drawn on, which is how thick a contour is: a slice that
            a structure leaves out stays empty, is told, and is filled on request only. None where they lay unevenly,
            or were those of another CT: then the median distance of a structure's planes.
        options: what the user decides.
        where: the RTSTRUCT, for errors.
    """
    drawn = Drawn()
    for roi, match in zip(rois, matches, strict=True):
        name = match.name
        drawn.facts[name] = StructureFact(match.original, name, match.kind, match.prescription_gy, match.above)
        drawn.numbers[name] = roi.number
        drawn.skipped += [f"{name}: {count} x {reason}" for reason, count in roi.skipped.items()]
        if not match.matched:
            drawn.unmatched[match.original] = name
        if roi.frame_of_reference not in ("", frame_of_reference) and frame_of_reference and not options.force:
            drawn.remarks.append(f"{name} is left out: it lies in another frame of reference than the CT")
            continue
        raster = rasterise(
            roi.contours,
            grid,
            plane_pitch_mm=slice_pitch_mm,
            interpolate_gaps=options.interpolate_gaps,
            where=where,
        )
        masks.add(name, raster.mask, grid)
        drawn.remarks += [f"{name}: {note}" for note in raster.notes]
        if not roi.contours and roi.skipped:
            drawn.remarks.append(f"{name} has no usable contours and is listed as empty")
        elif roi.contours and not masks.voxels[name]:
            drawn.remarks.append(_holds_nothing(name))
    return drawn


def _holds_nothing(name: str) -> str:
    return f"{name} is empty: its contours hold no voxel centre"


def tell_beyond(drawn: Drawn, coverage: Coverage) -> None:
    """Of structures that the dose grid does not reach at all, it is not to be said that their contours hold nothing."""
    beyond = {_holds_nothing(name) for name, percent in coverage.percent.items() if percent == 0}
    drawn.remarks = [remark for remark in drawn.remarks if remark not in beyond]


def prescribe(drawn: Drawn, prescriptions: Sequence[Prescription], structure_set_uid: str = "") -> None:
    """Put what a plan prescribes into the facts of targets; it counts more than what their names say.

    A prescription that names no structure is taken only where the case has a single planning target volume, and the
    plan no other dose. Structures are named by their numbers, which mean nothing outside their own structure set.

    Args:
        drawn: facts and remarks, changed in place.
        prescriptions: of the plan.
        structure_set_uid: SOP Instance UID of the structure set that the plan refers to; "" where it names none.
    """
    numbered = [item for item in prescriptions if item.roi_number is not None]
    if numbered and structure_set_uid and drawn.sop_uid and structure_set_uid != drawn.sop_uid:
        drawn.remarks.append("the plan prescribes to structures of another structure set: nothing is taken from it")
        return
    by_number: dict[int, set[float]] = {}
    for item in prescriptions:
        if item.roi_number is not None:
            by_number.setdefault(item.roi_number, set()).add(item.dose_gy)
    targets = {name: fact for name, fact in drawn.facts.items() if fact.kind == "target"}
    for name in targets:
        doses = by_number.get(drawn.numbers[name], set())
        if len(doses) == 1:
            _set(drawn, name, next(iter(doses)))
        elif doses:
            told = ", ".join(f"{dose:g}" for dose in sorted(doses))
            drawn.remarks.append(f"the plan prescribes {told} Gy to {name}: none is taken from it")
    others = len(set(by_number) - {drawn.numbers[name] for name in targets})
    if others:
        drawn.remarks.append(f"the plan prescribes to {others} structures that are no targets here")
    loose = {item.dose_gy for item in prescriptions if item.roi_number is None}
    planning = [name for name in targets if name.upper().startswith("PTV")]
    if len(loose) == 1 and not by_number and len(planning) == 1:
        _set(drawn, planning[0], next(iter(loose)))
    elif loose and not by_number and targets:
        drawn.remarks.append(f"the plan does not say to which of {len(targets)} targets it prescribes")


def _set(drawn: Drawn, name: str, dose_gy: float) -> None:
    known = drawn.facts[name].prescription_gy
    if known is not None and abs(known - dose_gy) > 0.01 * dose_gy:
        drawn.remarks.append(f"the plan prescribes {dose_gy:g} Gy to {name}, its name says {known:g} Gy")
    drawn.facts[name] = replace(drawn.facts[name], prescription_gy=dose_gy)
