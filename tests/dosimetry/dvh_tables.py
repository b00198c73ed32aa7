"""The tables of docs/dvh.md: our DVHs of the Eclipse prostate study beside those of Eclipse, CERR and SlicerRT.

    python tests/dosimetry/dvh_tables.py ECLIPSE_PROSTATE_FOLDER

writes them into the document, between its two marks; tests/test_dvh_eclipse.py checks that they are what the code
gives.
"""

from __future__ import annotations

import csv
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mtl_med.cli import main as mtl_med
from mtl_med.dosimetry.files import from_files
from mtl_med.dosimetry.inputs import DoseCase, Options, from_case
from mtl_med.dosimetry.plan_rows import structure_doses
from mtl_med.manifest import Manifest
from mtl_med.metrics.dvh import DvhMetric, StructureDoses

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "dvh.md"
MARKS = ("<!-- tables: made by tests/dosimetry/dvh_tables.py -->", "<!-- end of tables -->")
PROGRAMS = ("SlicerRT", "CERR", "Eclipse")
NAMES = {
    "BODY": "Body",
    "Bladder": "Bladder",
    "Femoral Head Lt": "Femur_Head_L",
    "Femoral Head RT": "Femur_Head_R",
    "PTV": "PTV",
    "Rectum": "Rectum",
}
"""Structures in the order of the tables' columns -> our names."""

SMALL = tuple(NAMES.values())[1:]

MEAN_GY, D95_PERCENT, VOLUME_PERCENT = 0.1, 1.0, 2.0
CERR_BIN_GY = 0.2


@dataclass(frozen=True)
class Values:
    """What is compared: volume in cc, mean and D95 in Gy."""

    volume: float
    mean: float
    d95: float


@dataclass(frozen=True, eq=False)
class Curve:
    """A DVH as a table states it: doses in Gy, shares of the volume in 0..1, volume in cc."""

    dose: np.ndarray
    share: np.ndarray
    volume: float

    def values(self, shift_gy: float = 0.0) -> Values:
        """Mean by the trapezoidal rule and D95 by linear interpolation; doses count as stated + `shift_gy`."""
        dose, share = self.dose + np.where(self.dose > 0, shift_gy, 0.0), self.share
        mean = float((np.diff(dose) * (share[:-1] + share[1:]) / 2).sum())
        return Values(self.volume, mean, float(np.interp(-0.95, -share, dose)))


def read_table(path: Path) -> tuple[dict[str, Curve], int]:
    """Curves of a vendor's table by our names, and how many lines have a dose below that of the line before."""
    header, *lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    curves, dropped = {}, 0
    for column, name in zip(range(0, 12, 2), NAMES.values(), strict=True):
        pairs = [(float(line[column]), float(line[column + 1]) / 100) for line in lines]
        rising = [pair for n, pair in enumerate(pairs) if n == 0 or pair[0] > pairs[n - 1][0] or pair[0] == 0]
        dropped = max(dropped, len(pairs) - len(rising))
        dose, share = np.array(rising).T
        curves[name] = Curve(dose, share, float(header[column + 1].split("(% of ")[1].split(" cc")[0]))
    return curves, dropped


def values_of(doses: Mapping[str, StructureDoses]) -> dict[str, Values]:
    """Volume, mean and D95 of structures."""
    metrics = [DvhMetric.parse(text) for text in ("volume", "mean", "D95%")]
    return {name: Values(*(item.value(metric) for metric in metrics)) for name, item in doses.items()}


def study_case(folder: Path, work: Path) -> DoseCase:
    """The study prepared as any other, and read back."""
    code = mtl_med(["prep", "dicom_rt", "--source", str(folder), "--out", str(work / "study")])
    if code:
        raise RuntimeError(f"prep ended with {code}")
    (case,) = Manifest.read(work / "study")
    return from_case(case)


def half_end_slices(case: DoseCase, name: str) -> Values:
    """What a structure is when its first and last slice count half: contours end where they were drawn."""
    mask = np.asarray(case.masks[name], dtype=bool)
    weights = mask.astype(np.float64)
    slices = np.flatnonzero(mask.any(axis=(0, 1)))
    weights[:, :, [slices[0], slices[-1]]] *= 0.5
    known = mask if case.known is None else mask & case.known
    order = np.argsort(case.dose_gy[known])[::-1]
    doses, weight = case.dose_gy[known][order].astype(np.float64), weights[known][order]
    reached = np.searchsorted(np.cumsum(weight), 0.95 * weight.sum())
    volume = weights.sum() * case.grid.voxel_volume_mm3 / 1000
    return Values(volume, float(doses @ weight / weight.sum()), float(doses[reached]))


def share_difference(doses: StructureDoses, curve: Curve, shift_gy: float) -> float:
    """Largest difference between a curve and ours, asked `shift_gy` above the stated doses, percent of the volume."""
    asked = curve.dose[curve.dose > 0] + shift_gy
    ours = 1 - np.searchsorted(doses.ascending_gy, asked, side="left") / len(doses.ascending_gy)
    return 100 * float(np.abs(ours - curve.share[curve.dose > 0]).max())


