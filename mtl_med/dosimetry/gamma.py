"""`mtl-med gamma`: the gamma index and signed errors between two doses, of files or of all cases of a study."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.dosimetry.files import case_name
from mtl_med.dosimetry.inputs import frame_of_reference, is_nifti, read_any_dose
from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, CaseError, NothingFoundError, UsageError
from mtl_med.geometry import Grid, require_same_grid, resample
from mtl_med.io.nifti import read_nifti, write_nifti
from mtl_med.io.results import has_dose, prediction_folders
from mtl_med.manifest import Case, Manifest
from mtl_med.metrics.dose_errors import signed_error_rows
from mtl_med.metrics.gamma import NOT_EVALUATED, Gamma, GammaOptions, gamma_index, gamma_rows
from mtl_med.metrics.rows import Row, write_rows
from mtl_med.parallel import at_least_one, map_cases

__all__ = ["add_arguments", "compare_doses", "run"]

MAP_FILE = "gamma.nii.gz"
_USUAL = GammaOptions()
_log = logging.getLogger(__name__)


def compare_doses(
    case: str,
    reference_gy: NDArray,
    reference: Grid,
    evaluated_gy: NDArray,
    evaluated: Grid,
    options: GammaOptions | None = None,
    *,
    mask: NDArray | None = None,
    prescription_gy: float | None = None,
) -> tuple[list[Row], Gamma]:
    """Gamma and signed errors of one case.

    Args:
        case: name of the case.
        reference_gy: (X, Y, Z) planned dose, Gy.
        reference: its grid.
        evaluated_gy: (X, Y, Z) predicted or measured dose, Gy.
        evaluated: its grid; signed errors take its linear interpolation where it is another.
        options: of the gamma index.
        mask: (X, Y, Z) on the reference grid: count these voxels alone.
        prescription_gy: what the dose bands are in percent of; None takes the normalisation of gamma.

    Returns:
        rows of `gamma_rows` and `signed_error_rows`, and the gamma map.
    """
    gamma = gamma_index(reference_gy, reference, evaluated_gy, evaluated, options, mask=mask)
    inside = np.ones(reference.shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    same = evaluated.shape == reference.shape and np.allclose(evaluated.affine, reference.affine, atol=1e-4)
    if not same:
        evaluated_gy = resample(evaluated_gy, evaluated, reference, outside=np.nan)
        inside = inside & np.isfinite(evaluated_gy)
    percent_of = prescription_gy or gamma.options.normalisation_gy or 0.0
    errors = signed_error_rows(case, reference_gy, evaluated_gy, inside, reference.spacing_mm, percent_of)
    return [*gamma_rows(case, gamma), *errors], gamma


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med gamma`."""
    about = "planned dose: NIfTI file in Gy, RTDOSE, the folder of a study's case, or a study"
    parser.add_argument("reference", type=Path, metavar="REFERENCE", help=about)
    about = "dose to judge: NIfTI file, RTDOSE, the folder of a predicted case, or that of all predictions of a study"
    parser.add_argument("evaluated", type=Path, metavar="EVALUATED", help=about)
    parser.add_argument("--out", type=Path, required=True, metavar="CSV", help="table to write: one value per row")
    about = f"write gamma maps too: <DIR>/<case>/{MAP_FILE}, {NOT_EVALUATED:g} where gamma was not evaluated"
    parser.add_argument("--maps", type=Path, metavar="DIR", help=about)
    about = "NIfTI mask on the grid of the reference: count its voxels alone (of a study: mask_dose)"
    parser.add_argument("--mask", type=Path, metavar="FILE", help=about)
    number = partial(parser.add_argument, type=float, metavar="X")
    number("--dose-percent", default=_USUAL.dose_percent, help="dose criterion, %% (default: %(default)g)")
    number("--distance-mm", default=_USUAL.distance_mm, help="distance to agreement, mm (default: %(default)g)")
    about = "leave out reference voxels below so many %% of the normalisation (default: %(default)g)"
    number("--cutoff-percent", default=_USUAL.cutoff_percent, help=about)
    number("--normalisation-gy", help="what %% are of (default: the highest reference dose)")
    number("--max-gamma", default=_USUAL.max_gamma, help="search no further (default: %(default)g); 1.1 is quicker")
    parser.add_argument("--local", action="store_true", help="dose criterion in %% of each voxel's own dose")
    whole = partial(parser.add_argument, type=int, metavar="N")
    about = "steps of the search per distance to agreement (default: %(default)d)"
    whole("--interp-fraction", default=_USUAL.interp_fraction, help=about)
    whole("--random-subset", help="evaluate N voxels drawn at random: quicker, and no full map")
    whole("--seed", default=_USUAL.seed, help="of the random voxels (default: %(default)d)")
    about = "stop at the first gamma below 1: the same pass rate sooner, but other gamma values"
    parser.add_argument("--skip-once-passed", action="store_true", help=about)
    about = "pymedphys needs numba, and is about three times as fast (default: pymedphys where numba is installed)"
    parser.add_argument("--interpolation", choices=("scipy", "pymedphys"), default="", help=about)
    parser.add_argument("--workers", type=at_least_one, default=1, metavar="N", help="cases at a time (default: 1)")


