"""The doses that a case's page compares: the plan and its predictions, each with what is known or why it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.dosimetry.goals import Preset
from mtl_med.dosimetry.inputs import DoseCase, from_case
from mtl_med.dosimetry.plan_rows import plan_rows, structure_doses
from mtl_med.errors import CaseError, MtlMedError
from mtl_med.geometry import Grid, require_same_grid, same_grid
from mtl_med.io.nifti import read_nifti
from mtl_med.io.results import has_dose, read_structures
from mtl_med.manifest import Case
from mtl_med.metrics.dvh import StructureDoses
from mtl_med.metrics.rows import Row
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.report.case_page import CaseInputs

__all__ = ["CONVENTION", "PLAN", "DosePage", "Side", "read_page"]

PLAN = "plan"
CONVENTION = "cumulative"
"""Of every D_x on the page: as planning systems read it off a DVH, and as `mtl-med dvh` does unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Side:
    """A dose, or why there is none.

    Args:
        name: `PLAN`, or the name of the prediction.
        dose: with the structures of the study; None where it cannot be shown.
        gap: why not, a sentence.
        doses: structure -> the doses of its voxels.
        rows: of `plan_rows`, by structure and metric.
    """

    name: str
    dose: DoseCase | None = None
    gap: str = ""
    doses: Mapping[str, StructureDoses] = field(default_factory=dict)
    rows: Mapping[tuple[str, str], Row] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class DosePage:
    """What the sections of a case's dose are made from.

    Args:
        inputs: of the page.
        preset: clinical goals and alpha/beta.
        grid: of the study's case.
        sides: the plan first, then the predictions.
        structure_gaps: structure -> why it has no DVH.
    """

    inputs: CaseInputs
    preset: Preset
    grid: Grid
    sides: tuple[Side, ...]
    structure_gaps: Mapping[str, str]

    @property
    def case(self) -> Case:
        """Of the study."""
        return self.inputs.case

    @property
    def known(self) -> list[Side]:
        """The sides that have a dose."""
        return [side for side in self.sides if side.dose is not None]

    @property
    def plan(self) -> DoseCase | None:
        """The planned dose."""
        return self.sides[0].dose

    @property
    def predicted(self) -> DoseCase | None:
        """The predicted dose in question."""
        return self.sides[1].dose if len(self.sides) > 1 else None

    def pair(self) -> tuple[DoseCase, DoseCase]:
        """Planned and predicted dose.

        Raises:
            CaseError: one of them is not there.
        """
        if self.plan is None or self.predicted is None:
            lacking = next((side for side in self.sides if side.dose is None), None)
            what = f"{lacking.name}: {lacking.gap}" if lacking else "there is no predicted dose"
            raise CaseError(f"Nothing to compare. {what}")
        return self.plan, self.predicted

    @property
    def masks(self) -> Mapping[str, NDArray]:
        """Masks of the study's structures, unpacked when asked for."""
        return self.known[0].dose.masks if self.known and self.known[0].dose else {}

    @property
    def outlined(self) -> Mapping[str, NDArray]:
        """The masks of what is outlined in pictures: all but the patient's outline."""
        return _Chosen(self.masks, [name for name in self.masks if self.case.structures[name].kind != "external"])

    @property
    def outlined_and_not_predicted(self) -> Mapping[str, NDArray]:
        """Of these what has no predicted outline to be drawn in its place, such as the targets."""
        return _Chosen(self.masks, [name for name in self.outlined if name not in self.predicted_structures])

    @cached_property
    def ct(self) -> NDArray[np.float32] | None:
        """(X, Y, Z) HU; None where the case has none that fits."""
        if not self.case.has("ct"):
            return None
        values, found = read_nifti(self.case.path("ct"), np.float32)
        return values if same_grid(found, self.grid) else None

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Where the dose counts: mask_dose, or where it is known."""
        if self.case.has("mask_dose"):
            mask, found = read_nifti(self.case.path("mask_dose"))
            require_same_grid(found, self.grid, where=str(self.case.path("mask_dose")))
            return mask > 0
        known = self.plan.known if self.plan else None
        return np.ones(self.grid.shape, dtype=bool) if known is None else known

    @cached_property
    def difference_gy(self) -> NDArray[np.float32]:
        """Predicted minus planned dose where the dose counts, else 0."""
        plan, predicted = self.pair()
        return np.where(self.counted, predicted.dose_gy - plan.dose_gy, np.float32(0))

    @cached_property
    def reference_gy(self) -> tuple[float, str]:
        """What percent are of, and what that is."""
        if self.case.prescription_gy:
            return self.case.prescription_gy, "highest prescription"
        dose = self.known[0].dose if self.known else None
        return (float(dose.dose_gy.max()) if dose else 0.0), "highest dose, since no prescription is known"

    @cached_property
    def predicted_structures(self) -> Mapping[str, NDArray]:
        """Structures predicted beside the dose in question; none where they lie on another grid."""
        if not self.inputs.predictions:
            return {}
        folder = self.inputs.predictions[0].folder
        try:
            found = read_structures(folder)
        except MtlMedError:  # which is told where the structures are scored
            return {}
        return found.masks if found.grid and same_grid(found.grid, self.grid) else {}


class _Chosen(Mapping[str, NDArray]):
    """Some of the masks of a mapping, unpacked when they are asked for, as there."""

    def __init__(self, masks: Mapping[str, NDArray], names: Sequence[str]) -> None:
        self._masks, self._names = masks, tuple(names)

    def __getitem__(self, name: str) -> NDArray:
        if name not in self._names:
            raise KeyError(name)
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_page(inputs: CaseInputs, preset: Preset) -> DosePage | None:
    """Read plan and predictions; None where there is no dose on either side.

    Args:
        inputs: of the page.
        preset: goals and alpha/beta.

    Raises:
        CaseError: the case has no grid, or one in another axis order than studies have.
    """
    case = inputs.case
    folders = [(item.name, item.folder) for item in inputs.predictions if has_dose(item.folder)]
    if not case.has("dose") and not folders:
        return None
    if case.grid is None:
        raise CaseError("has a dose but no grid in mm", where=case.id)
    if case.grid.axis_codes != "RAS":
        codes = case.grid.axis_codes
        raise CaseError(f"axes run to {codes}, expected RAS", where=case.id, fix="Prepare the study again")
    sides = [_side(PLAN, case, None) if case.has("dose") else Side(PLAN, gap="The study has no planned dose.")]
    sides += [_side(name, case, folder) for name, folder in folders]
    if len(sides) == 1:
        sides.append(Side("prediction", gap="There is no predicted dose."))
    first = next((side.dose for side in sides if side.dose is not None), None)
    gaps: dict[str, str] = {}
    if first is not None:
        packed, gaps = _packed(first)
        sides = [side if side.dose is None else _with_numbers(side, packed, preset) for side in sides]
        gaps |= first.gaps
    return DosePage(inputs, preset, case.grid, tuple(sides), gaps)


def _side(name: str, case: Case, folder: Path | None) -> Side:
    try:
        return Side(name, from_case(case, folder))
    except MtlMedError as error:
        return Side(name, gap=str(error))


def _packed(dose: DoseCase) -> tuple[PackedMasks, dict[str, str]]:
    """Every mask, read once for all doses, and why one could not be."""
    packed, gaps = PackedMasks(dose.grid), {}
    for name in dose.masks:
        try:
            packed.add(name, np.asarray(dose.masks[name], dtype=np.uint8), dose.grid)
        except MtlMedError as error:
            gaps[name] = str(error)
    return packed, gaps


def _with_numbers(side: Side, masks: Mapping[str, NDArray], preset: Preset) -> Side:
    if side.dose is None:
        return side
    dose = replace(side.dose, masks=masks)
    doses = dict(structure_doses(dose))
    rows = {(row.structure, row.metric): row for row in plan_rows(dose, doses, convention=CONVENTION, preset=preset)}
    return Side(side.name, dose, side.gap, doses, rows)
