"""How unlike the training cases a case is, in what a network cannot see past: voxels, field of view, HU, targets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import MtlMedError
from mtl_med.io.nifti import read_nifti
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.body import BODY_HU, body_mask
from mtl_med.report.case_page import Block, Cell, Table, Text
from mtl_med.report.numbers import told

__all__ = ["TRAINING_SPLITS", "TrainingRanges", "measures", "training_ranges", "unlike_blocks", "unlike_warnings"]

TRAINING_SPLITS = ("fit", "tune")
_CT_VOXELS = 130_000_000  # of CTs are read for the ranges of HU: 62 cases of OpenKBP, the fewest of a large scanner
_FEWEST_CT = 8
_FEWEST = 3  # cases from which a range can be told
_MOST_VOXELS = 2_000_000  # a finer CT is thinned out: shares and percentiles do not need every voxel
_METAL_HU = 2500.0
_OUTSIDE_HU = -500.0
_SKIN_MM = 15.0  # masks, cloths and half-filled voxels around the body are not a couch
_USUAL_PERCENT = 95  # of the training cases have a target that is usual

_LABELS = {
    "spacing x, mm": ("voxel spacing x", "mm", 2),
    "spacing y, mm": ("voxel spacing y", "mm", 2),
    "spacing z, mm": ("voxel spacing z", "mm", 2),
    "view x, mm": ("field of view x", "mm", 0),
    "view y, mm": ("field of view y", "mm", 0),
    "view z, mm": ("field of view z", "mm", 0),
    "body volume, l": ("volume of the body in the CT", "l", 1),
    "HU 1 %": ("HU in the body, 1st percentile", "HU", 0),
    "HU 50 %": ("HU in the body, median", "HU", 0),
    "HU 99 %": ("HU in the body, 99th percentile", "HU", 0),
    "metal, cc": ("implants or metal, above 2500 HU in the body", "cc", 1),
    "outside, cc": ("couch or other things outside the body, above -500 HU", "cc", 0),
}
_SLACK = {"spacing": 0.02, "view": 0.05, "body": 0.25, "HU": 60.0, "metal": 2.0, "outside": 50.0}
"""By how much a value may lie beyond the range: relative for the first three, then HU and cc."""
_ONE_SIDED = ("metal", "outside")


@dataclass(frozen=True)
class TrainingRanges:
    """What the training cases of a study are like.

    Args:
        cases: number of them.
        with_ct: number of those whose CT was looked at.
        ranges: measure -> lowest, median and highest value.
        targets: target -> percent of the cases that have it.
        prescriptions_gy: all that occur.
        trained_elsewhere: sentence, where the network's own record names another study; else "".
        median_spacing_mm: of the network's training set, as its record tells; empty where unknown.
    """

    cases: int = 0
    with_ct: int = 0
    ranges: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)
    prescriptions_gy: tuple[float, ...] = ()
    trained_elsewhere: str = ""
    median_spacing_mm: tuple[float, ...] = ()


def training_ranges(manifest: Manifest, settings: Mapping[str, object]) -> TrainingRanges:
    """Ranges over the training cases of a study; CTs are read of a few of them.

    Args:
        manifest: the study.
        settings: of the network, as `model.json` has them.
    """
    training = [case for case in manifest if case.split in TRAINING_SPLITS and case.grid is not None]
    study = settings.get("study")
    study = study if isinstance(study, Mapping) else {}
    elsewhere = ""
    if study.get("fingerprint") not in (None, manifest.fingerprint):
        elsewhere = (
            f"The network was trained on another version of a study ('{study.get('dataset', 'unknown')}') than the one "
            "whose training cases are compared with here."
        )
    spacing = study.get("median_spacing_mm")
    known = tuple(float(mm) for mm in spacing) if isinstance(spacing, list | tuple) and len(spacing) == 3 else ()
    if len(training) < _FEWEST:
        return TrainingRanges(len(training), trained_elsewhere=elsewhere, median_spacing_mm=known)
    count = min(len(training), max(_FEWEST_CT, _CT_VOXELS // int(np.median([_size(case) for case in training]))))
    chosen = {training[round(at)].id for at in np.linspace(0, len(training) - 1, count)}
    found: dict[str, list[float]] = {}
    for case in training:
        for name, value in measures(case, with_ct=case.id in chosen).items():
            found.setdefault(name, []).append(value)
    counts = Counter(name for case in training for name in case.names("target"))
    return TrainingRanges(
        cases=len(training),
        with_ct=len(chosen),
        ranges={name: (min(v), float(np.median(v)), max(v)) for name, v in found.items() if len(v) >= _FEWEST},
        targets={name: 100.0 * count / len(training) for name, count in sorted(counts.items())},
        prescriptions_gy=tuple(sorted({gy for case in training for gy in case.prescriptions_gy.values()})),
        trained_elsewhere=elsewhere,
        median_spacing_mm=known,
    )


def _size(case: Case) -> int:
    return math.prod(case.grid.shape) if case.grid else 0


def measures(case: Case, *, with_ct: bool = True, ct: NDArray | None = None) -> dict[str, float]:
    """Measure -> value of a case with a grid.

    Args:
        case: of the study.
        with_ct: look at the voxels of its CT too.
        ct: (X, Y, Z) HU, where they have been read already.
    """
    if case.grid is None:
        return {}
    spacing = case.grid.spacing_mm
    found = {f"spacing {axis}, mm": mm for axis, mm in zip("xyz", spacing, strict=True)}
    found |= {f"view {axis}, mm": n * mm for axis, n, mm in zip("xyz", case.grid.shape, spacing, strict=True)}
    if with_ct and ct is None and case.has("ct"):
        try:
            ct = read_nifti(case.path("ct"))[0]
        except MtlMedError:
            ct = None
    return found | (_ct_measures(ct, spacing) if with_ct and ct is not None else {})


def _ct_measures(ct: NDArray, spacing_mm: Sequence[float]) -> dict[str, float]:
    from scipy.ndimage import binary_dilation

    thin = max(1, math.ceil((ct.size / _MOST_VOXELS) ** (1 / 3)))
    ct = ct[::thin, ::thin, ::thin]
    steps = [mm * thin for mm in spacing_mm]
    cc = math.prod(steps) / 1000
    if not (ct > BODY_HU).any():
        return {"body volume, l": 0.0}
    body = body_mask(ct) > 0
    values = ct[body]
    low, middle, high = np.percentile(values, (1, 50, 99))
    around = body
    for axis, mm in enumerate(steps):
        reach = [1, 1, 1]
        reach[axis] = 2 * round(_SKIN_MM / mm) + 1
        around = binary_dilation(around, np.ones(reach, dtype=bool)) if reach[axis] > 1 else around
    return {
        "body volume, l": float(body.sum()) * cc / 1000,
        "HU 1 %": float(low),
        "HU 50 %": float(middle),
        "HU 99 %": float(high),
        "metal, cc": float((values > _METAL_HU).sum()) * cc,
        "outside, cc": float(((ct > _OUTSIDE_HU) & ~around).sum()) * cc,
    }


def unlike_warnings(case: Case, found: Mapping[str, float], training: TrainingRanges) -> list[str]:
    """Sentences about what lies beyond the training cases, each with both figures."""
    odd: dict[tuple[str, str], list[str]] = {}
    for name, value in found.items():
        if name in training.ranges and _beyond(name, value, training.ranges[name]):
            label, unit, digits = _LABELS[name]
            low, _, high = training.ranges[name]
            what, _, which = label.rpartition(" ")
            theirs = f"in theirs {told(low, digits)} to {told(high, digits)} {unit}"
            odd.setdefault((what, f"{told(value, digits)} {unit}, {theirs}"), []).append(which)
    # One sentence where x and y are alike, as in nearly every CT.
    warnings = [
        f"Unlike the training cases: {what} {' and '.join(which)}: {text}." for (what, text), which in odd.items()
    ]
    if not training.ranges and training.median_spacing_mm and case.grid is not None:
        pairs = list(zip(case.grid.spacing_mm, training.median_spacing_mm, strict=True))
        if any(not 0.5 <= mm / usual <= 2 for mm, usual in pairs):
            own, usual = (" x ".join(f"{pair[index]:.3g}" for pair in pairs) for index in (0, 1))
            warnings.append(f"Unlike the training cases: voxels of {own} mm, the median of theirs is {usual} mm.")
    return warnings + _target_warnings(case, training)


def _beyond(name: str, value: float, span: tuple[float, float, float]) -> bool:
    low, _, high = span
    kind = name.split(" ")[0].rstrip(",")
    slack = _SLACK[kind]
    if kind in ("spacing", "view", "body"):
        return value < low * (1 - slack) or value > high * (1 + slack)
    return value > high + slack or (kind not in _ONE_SIDED and value < low - slack)


def _target_warnings(case: Case, training: TrainingRanges) -> list[str]:
    targets = case.names("target")
    warnings = []
    if not targets:
        if case.has("dose") or training.targets:
            warnings.append("No target is contoured: whatever depends on targets is missing on this page.")
    else:
        lacking = [name for name, share in training.targets.items() if share >= _USUAL_PERCENT and name not in targets]
        if lacking:
            warnings.append(f"Unlike the training cases, nearly all of which have it: no {', '.join(lacking)}.")
    empty = [name for name in targets if case.structures[name].status == "empty"]
    if empty:
        warnings.append(f"Contoured but empty: {', '.join(empty)}.")
    unseen = [
        f"{name} {gy:g} Gy"
        for name, gy in case.prescriptions_gy.items()
        if training.prescriptions_gy and not any(abs(gy - known) < 0.05 for known in training.prescriptions_gy)
    ]
    if unseen:
        known = ", ".join(f"{gy:g}" for gy in training.prescriptions_gy)
        warnings.append(f"Prescriptions that no training case has: {', '.join(unseen)}; theirs are {known} Gy.")
    return warnings


def unlike_blocks(case: Case, found: Mapping[str, float], training: TrainingRanges) -> list[Block]:
    """Table of the measures beside the ranges of the training cases; the warnings stand at the top of the page."""
    blocks: list[Block] = []
    if training.trained_elsewhere:
        blocks.append(Text(training.trained_elsewhere, "warning"))
    if not training.ranges:
        blocks.append(Text("This study has too few training cases to compare with.", "none"))
        return blocks
    if case.split in TRAINING_SPLITS:
        blocks.append(Text(f"This case is one of the training cases itself (split {case.split}).", "warning"))
    rows: list[list[Cell | str]] = []
    for name, (label, unit, digits) in _LABELS.items():
        if name not in found and name not in training.ranges:
            continue
        value = found.get(name, math.nan)
        low, middle, high = training.ranges.get(name, (math.nan,) * 3)
        odd = not math.isnan(value) and not math.isnan(low) and _beyond(name, value, (low, middle, high))
        cells = [Cell(told(number, digits), number=True, value=number) for number in (low, middle, high)]
        rows.append(
            [label, unit, Cell(told(value, digits), "warning" if odd else "", number=True, value=value), *cells]
        )
    caption = (
        f"This case beside the {training.cases} training cases of the study (splits {' and '.join(TRAINING_SPLITS)}); "
        f"HU, body, implants and couch of {training.with_ct} of them. Marked: beyond their range by more "
        "than 2 % (voxels), 5 % (view), 25 % (body), 60 HU, 2 cc (implants), 50 cc (couch)."
    )
    heads = ["measure", "unit", "this case", "lowest", "median", "highest"]
    return [*blocks, Table(caption, heads, rows)]