def run(args: argparse.Namespace) -> int:
    """`mtl-med gamma`: 0 all cases, 4 some failed, 5 all failed."""
    options = GammaOptions(
        dose_percent=args.dose_percent,
        distance_mm=args.distance_mm,
        cutoff_percent=args.cutoff_percent,
        local=args.local,
        normalisation_gy=args.normalisation_gy,
        max_gamma=args.max_gamma,
        interp_fraction=args.interp_fraction,
        skip_once_passed=args.skip_once_passed,
        random_subset=args.random_subset,
        seed=args.seed,
        interpolation=args.interpolation,
    )
    pairs = _pairs(args.reference, args.evaluated, args.mask)
    judge = partial(_judge, options, args.maps)
    outcomes = list(map_cases(judge, list(pairs.items()), workers=args.workers, label="gamma"))
    failed = {name: outcome.failure for name, outcome in zip(pairs, outcomes, strict=True) if outcome.failure}
    for name, failure in failed.items():
        sys.stderr.write(f"failed: {name}: {failure}\n")
    if len(failed) == len(pairs):
        return EXIT_ALL_FAILED
    rows = [row for outcome in outcomes for row in outcome.value or ()]
    write_rows(args.out, rows)
    sys.stdout.write("\n".join([*_lines(rows), f"For research only: not a medical device.\nwritten: {args.out}\n"]))
    return EXIT_SOME_FAILED if failed else EXIT_OK


Doses = tuple[NDArray, Grid, NDArray, Grid, NDArray | None, float | None]


def _pairs(reference: Path, evaluated: Path, mask: Path | None) -> dict[str, Callable[[], Doses]]:
    """Name of each case -> what reads its doses, mask and prescription."""
    for path in (reference, evaluated):
        if not path.exists():
            raise UsageError("there is no such file or folder", where=path, fix="Check the path")
    if (reference / "case.json").is_file():
        case = Case.read(reference)
        return {case.id: partial(_of_case, case, evaluated, mask)}
    if not (reference / "manifest.json").is_file():
        return {case_name(evaluated): partial(_of_files, reference, evaluated, mask)}
    if mask is not None:
        raise UsageError("--mask is of one case", where=mask, fix="Leave it out: the study's mask_dose counts")
    folders = prediction_folders(evaluated) if evaluated.is_dir() else {}
    found = {
        case.id: partial(_of_case, case, folders[case.id], None)
        for case in Manifest.read(reference)
        if case.id in folders and has_dose(folders[case.id])
    }
    if not found:
        raise NothingFoundError(
            f"no predicted dose of a case of the study {reference}",
            where=evaluated,
            fix="Give the folder that holds one folder per case, named by its id",
        )
    return dict(found)


def _of_case(case: Case, evaluated: Path, mask: Path | None) -> Doses:
    if not case.has("dose"):
        raise CaseError("has no dose", where=case.id)
    planned, grid, _ = read_any_dose(case.path("dose"))
    dose, other, _ = read_any_dose(evaluated, case.prescription_gy)
    inside = mask or (case.path("mask_dose") if case.has("mask_dose") else None)
    return planned, grid, dose, other, _mask(inside, grid), case.prescription_gy


def _of_files(reference: Path, evaluated: Path, mask: Path | None) -> Doses:
    planned, grid, notes = read_any_dose(reference)
    dose, other, more = read_any_dose(evaluated)
    frames = frame_of_reference(reference), frame_of_reference(evaluated)
    if all(frames) and frames[0] != frames[1]:
        raise CaseError(
            "the doses belong to different frames of reference",
            where=evaluated,
            why=f"Where they lie in the reference {reference.name} is unknown",
            fix="Compare doses of one CT",
        )
    for path, note in [*((reference, note) for note in notes), *((evaluated, note) for note in more)]:
        _log.warning("%s: %s", path, note)
    return planned, grid, dose, other, _mask(mask, grid), None


def _mask(path: Path | None, grid: Grid) -> NDArray[np.bool_] | None:
    if path is None:
        return None
    if not is_nifti(path):
        raise UsageError("is no NIfTI mask", where=path, fix="Give a .nii.gz file on the grid of the reference")
    mask, found = read_nifti(path)
    require_same_grid(found, grid, where=str(path))
    return mask > 0


def _judge(options: GammaOptions, maps: Path | None, pair: tuple[str, Callable[[], Doses]]) -> list[Row]:
    """Rows of a case; its map is written."""
    name, load = pair
    planned, grid, dose, other, mask, prescription_gy = load()
    rows, gamma = compare_doses(name, planned, grid, dose, other, options, mask=mask, prescription_gy=prescription_gy)
    if maps is not None:
        write_nifti(maps / name / MAP_FILE, gamma.values, grid)
    return rows


def _lines(rows: list[Row]) -> list[str]:
    """What a person reads: pass rates, all parameters once, signed errors."""
    shown = {"gamma_pass_rate": "pass %", "gamma_mean": "mean", "gamma_max": "max", "gamma_voxels": "voxels"}
    shown |= {"signed_error": "error Gy", "overdose": "over Gy", "underdose": "under Gy"}
    shown |= {"signed_error_gradient": "error Gy in gradient"}
    cases: dict[str, dict[str, float]] = {}
    told = dict.fromkeys(row.convention for row in rows if row.metric == "gamma_pass_rate")
    for row in rows:
        cases.setdefault(row.case, {})[row.metric] = row.value
    width = max([4, *map(len, cases)])
    lines = [f"{'case':<{width}} " + " ".join(f"{head:>9}" for head in shown.values())]
    for case, values in cases.items():
        cells = (f"{values[key]:>{max(9, len(head))}.{0 if 'voxels' in key else 3}f}" for key, head in shown.items())
        lines.append(f"{case:<{width}} " + " ".join(cells))
    for case, values in cases.items():
        if missed := int(values.get("gamma_voxels_out_of_reach", 0)):
            what = f"{missed} voxels above the cutoff lie beyond the judged dose"
            lines.append(f"note: {case}: {what}: they have no gamma, and are neither passed nor failed")
    more = ["other cases have other normalisations: each row of the table tells its own"] if len(told) > 1 else []
    return [*lines, *list(told)[:1], *more]
