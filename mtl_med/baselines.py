"""Doses without a network: what a table of medians over the fit cases knows, as yardsticks for every method.

`combination`: the median dose of the voxels that lie in the same structures. `distance`: the median dose of the voxels
that lie equally far from each target. Both hold inside the possible-dose mask, are fitted on voxels of the fit cases,
and are written like any other prediction. They are told the structures, which a network given the CT alone is not.
"""

from __future__ import annotations

import argparse
import logging
import sys
from functools import partial
from pathlib import Path

from mtl_med.dose_tables import KINDS, DoseTable, fit, predict
from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, CaseError, UsageError
from mtl_med.io.results import write_prediction
from mtl_med.manifest import Case, Manifest
from mtl_med.parallel import at_least_one, map_cases
from mtl_med.provenance import write_record

__all__ = ["add_arguments", "run", "write_baseline"]

_log = logging.getLogger(__name__)


def write_baseline(
    study: str | Path,
    out: str | Path,
    kind: str,
    *,
    split: str = "validation",
    fit_split: str = "fit",
    workers: int = 1,
) -> tuple[list[str], dict[str, str]]:
    """Fit a table on one split and write its doses for another, in the layout of predictions.

    Args:
        study: the study folder.
        out: folder of the predictions.
        kind: one of `KINDS`.
        split: the split to predict.
        fit_split: the split to fit.
        workers: number of processes.

    Returns:
        Ids of the cases written, and id -> sentence of those that failed, of either split.

    Raises:
        UsageError: no study, split or kind of that name, or the two splits are the same.
        OutputError: the folder cannot be written.
    """
    if split == fit_split:
        raise UsageError(f"fitting and predicting the same split '{split}'", fix="Choose another with --fit-split")
    manifest = Manifest.read(study)
    fit_cases, cases = manifest.split(fit_split), manifest.split(split)
    table, failures = fit(fit_cases, kind, workers=workers)
    outcomes = list(map_cases(partial(_write, table, Path(out)), cases, workers=workers, label=f"predict {kind}"))
    failed = {case.id: item.failure for case, item in zip(cases, outcomes, strict=True) if item.failure}
    written = [case.id for case in cases if case.id not in failed]
    record = {
        "kind": kind,
        "study": str(study),
        "split": split,
        "fit_split": fit_split,
        "fit_cases": len(fit_cases) - len(failures),
        "structures": list(table.names),
        "table_rows": len(table.codes),
        "hashes": {"fingerprint": manifest.fingerprint},
        "written": written,
        "failed": failures | failed,
    }
    write_record(Path(out) / "run.json", "baseline", record)
    return written, failures | failed


def _write(table: DoseTable, out: Path, case: Case) -> None:
    if case.grid is None:
        raise CaseError("has no grid in mm", where=case.id)
    write_prediction(out, case.id, case.grid, dose_gy=predict(table, case))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med baseline`."""
    parser.add_argument("--study", type=Path, required=True, help="study folder: doses and contours")
    about = "a voxel gets the median dose of voxels in the same structures, or equally far (mm) from each target"
    parser.add_argument("--kind", choices=tuple(KINDS), required=True, help=about)
    about = "folder of predictions to write: dose.nii.gz (Gy) in one folder per case"
    parser.add_argument("--out", type=Path, required=True, help=about)
    about = "split to predict: fit, tune, validation or test (default: validation)"
    parser.add_argument("--split", default="validation", help=about)
    about = "split whose planned doses the medians are taken from (default: fit)"
    parser.add_argument("--fit-split", default="fit", help=about)
    parser.add_argument("--workers", type=at_least_one, default=1, metavar="N", help="cases at a time (default: 1)")


def run(args: argparse.Namespace) -> int:
    """`mtl-med baseline`: 0 all predicted, 4 some cases failed, 5 all failed."""
    written, failures = write_baseline(
        args.study, args.out, args.kind, split=args.split, fit_split=args.fit_split, workers=args.workers
    )
    for case, sentence in failures.items():
        _log.warning("%s: %s", case, sentence)
    sys.stdout.write(f"{len(written)} predictions written to {args.out}\n")
    if not written:
        return EXIT_ALL_FAILED
    return EXIT_SOME_FAILED if failures else EXIT_OK
