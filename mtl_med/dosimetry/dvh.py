"""`mtl-med dvh`: exact DVH metrics, clinical goals and plan quality of doses in a study, NIfTI files or DICOM."""

from __future__ import annotations

import argparse
import csv
import fnmatch
import io
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from mtl_med.dosimetry import files as dose_files
from mtl_med.dosimetry.goals import GoalResult, Preset, evaluate_goals, goal_rows, load_preset, preset_names
from mtl_med.dosimetry.inputs import DoseCase, Options, from_case, with_prescriptions
from mtl_med.dosimetry.plan_rows import plan_rows, structure_doses
from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, UsageError, nearest
from mtl_med.files import write_text
from mtl_med.manifest import Case, Manifest
from mtl_med.metrics.dose import CONVENTIONS
from mtl_med.metrics.dvh import DvhMetric, StructureDoses, dvh_curve
from mtl_med.metrics.rows import Row, write_rows
from mtl_med.parallel import map_cases
from mtl_med.prep.command import DOSES

__all__ = ["add_arguments", "find_cases", "run"]

_SHOWN = ("volume", "mean", "D98%", "D95%", "D50%", "D2%", "max")
_VERDICTS = {True: "met", False: "NOT MET", None: "not told"}


def find_cases(
    source: Path | None,
    dose: Path | None = None,
    structures: Sequence[Path] = (),
    ct: Path | None = None,
    options: Options | None = None,
    doses: Sequence[str] = (),
    force: bool = False,
) -> dict[str, Callable[[], DoseCase]]:
    """Name of each case -> what reads it.

    Args:
        source: a study, the folder of one of its cases, or a folder of DICOM files; None where files are given.
        dose: NIfTI file, RTDOSE or folder of a prediction; of a single case of a study it replaces the planned dose.
        structures: an RTSTRUCT, a segmentation, NIfTI files, or folders of these.
        ct: folder of the CT that an RTSTRUCT was drawn on.
        options: how they are read.
        doses: kinds of dose to take beside plan and beam doses, as in `ReaderOptions`; for DICOM.
        force: go on where structures or dose name another frame of reference; for DICOM.

    Raises:
        UsageError: no source, or options that do not fit it.
        NothingFoundError: the folder holds nothing of the kind.
    """
    options = options or Options()
    if source is None:
        if dose is None or not structures:
            raise UsageError(
                "no dose and structures", fix="Give a study, a case or a DICOM folder, or --dose and --structures"
            )
        load = partial(dose_files.from_files, dose, tuple(structures), ct, options, doses, force)
        return {dose_files.case_name(dose): load}
    if structures or ct:
        raise UsageError("--structures and --ct go with --dose, without a study or DICOM folder", where=source)
    study = (source / "case.json").is_file() or (source / "manifest.json").is_file()
    if study and (doses or force):
        fix = "Leave them out, or give them to `mtl-med prep`"
        raise UsageError("--doses and --force are for DICOM files: a study has its dose", where=source, fix=fix)
    if (source / "case.json").is_file():
        case = Case.read(source)
        return {case.id: partial(from_case, case, dose, options)}
    if dose is not None:
        raise UsageError("--dose replaces the dose of one case", where=source, fix="Give the folder of that case")
    if (source / "manifest.json").is_file():
        return {case.id: partial(from_case, case, None, options) for case in Manifest.read(source)}
    return dose_files.from_dicom_folder(source, options, doses, force)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med dvh`."""
    about = "study folder, the folder of one of its cases, or a folder of CT, RTSTRUCT and RTDOSE"
    parser.add_argument("source", type=Path, nargs="?", metavar="SOURCE", help=about)
    about = "NIfTI file in Gy, RTDOSE, or folder of a predicted case; beside a case it replaces the planned dose"
    parser.add_argument("--dose", type=Path, metavar="FILE", help=about)
    about = "without SOURCE: an RTSTRUCT, or NIfTI masks, a .seg.nrrd, or folders of these"
    parser.add_argument("--structures", type=Path, nargs="+", default=[], metavar="FILE", help=about)
    parser.add_argument("--ct", type=Path, metavar="DIR", help="folder of the CT that the RTSTRUCT was drawn on")
    about = "where contours become voxels: ct, dose, or a spacing in mm (default: ct where there is one, else dose)"
    parser.add_argument("--grid", default="", metavar="GRID", help=about)
    about = "interpolate a dose that lies on another grid than the masks"
    parser.add_argument("--resample", action="store_true", help=about)
    about = f"doses to take beside those of one plan: {', '.join(DOSES)} (PLAN_SUM adds the doses of several plans)"
    parser.add_argument("--doses", nargs="+", default=[], choices=DOSES, metavar="KIND", help=about)
    about = "go on where structures or dose belong to another frame of reference"
    parser.add_argument("--force", action="store_true", help=about)
    about = "read off each DVH too, such as D1cc V20Gy V20Gy[cc] D95%%[%%]"
    parser.add_argument("--metrics", nargs="+", default=[], metavar="METRIC", help=about)
    about = f"clinical goals to judge: {', '.join(preset_names())}, or a JSON file like those"
    parser.add_argument("--goals", metavar="NAME", help=about)
    about = "prescribed dose, of all targets or of one: 70 or PTV70=70 PTV56=56"
    parser.add_argument("--prescription-gy", nargs="+", default=[], metavar="GY", help=about)
    parser.add_argument("--fractions", type=int, metavar="N", help="number of fractions: for BED and EQD2")
    about = "alpha/beta of structures: Rectum=3 PTV*=1.5 (default: of the goals, else targets 10, others 3)"
    parser.add_argument("--alpha-beta-gy", nargs="+", default=[], metavar="NAME=GY", help=about)
    about = "D_x as planning systems read it (cumulative) or as OpenKBP does (linear)"
    parser.add_argument("--convention", choices=CONVENTIONS[::-1], default="cumulative", help=f"{about} (cumulative)")
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="table to write: one value per row")
    parser.add_argument("--curves", type=Path, metavar="CSV", help="write the DVHs too: one dose per row, every 0.1 Gy")


def run(args: argparse.Namespace) -> int:
    """`mtl-med dvh`: 0 all cases, 4 some failed, 5 all failed."""
    metrics = [DvhMetric.parse(text) for text in args.metrics]
    prescriptions = dict(_number(text, "--prescription-gy") for text in args.prescription_gy)
    preset = load_preset(args.goals) if args.goals else Preset("")
    own = dict(_number(text, "--alpha-beta-gy") for text in args.alpha_beta_gy)
    # The user's come first, so that a pattern of theirs counts before a name of the preset, and are never replaced.
    preset = replace(preset, alpha_beta_gy=own | {k: gy for k, gy in preset.alpha_beta_gy.items() if k not in own})
    if "" in own:
        raise UsageError("--alpha-beta-gy needs a name before its value", fix="Such as Rectum=3 or PTV*=1.5")
    if args.fractions is not None and args.fractions < 1:
        raise UsageError(f"--fractions is {args.fractions}, expected 1 or more")
    options = Options(args.grid, args.resample)
    cases = find_cases(args.source, args.dose, args.structures, args.ct, options, args.doses, args.force)
    judge = partial(_judge, metrics, prescriptions, args.fractions, args.convention, preset, bool(args.curves))
    outcomes = list(map_cases(judge, list(cases.values()), label="dvh"))
    rows = [row for outcome in outcomes for row in (outcome.value[0] if outcome.value else ())]
    _refuse_strangers(own, {row.structure for row in rows if row.task == "dose"})
    failed = {name: outcome.failure for name, outcome in zip(cases, outcomes, strict=True) if outcome.failure}
    for outcome in outcomes:
        sys.stdout.write(f"{outcome.value[1]}\n\n" if outcome.value else "")
    for name, failure in failed.items():
        sys.stderr.write(f"failed: {name}: {failure}\n")
    if len(failed) == len(cases):
        return EXIT_ALL_FAILED
    write_rows(args.out, rows)
    if args.curves:
        _write_curves(args.curves, [line for outcome in outcomes if outcome.value for line in outcome.value[2]])
    sys.stdout.write(f"For research only: not a medical device.\nwritten: {args.out}\n")
    return EXIT_SOME_FAILED if failed else EXIT_OK


def _number(text: str, option: str) -> tuple[str, float]:
    """Name and value of `NAME=GY` or `GY`."""
    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 < value < 1000:
        fix = "Such as 70 or PTV70=70" if option == "--prescription-gy" else "Such as Rectum=3 or PTV*=1.5"
        raise UsageError(f"{option} {text}: '{number}' is no dose in Gy", fix=fix)
    return name, value


def _refuse_strangers(alpha_beta_gy: Mapping[str, float], structures: set[str]) -> None:
    """Refuse a name that fits nothing: BED and EQD2 would be those of another alpha/beta, and nobody would know."""
    for name in alpha_beta_gy:
        if structures and not fnmatch.filter(structures, name):
            fix = nearest(name, sorted(structures))
            raise UsageError(f"no structure is called '{name}', to give an alpha/beta to", fix=fix)


Judged = tuple[list[Row], str, list[tuple[str, str, float, float, float]]]


def _judge(
    metrics: Sequence[DvhMetric],
    prescriptions_gy: Mapping[str, float],
    fractions: int | None,
    convention: str,
    preset: Preset,
    curves: bool,
    load: Callable[[], DoseCase],
) -> Judged:
    """Rows, text and curves of a case."""
    case = with_prescriptions(load(), prescriptions_gy, fractions)
    doses = dict(structure_doses(case))
    rows = plan_rows(case, doses, metrics=metrics, convention=convention, preset=preset)
    goals = evaluate_goals(preset.goals, doses, convention=convention, gaps=case.gaps)
    lines = [
        (case.id, name, float(dose), float(share), float(share) / 100 * item.volume_cc)
        for name, item in (doses.items() if curves else ())
        for dose, share in zip(*dvh_curve(item), strict=True)
    ]
    return rows + goal_rows(case.id, goals, convention), _text(case, doses, goals, convention, preset), lines


def _text(
    case: DoseCase,
    doses: Mapping[str, StructureDoses],
    goals: Sequence[GoalResult],
    convention: str,
    preset: Preset,
) -> str:
    """What a person reads."""
    shown = [DvhMetric.parse(text) for text in _SHOWN]
    width = max([9, *map(len, doses), *(len(result.structure) for result in goals)])
    heads = (f"{f'{metric.name} {metric.unit}':>9}" for metric in shown)
    lines = [f"{case.id} (D_x {convention})", " ".join([f"{'structure':<{width}}", *heads])]
    for name, item in doses.items():
        values = (_cell(item.value(metric, convention)) for metric in shown)
        partly = item.voxels and item.known_percent < 100
        note = f"  dose known in {math.floor(item.known_percent * 100) / 100:g} % of it" if partly else ""
        lines.append(" ".join([f"{name:<{width}}", *values]) + note)
    lines += [f"{name}: {why}" for name, why in case.gaps.items()]
    lines += [f"note: {note}" for note in case.notes]
    about, _ = preset.about_fractions(max(case.prescriptions_gy.values(), default=None), case.fractions)
    lines += [f"note: {about}"] if goals and about else []
    for result in goals:
        found = "" if math.isnan(result.value) else f"{result.value:.2f} {result.goal.metric.unit}"
        parts = (
            f"{_VERDICTS[result.met]:<8}",
            f"{result.structure:<{width}}",
            f"{result.goal.text:<18}",
            f"{found:<10}",
        )
        lines.append(" ".join([*parts, result.reason]).rstrip())
    return "\n".join(lines)


def _cell(value: float) -> str:
    return f"{'-':>9}" if math.isnan(value) else f"{value:9.2f}"


def _write_curves(path: Path, lines: Sequence[tuple]) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "structure", "dose_gy", "volume_percent", "volume_cc"])
    writer.writerows((case, name, f"{dose:.1f}", f"{share:.6g}", f"{cc:.6g}") for case, name, dose, share, cc in lines)
    write_text(path, stream.getvalue())
