"""The numbers of a plan, as rows: DVH metrics, homogeneity, conformity, spill, BED and EQD2 of each structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from mtl_med.dosimetry.goals import Preset
from mtl_med.dosimetry.inputs import DoseCase
from mtl_med.metrics.dvh import DvhMetric, StructureDoses
from mtl_med.metrics.plan_quality import homogeneity_index, paddick_conformity, r50
from mtl_med.metrics.radiobiology import bed_gy, dose_per_fraction_gy, eqd2_gy
from mtl_med.metrics.rows import Row

__all__ = ["METRICS", "plan_rows", "structure_doses"]

METRICS = ("volume", "min", "mean", "max", "D98%", "D95%", "D50%", "D2%", "D0.1cc", "V95%", "V100%")
"""What is read off every DVH unless --metrics says more; V95% and V100% only where something is prescribed."""


def structure_doses(case: DoseCase) -> Iterator[tuple[str, StructureDoses]]:
    """Name and doses of each contoured structure, one after the other.

    A target's prescription is its own; what is no target is compared with the highest of the plan. What of a structure
    lies beyond the grid counts as voxels of unknown dose, by the share of it that is kept.
    """
    highest = max(case.prescriptions_gy.values(), default=None)
    for name, mask in case.masks.items():
        inside = np.asarray(mask, dtype=bool)
        known = inside if case.known is None else inside & case.known
        own = case.prescriptions_gy.get(name)
        yield (
            name,
            StructureDoses(
                case.dose_gy[known],
                case.grid.voxel_volume_mm3,
                _drawn(int(np.count_nonzero(inside)), case.kept_percent.get(name, 100.0)),
                own if case.kinds.get(name) == "target" else highest,
            ),
        )


def _drawn(kept: int, percent: float) -> int:
    """Number of voxels that a structure had before the grid cut it."""
    return round(kept * 100 / percent) if percent else kept


def plan_rows(
    case: DoseCase,
    doses: Mapping[str, StructureDoses],
    *,
    metrics: Sequence[DvhMetric] = (),
    convention: str = "cumulative",
    preset: Preset | None = None,
) -> list[Row]:
    """All numbers of a case as rows of the task "dose".

    Args:
        case: dose and structures.
        doses: of `structure_doses`.
        metrics: what to read off each DVH beside `METRICS`.
        convention: of D_x, one of `CONVENTIONS`.
        preset: tells alpha/beta of structures.

    Returns:
        Per structure the metrics, `dose_known` (% of its voxels), homogeneity, conformity and R50 of targets, the
        stored DVH's values; where fractions are known, dose per fraction, BED and EQD2. A structure without voxels or
        contours has one row, NaN, whose convention says why.
    """
    wanted = dict.fromkeys([*map(DvhMetric.parse, METRICS), *metrics])
    rows: list[Row] = []
    for name, item in doses.items():
        row = partial(_row, case.id, name)
        if not len(item.ascending_gy):
            beyond = "the dose grid does not reach it" if case.kept_percent.get(name) == 0 else ""
            rows.append(row("mean", math.nan, "Gy", f"undefined: {beyond or item.gap(DvhMetric('mean'))}"))
            continue
        rows += [_metric_row(row, item, metric, convention) for metric in wanted if _asked(metric, item, metrics)]
        rows.append(row("dose_known", item.known_percent, "%", "share of its voxels; the doses are of these"))
        rows += _target_rows(row, case, name, item, convention) if case.kinds.get(name) == "target" else []
        rows += _fraction_rows(row, case, name, item, preset or Preset(""))
        rows += _stored_rows(row, case, name)
    return rows + [_row(case.id, name, "mean", math.nan, "Gy", f"undefined: {why}") for name, why in case.gaps.items()]


def _row(case: str, structure: str, metric: str, value: float, unit: str, convention: str = "") -> Row:
    return Row(case, "dose", structure, metric, float(value), unit, convention)


def _asked(metric: DvhMetric, item: StructureDoses, metrics: Sequence[DvhMetric]) -> bool:
    """A gap in what everybody gets is no news where nothing is prescribed; one in what was asked for is."""
    return metric in metrics or not (metric.needs_prescription and item.prescription_gy is None)


def _metric_row(row: Callable[..., Row], item: StructureDoses, metric: DvhMetric, convention: str) -> Row:
    gap = "" if metric.kind == "volume" else item.gap(metric)
    told = [f"undefined: {gap}"] if gap else [convention] if metric.kind == "D" else []
    if metric.needs_prescription and not gap:
        told.append(f"100 % = {item.prescription_gy:g} Gy")
    if item.is_smaller_than(metric):
        told.append("the structure is smaller: its lowest dose")
    return row(metric.name, item.value(metric, convention), metric.unit, ";".join(told))


def _target_rows(
    row: Callable[..., Row], case: DoseCase, name: str, item: StructureDoses, convention: str
) -> Iterator[Row]:
    """Homogeneity of every target; conformity and spill of those of the highest prescription."""
    yield row("homogeneity_index", homogeneity_index(item.ascending_gy, convention), "1", f"ICRU 83;{convention}")
    prescribed, highest = item.prescription_gy, max(case.prescriptions_gy.values(), default=None)
    if prescribed is None or prescribed != highest:
        why = "no prescription is known" if prescribed is None else "a higher dose is prescribed to another target"
        for metric in ("paddick_conformity", "r50"):
            yield row(metric, math.nan, "1", f"undefined: {why}")
        return
    dose = case.dose_gy if case.known is None else np.where(case.known, case.dose_gy, 0)
    mask = case.masks[name]
    yield row("paddick_conformity", paddick_conformity(mask, dose, prescribed), "1", f"isodose {prescribed:g} Gy")
    yield row("r50", r50(mask, dose, prescribed), "1", f"isodose {prescribed / 2:g} Gy")


def _fraction_rows(
    row: Callable[..., Row], case: DoseCase, name: str, item: StructureDoses, preset: Preset
) -> Iterator[Row]:
    """Dose per fraction, BED and EQD2; voxel by voxel, so that the mean is that of the voxels' own values."""
    if not case.fractions:
        return
    count, doses = case.fractions, item.ascending_gy
    gy = preset.alpha_beta(name, case.kinds.get(name, ""))
    told = f"{count} equal fractions"
    if item.prescription_gy and case.kinds.get(name) == "target":
        yield row("prescription_per_fraction", float(dose_per_fraction_gy(item.prescription_gy, count)), "Gy", told)
    yield row("mean_per_fraction", float(dose_per_fraction_gy(doses.mean(), count)), "Gy", told)
    told += f";alpha/beta {gy:g} Gy;linear-quadratic, voxel by voxel"
    for metric, function in (("bed", bed_gy), ("eqd2", eqd2_gy)):
        values = function(doses, count, gy)
        yield row(f"{metric}_mean", float(values.mean()), "Gy", told)
        # It grows with the dose, so that D_x of it is that of D_x.
        for percent in (98, 50, 2):
            found = StructureDoses(values, item.voxel_mm3).value(DvhMetric("D", percent, "%"))
            yield row(f"{metric}_D_{percent}", found, "Gy", f"{told};cumulative")


def _stored_rows(row: Callable[..., Row], case: DoseCase, name: str) -> Iterator[Row]:
    """What the RTDOSE itself says of the structure, to compare with."""
    dvh = case.stored.get(name)
    if dvh is None:
        return
    told = "DVH stored in the RTDOSE, linear within its bins"
    if dvh.volume_cc is not None:
        yield row("stored_volume", dvh.volume_cc, "cc", told)
    yield row("stored_mean", dvh.mean_gy, "Gy", told)
    yield row("stored_max", dvh.max_gy, "Gy", told)
    for percent in (98, 95, 50, 2):
        yield row(f"stored_D_{percent}", dvh.dose_at_volume(percent), "Gy", told)