def within(ours: Values, theirs: Values) -> bool:
    """Whether two sets of values agree within the tolerances."""
    return (
        abs(ours.mean - theirs.mean) <= MEAN_GY
        and abs(ours.d95 / theirs.d95 - 1) * 100 <= D95_PERCENT
        and abs(ours.volume / theirs.volume - 1) * 100 <= VOLUME_PERCENT
    )


def tables(folder: Path, case: DoseCase, doses: Mapping[str, StructureDoses]) -> str:
    """All tables of the document, from the folder of the study, what `study_case` made of it, and its doses."""
    ours = values_of(doses)
    read = {program: read_table(folder / f"EclipseProstate_DvhTable_{program}.csv") for program in PROGRAMS}
    curves = {program: found[0] for program, found in read.items()}
    lines = ["### Side by side", ""]
    lines += ["| structure | | mtl_med | SlicerRT | CERR | Eclipse |", "|---|---|---|---|---|---|"]
    for name in NAMES.values():
        theirs = [curves[program][name].values() for program in PROGRAMS]
        for label, key, digits in (("volume, cc", "volume", 2), ("mean, Gy", "mean", 3), ("D95, Gy", "d95", 3)):
            own = getattr(ours[name], key)
            cells = [_cell(own, getattr(item, key), key, digits) for item in theirs]
            lines.append(f"| {name} | {label} | {own:.{digits}f} | {' | '.join(cells)} |")
    lines += ["", "**Bold**: beyond the tolerance. Each such value is explained below.", ""]
    lines += ["### CERR, with its shares taken at the upper edges of its bins", ""]
    lines += ["| structure | mean, Gy | D95, Gy | largest difference of the curves, % of the volume | as stated |"]
    lines += ["|---|---|---|---|---|"]
    for name in NAMES.values():
        curve = curves["CERR"][name]
        moved = curve.values(CERR_BIN_GY / 2)
        cells = [_cell(ours[name].mean, moved.mean, "mean", 3), _cell(ours[name].d95, moved.d95, "d95", 3)]
        cells += [f"{share_difference(doses[name], curve, shift):.2f}" for shift in (CERR_BIN_GY / 2, 0.0)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "### Eclipse, with the first and last slice of ours counted half", ""]
    lines += ["| structure | volume, cc: ours | Eclipse | mean, Gy: ours | Eclipse | D95, Gy: ours | Eclipse |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name in NAMES.values():
        half, theirs = half_end_slices(case, name), curves["Eclipse"][name].values()
        cells = [f"{getattr(item, key):.3f}" for key in ("volume", "mean", "d95") for item in (half, theirs)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "### The same study on other grids", ""]
    grids = {"CT, 0.98 x 0.98 x 2.5 mm": ours}
    for label, grid in (("dose, 2.5 mm", "dose"), ("1 mm", "1")):
        grids[label] = values_of(_without_body(from_files(folder / "RD.dcm", [folder / "RS.dcm"], None, Options(grid))))
    lines += [f"| structure | | {' | '.join(grids)} |", "|---|---|" + "---|" * len(grids)]
    for name in SMALL:
        for label, key, digits in (("volume, cc", "volume", 2), ("mean, Gy", "mean", 3), ("D95, Gy", "d95", 3)):
            cells = [f"{getattr(found[name], key):.{digits}f}" for found in grids.values()]
            lines.append(f"| {name} | {label} | {' | '.join(cells)} |")
    dropped = {program: found[1] for program, found in read.items() if found[1]}
    told = ", ".join(f"{count} of {program}" for program, count in dropped.items())
    lines += [
        "",
        f"Lines with a dose below that of the line before, which were left out: {told or 'none'}.",
    ]
    return "\n".join(lines)


def _cell(ours: float, theirs: float, key: str, digits: int) -> str:
    """Their value, and ours less theirs."""
    if key == "mean":
        text, beyond = f"{ours - theirs:+.3f} Gy", abs(ours - theirs) > MEAN_GY
    else:
        percent = 100 * (ours / theirs - 1)
        text, beyond = f"{percent:+.2f} %", abs(percent) > (D95_PERCENT if key == "d95" else VOLUME_PERCENT)
    return f"**{theirs:.{digits}f} ({text})**" if beyond else f"{theirs:.{digits}f} ({text})"


def _without_body(case: DoseCase) -> dict[str, StructureDoses]:
    """Doses of all structures but the body, whose ten million voxels of 1 mm would take most of the time."""
    return dict(structure_doses(replace(case, masks={name: case.masks[name] for name in SMALL})))


def between_marks(text: str) -> str:
    """The part of the document that is made here."""
    return text.split(MARKS[0])[1].split(MARKS[1])[0].strip()


def main() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(MARKS[0])
    with tempfile.TemporaryDirectory() as work:
        case = study_case(Path(sys.argv[1]), Path(work))
        made = tables(Path(sys.argv[1]), case, dict(structure_doses(case)))
    DOCUMENT.write_text(f"{before}{MARKS[0]}\n\n{made}\n\n{MARKS[1]}{rest.split(MARKS[1])[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
