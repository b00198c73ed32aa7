"""Measures of each case, rules that name what is odd, and the quality table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

import numpy as np
from numpy.typing import NDArray

from mtl_med.geometry import Grid, lies_inside
from mtl_med.prep.packed_masks import PackedMasks
from mtl_med.prep.picture_measures import measure_picture
from mtl_med.prep.raw import RawCase
from mtl_med.prep.recipe import Rule, StructureFact
from mtl_med.prep.turning import Box, bounding_box

__all__ = ["Measures", "findings", "measure", "quality_table"]

Measures = Mapping[str, float | int | None]

_UNIT_ENDINGS = ("cc", "gy", "hu", "mm", "percent", "pixels", "voxels", "years")


def measure(case: RawCase) -> dict[str, float | int | None]:
    """Numbers about a case, each named `<what>.<measure>_<unit>`; None where there is nothing to measure.

    `D95_gy` is the 5th percentile of a target's dose with linear interpolation, as OpenKBP computes it.
    `targets.prescription_gy` is the highest prescription, and `targets.D2_gy` (the 98th percentile, ICRU 83's near
    maximum) the dose of the target that has it. `x_mm`, `y_mm` and `z_mm` are the centre of gravity in RAS;
    `above_<other>_mm` and `L_to_R_mm` are how far one centre lies above another, and a left one to the left of its
    right one. Without a dose there are no measures of it. A case without grid is a photograph, see `measure_picture`.
    """
    if case.grid is None:
        return measure_picture(case)
    measures: dict[str, float | int | None] = {}
    measures |= {f"spacing.{axis}_mm": mm for axis, mm in zip("xyz", case.grid.spacing_mm, strict=True)}
    if "dose" in case.volumes:
        measures |= _dose(case.volumes["dose"], case.volumes["mask_dose"])
    measures |= case.measures
    for name, fact in case.facts.items():
        part = _part(case, name) if name in case.masks else None
        found = _structure(part, case.grid) | (_coverage(part, case, fact) if fact.kind == "target" else {})
        measures |= {f"{name}.{key}": value for key, value in found.items()}
    measures |= _targets(case, [name for name in case.facts if measures[f"{name}.voxels"]])
    for name, fact in case.facts.items():
        if fact.above:
            measures[f"{name}.above_{fact.above}_mm"] = _difference(measures, f"{name}.z_mm", f"{fact.above}.z_mm")
        right = f"{name.removesuffix('_L')}_R"
        if name.endswith("_L") and right in case.facts:
            measures[f"{name.removesuffix('_L')}.L_to_R_mm"] = _difference(measures, f"{right}.x_mm", f"{name}.x_mm")
    return measures


def _dose(dose: NDArray, mask: NDArray) -> dict[str, float | int | None]:
    box = bounding_box(mask)
    inside = _values(dose[box], mask[box] > 0)
    return {
        "mask.voxels": len(inside),
        "dose.max_gy": float(dose.max()),
        "dose.mean_in_mask_gy": float(inside.mean(dtype=np.float64)) if len(inside) else None,
        "dose.zero_in_mask_percent": float(100 * np.mean(inside <= 0)) if len(inside) else None,
        "dose.outside_mask_voxels": int(np.count_nonzero(dose) - np.count_nonzero(inside)),
        "dose.negative_voxels": int(np.count_nonzero(dose < 0)) if dose.min() < 0 else 0,
    }


def _part(case: RawCase, name: str) -> tuple[NDArray[np.bool_], Box]:
    """A mask within its bounding box, and that box; all voxels outside are 0."""
    if isinstance(case.masks, PackedMasks):
        part, box = case.masks.part(name)
    else:
        box = bounding_box(case.masks[name])
        part = case.masks[name][box]
    return part > 0, box


def _structure(found: tuple[NDArray[np.bool_], Box] | None, grid: Grid) -> dict[str, float | int | None]:
    keys = ("voxels", "volume_cc", "x_mm", "y_mm", "z_mm")
    if found is None:
        return {"contoured": 0, **dict.fromkeys(keys)}
    part, box = found
    voxels = int(np.count_nonzero(part))
    volume_cc = voxels * grid.voxel_volume_mm3 / 1000
    centre: Iterable[float | None] = (None, None, None)
    if voxels:
        counts = [part.sum(axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
        index = [side.start + float(np.arange(len(n)) @ n) / voxels for side, n in zip(box, counts, strict=True)]
        centre = grid.points_ras(np.array([index]))[0].tolist()
    return {"contoured": 1, **dict(zip(keys, [voxels, volume_cc, *centre], strict=True))}


def _coverage(
    found: tuple[NDArray[np.bool_], Box] | None, case: RawCase, fact: StructureFact
) -> dict[str, float | None]:
    if found is None or not found[0].any() or "dose" not in case.volumes:
        return {"D95_gy": None, "D95_percent": None}
    doses = _known_doses(case, found)
    if not len(doses):
        return {"D95_gy": None, "D95_percent": None}
    d95_gy = float(np.percentile(doses, 5))
    return {"D95_gy": d95_gy, "D95_percent": 100 * d95_gy / fact.prescription_gy if fact.prescription_gy else None}


def _known_doses(case: RawCase, found: tuple[NDArray[np.bool_], Box]) -> NDArray:
    """Doses within a mask, Gy, where they are known: what lies outside the dose grid is stored as 0 and is none."""
    part, box = found
    if case.dose_grid is not None and case.grid is not None:
        to_source = np.linalg.inv(case.dose_grid.affine) @ case.grid.affine
        part = part & lies_inside(to_source, box, case.dose_grid.shape)
    return _values(case.volumes["dose"][box], part)


def _values(volume: NDArray, mask: NDArray[np.bool_]) -> NDArray:
    """Values where the mask is true, in the order in which they lie in memory, as any other takes ten times as long."""
    if abs(volume.strides[0]) < abs(volume.strides[-1]):
        volume, mask = volume.T, mask.T
    return volume[mask]


def _targets(case: RawCase, present: Iterable[str]) -> dict[str, float | int | None]:
    """Measures of all targets; the dose is that of the highest prescription, as lower targets lie in its fall-off."""
    targets = [case.facts[name] for name in present if case.facts[name].kind == "target"]
    found: dict[str, float | int | None] = dict.fromkeys(
        ("targets.count", "targets.prescription_gy", "targets.D2_gy", "targets.D2_percent")
    )
    found["targets.count"] = len(targets)
    prescribed = {fact.name: fact.prescription_gy for fact in targets if fact.prescription_gy}
    if prescribed:
        highest, prescription_gy = max(prescribed.items(), key=lambda item: item[1])
        found["targets.prescription_gy"] = prescription_gy
    if prescribed and "dose" in case.volumes:
        doses = _known_doses(case, _part(case, highest))
        if len(doses):
            d2_gy = float(np.percentile(doses, 98))
            found["targets.D2_gy"], found["targets.D2_percent"] = d2_gy, 100 * d2_gy / prescription_gy
    return found


def _difference(measures: Measures, first: str, second: str) -> float | None:
    a, b = measures[first], measures[second]
    return None if a is None or b is None else a - b


def findings(measures: Measures, rules: Iterable[Rule]) -> list[str]:
    """A sentence for each rule that a measure breaks: rule, what is odd with value and limit, and what that means."""
    found = []
    for rule in rules:
        for name, value in measures.items():
            if value is not None and fnmatchcase(name, rule.measure) and (limit := _broken(rule, value)):
                found.append(f"{rule.rule}: {_told(name, value, limit, rule.unit, measures)}: {rule.reason}")
    return found


def _broken(rule: Rule, value: float) -> str:
    if rule.above is not None and value > rule.above:
        return f"above {rule.above:,g}"
    if rule.below is not None and value < rule.below:
        return f"below {rule.below:,g}"
    return ""


def _told(name: str, value: float, limit: str, unit: str, measures: Measures) -> str:
    """`SpinalCord.volume_cc` of 412.34 -> "SpinalCord volume is 412.3 cc (above 100 cc)"; a percentage with its Gy."""
    what, _, measured = name.rpartition(".")
    if measured == "contoured":
        return f"{what} is not contoured"
    words = measured.split("_")
    ending = words.pop() if words[-1] in _UNIT_ENDINGS else ""
    unit = f" {unit}" if unit and unit != "1" else ""
    dose_gy = measures.get(f"{what}.{'_'.join(words)}_gy") if ending == "percent" else None
    dose = "" if dose_gy is None else f"{_number(dose_gy)} Gy, "
    return f"{' '.join([what, *words])} is {dose}{_number(value)}{unit} ({limit}{unit})"


def _number(value: float) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"


def quality_table(rows: Iterable[tuple[str, str, Measures, Iterable[str]]]) -> str:
    """CSV text with one row per case, one column per measure, and the oddities in the last.

    Args:
        rows: id, split, measures and findings of each case.
    """
    rows = list(rows)
    names = list(dict.fromkeys(name for row in rows for name in row[2]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", *names, "oddities"])
    for case_id, split, measures, found in rows:
        writer.writerow([case_id, split, *(_cell(measures.get(name)) for name in names), "; ".join(found)])
    return text.getvalue()


def _cell(value: float | int | None) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
