"""A case put together: CT, structures and dose in RAS on one grid, and whether they cover each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import GeometryError
from mtl_med.geometry import Grid
from mtl_med.prep.body import body_mask
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.raw import RawCase
from mtl_med.prep.recipe import ReaderOptions, StructureFact
from mtl_med.prep.target_grid import Coverage, PlacedDose, extent, place_dose
from mtl_med.prep.turning import part_of

__all__ = ["KnownDose", "assemble"]


_ON_THE_SURFACE = ("Skin", "Scalp", "Nose", "Ear_External_L", "Ear_External_R")


@dataclass(frozen=True, eq=False)
class KnownDose:
    """A dose in RAS, on its own grid.

    Args:
        dose_gy: (X, Y, Z) float32 Gy.
        grid: its grid, RAS order.
        summary: what it is, for the account.
        mask: (X, Y, Z) uint8 on the case's grid: where it counts, if the source says so.
    """

    dose_gy: NDArray[np.float32]
    grid: Grid
    summary: str = ""
    mask: NDArray[np.uint8] | None = None


@dataclass
class _Told:
    converted: list[str] = field(default_factory=list)
    measures: dict[str, float] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def assemble(
    case_id: str,
    ct: NDArray,
    masks: PackedMasks,
    facts: Mapping[str, StructureFact],
    dose: KnownDose | None,
    options: ReaderOptions,
    coverage: Coverage | None = None,
) -> RawCase:
    """The case on the grid of its masks, as the engine wants it.

    `mask_dose` is where the dose is known within the structure of kind "external" (the largest, if there are several),
    or within the body where nobody drew it. Where the dose is not known it is stored as 0, and `mask_dose` is 0.

    Args:
        case_id: id of the case.
        ct: (X, Y, Z) HU on `masks.grid`.
        masks: contoured structures.
        facts: name -> fact, of structures that are not contoured too.
        dose: the dose, if there is one.
        options: what the user decides: whether a target may leave the dose grid, and whether faces go.
        coverage: what the dose grid covers of the structures before they were cut to it; None where they were not.

    Raises:
        GeometryError: the dose grid does not cover a target.
    """
    told = _Told()
    outline = _outline(masks, facts)
    if dose is None and not options.deface and options.key is None:
        within = None
    else:
        within = masks[outline] if outline else body_mask(ct)
        ct = _without_face(ct, within, masks, facts, options, told)
    volumes: dict[str, NDArray] = {"ct": ct}
    if dose is not None and within is not None:
        placed = place_dose(dose.dose_gy, dose.grid, masks.grid)
        _check_coverage(case_id, placed, dose.grid, masks, facts, options, told, coverage)
        volumes["dose"] = placed.dose_gy
        if dose.mask is not None:
            within = dose.mask & within if options.deface else dose.mask
        volumes["mask_dose"] = placed.keep_known(within)
        _tell_dose(dose, outline, told)
    told.converted.insert(0, _structures_told(masks, facts))
    return RawCase(
        id=case_id,
        grid=masks.grid,
        volumes=volumes,
        masks=masks,
        facts=dict(facts),
        measures=told.measures,
        remarks=told.remarks,
        account={"converted": told.converted},
        dose_grid=dose.grid if dose is not None and dose.mask is None else None,
        kept_percent={name: share for name, share in coverage.percent.items() if share < 100} if coverage else {},
    )


def _outline(masks: PackedMasks, facts: Mapping[str, StructureFact]) -> str:
    """Name of the largest structure of kind "external" that is not empty; "" where there is none."""
    sizes = {name: masks.voxels[name] for name, fact in facts.items() if fact.kind == "external" and name in masks}
    largest = max(sizes, key=lambda name: sizes[name], default="")
    return largest if largest and sizes[largest] else ""


def _check_coverage(
    case_id: str,
    placed: PlacedDose,
    dose_grid: Grid,
    masks: PackedMasks,
    facts: Mapping[str, StructureFact],
    options: ReaderOptions,
    told: _Told,
    coverage: Coverage | None,
) -> None:
    """Measure how much of each target the dose grid covers; less than all of it needs the user's word."""
    drawn = coverage.percent if coverage is not None else {}
    for name, fact in facts.items():
        if fact.kind != "target":
            if fact.kind == "oar" and drawn.get(name, 100) < 100:
                told.remarks.append(f"{name} is cut: the dose grid covers {min(drawn[name], 99.9):.3g} % of it")
            continue
        if not masks.voxels.get(name) and name not in drawn:
            continue
        percent = drawn[name] if name in drawn else placed.known_percent(*masks.part(name))
        told.measures[f"{name}.dose_coverage_percent"] = percent
        if percent == 100:
            continue
        share = f"{min(percent, 99.9):.3g} %"
        place = coverage.extents[name] if coverage else extent(part_of(masks.grid, masks.part(name)[1]))
        lies = f"dose {extent(dose_grid)}; {name} {place}"
        if not options.allow_partial_dose:
            raise GeometryError(
                f"dose grid covers {share} of {name} (expected 100 %): {lies}",
                where=case_id,
                fix="Check that this RTDOSE belongs to the plan, or pass --allow-partial-dose",
            )
        told.remarks.append(f"dose grid covers {share} of {name}: {lies}")


def _tell_dose(dose: KnownDose, outline: str, told: _Told) -> None:
    highest, mean = float(dose.dose_gy.max()), float(dose.dose_gy.mean(dtype=np.float64))
    told.measures |= {"dose.own_grid_max_gy": highest, "dose.own_grid_mean_gy": mean}
    size = " x ".join(map(str, dose.grid.shape))
    kind = f"{dose.summary} dose" if dose.summary else "dose"
    told.converted.append(f"{kind}, up to {highest:.4g} Gy on its own grid of {size} voxels")
    if dose.mask is None:
        told.converted.append(f"dose counts within {outline or 'the body (largest part of the CT above -300 HU)'}")


def _without_face(
    ct: NDArray,
    within: NDArray[np.uint8],
    masks: PackedMasks,
    facts: Mapping[str, StructureFact],
    options: ReaderOptions,
    told: _Told,
) -> NDArray:
    """The CT without a face where that is asked for, which leaves `within` and the surfaces of `masks` too."""
    from mtl_med.prep.deface import FACE_NOTE, deface, find_head

    if not options.deface:
        told.remarks += [FACE_NOTE] if options.key is not None and find_head(ct, masks.grid, within) else []
        return ct
    surfaces = [name for name in masks if facts[name].kind not in ("oar", "target") or name in _ON_THE_SURFACE]
    keep = np.zeros_like(within)
    for name in masks:
        if name not in surfaces:
            np.maximum(keep, masks[name], out=keep)
    found = deface(ct, masks.grid, within, keep)
    told.remarks.append(found.note)
    if found.removed.any():
        within[found.removed] = 0
        for name in surfaces:
            mask = masks[name]
            mask[found.removed] = 0
            masks.add(name, mask, masks.grid)
    return found.ct


def _structures_told(masks: PackedMasks, facts: Mapping[str, StructureFact]) -> str:
    drawn = sum(bool(masks.voxels[name]) for name in masks)
    rest = {"empty": len(masks) - drawn, "not contoured": len(facts) - len(masks)}
    return ", ".join([f"{drawn} structures", *(f"{count} {what}" for what, count in rest.items() if count)])
