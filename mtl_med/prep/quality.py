"""Measures of each case, rules that name what is odd, and the quality table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtl_med.prep.raw import RawCase
from mtl_med.prep.recipe import Rule

__all__ = ["findings", "measure", "quality_table"]

Measures = dict[str, float | int | None]


def measure(case: RawCase) -> Measures:
    """Numbers about a case, each named `<what>.<measure>_<unit>`; None where there is nothing to measure.

    Doses to a share of a structure are percentiles with linear interpolation, as OpenKBP computes them.
    """
    dose, inside = case.volumes["dose"], case.volumes["mask_dose"] > 0
    measures: Measures = {f"spacing.{axis}_mm": mm for axis, mm in zip("xyz", case.grid.spacing_mm, strict=True)}
    measures |= {
        "mask.voxels": int(inside.sum()),
        "dose.max_gy": float(dose.max()),
        "dose.mean_in_mask_gy": float(dose[inside].mean()) if inside.any() else None,
        "dose.outside_mask_voxels": int((dose[~inside] > 0).sum()),
        "dose.zero_in_mask_voxels": int((dose[inside] <= 0).sum()),
        "dose.negative_voxels": int((dose < 0).sum()),
    }
    measures |= case.measures
    for name, fact in case.facts.items():
        mask = case.masks.get(name)
        measures |= {f"{name}.{key}": value for key, value in _structure(mask, case).items()}
        if fact.kind == "target":
            measures |= {f"{name}.{key}": value for key, value in _target(mask, dose, fact.prescription_gy).items()}
    targets = [name for name, fact in case.facts.items() if fact.kind == "target"]
    measures["targets.count"] = sum(bool(measures[f"{name}.voxels"]) for name in targets)
    return measures


def _structure(mask: NDArray | None, case: RawCase) -> Measures:
    keys = ("volume_cc", "x_mm", "y_mm", "z_mm")
    if mask is None:
        return {"contoured": 0, "voxels": None, **dict.fromkeys(keys)}
    voxels = int(mask.sum())
    volume_cc = voxels * case.grid.voxel_volume_mm3 / 1000
    centroid = [float(mm) for mm in case.grid.centroid_ras(mask)] if voxels else [None] * 3
    return {"contoured": 1, "voxels": voxels, **dict(zip(keys, [volume_cc, *centroid], strict=True))}


def _target(mask: NDArray | None, dose: NDArray, prescription_gy: float | None) -> Measures:
    if mask is None or not mask.any():
        return {"D95_gy": None, "D95_percent": None}
    d95_gy = float(np.percentile(dose[mask > 0], 5))
    return {"D95_gy": d95_gy, "D95_percent": 100 * d95_gy / prescription_gy if prescription_gy else None}


def findings(measures: Mapping[str, Any], rules: Iterable[Rule]) -> list[str]:
    """A sentence for each rule that a measure breaks."""
    found = []
    for rule in rules:
        for name, value in measures.items():
            if value is not None and fnmatchcase(name, rule.measure) and (limit := _broken(rule, value)):
                unit = f" {rule.unit}" if rule.unit else ""
                found.append(f"{rule.rule}: {name} is {value:.4g}{unit}, {limit}{unit}: {rule.reason}")
    return found


def _broken(rule: Rule, value: float) -> str:
    if rule.above is not None and value > rule.above:
        return f"above {rule.above:g}"
    if rule.below is not None and value < rule.below:
        return f"below {rule.below:g}"
    return ""


def quality_table(rows: Iterable[tuple[str, str, Mapping[str, Any], Iterable[str]]]) -> str:
    """CSV text with one row per case.

    Args:
        rows: id, split, measures and findings of each case.
    """
    text = io.StringIO()
    rows = list(rows)
    names = list(rows[0][2]) if rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "split", *names, "oddities"])
    for case_id, split, measures, found in rows:
        values = [measures.get(name) for name in names]
        writer.writerow([case_id, split, *map(_cell, values), "; ".join(found)])
    return text.getvalue()


def _cell(value: float | int | None) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
