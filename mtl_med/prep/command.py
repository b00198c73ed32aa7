"""The command `prep`: its arguments, what it refuses, and its closing summary."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.errors import UsageError, nearest
from mtl_med.parallel import at_least_one, worker_processes
from mtl_med.prep.recipe import ReaderOptions, Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from mtl_med.prep.check import Check
    from mtl_med.prep.engine import Report

__all__ = ["DOSES", "add_arguments", "run"]

DOSES = (
    *("MULTI_PLAN", "PLAN_OVERVIEW", "BRACHY", "FRACTION_SESSION", "BEAM_SESSION", "BRACHY_SESSION"),
    *("CONTROL_POINT", "RECORD", "SESSION", "PLAN_SUM", "PHYSICAL", "EFFECTIVE"),
)
"""`ALLOWANCES` of `mtl_med.io.rtdose_choice`, which the help must not import."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med prep` and `python -m mtl_med.prep`."""
    about = f"data set that the source holds: {', '.join(recipe_names())}, or the path of a recipe.json of your own"
    parser.add_argument("dataset", type=_dataset, help=about)
    parser.add_argument("--source", type=Path, help="folder of the raw data; needed unless --merge")
    about = "study folder to write: CT (HU), dose (Gy), structures as NIfTI, quality.csv, quality.html"
    parser.add_argument("--out", type=Path, help=f"{about}; needed unless --check")
    about = "cases converted at a time (default: one per processor)"
    parser.add_argument("--workers", type=at_least_one, metavar="N", help=about)
    about = "prepare N cases only: the first of each group (training, validation, test) by its share (default: all)"
    parser.add_argument("--limit", type=at_least_one, metavar="N", help=about)
    about = "convert again what is finished (default: only what is new or has changed)"
    parser.add_argument("--overwrite", action="store_true", help=about)
    parser.add_argument("--check", action="store_true", help="tell what would be converted, and write nothing")
    _add_options(parser.add_argument_group("studies of any clinic (dicom_rt, nifti)"))
    many = parser.add_argument_group("many machines")
    about = "convert part k of n of the cases; run all parts, on any machines, then --merge"
    many.add_argument("--shard", metavar="k/n", help=about)
    many.add_argument("--merge", action="store_true", help="make one study of all parts that lie in --out")
    about = "address of a Dask scheduler whose workers convert (extra 'scale')"
    many.add_argument("--scheduler", default="", metavar="ADDRESS", help=about)


def _add_options(group: argparse._ArgumentGroup) -> None:
    about = "names of structures that go before the shipped table: a JSON table, or names_review.csv filled in"
    group.add_argument("--structures", type=Path, dest="table", metavar="FILE", help=about)
    about = "grid of a case: ct (default), dose, or a spacing in mm for all axes, such as 3"
    group.add_argument("--grid", type=_grid, default="ct", metavar="ct|dose|MM", help=about)
    about = "interpolate uneven slices, and take masks of another grid by the nearest voxel, instead of refusing them"
    group.add_argument("--resample", action="store_true", help=about)
    about = "go on where structures or dose belong to another frame of reference"
    group.add_argument("--force", action="store_true", help=about)
    about = "go on where the dose grid does not cover a target"
    group.add_argument("--allow-partial-dose", action="store_true", help=about)
    group.add_argument(
        "--interpolate-gaps", action="store_true", help="fill in contours that are missing between others"
    )
    about = f"doses to take beside those of one plan: {', '.join(DOSES)} (PLAN_SUM adds the doses of several plans)"
    group.add_argument("--doses", nargs="+", default=[], choices=DOSES, metavar="KIND", help=about)
    about = "name cases by a secret key, and write no name, date or free text; the key lies beside the study (OUT.key)"
    group.add_argument("--deidentify", action="store_true", help=about)
    group.add_argument("--key", type=Path, metavar="FILE", help="key of an earlier run; implies --deidentify")
    group.add_argument("--deface", action="store_true", help="put air in the place of the face, in scans of a head")


def _dataset(text: str) -> str:
    if text not in recipe_names() and not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"'{text}' is no data set. {nearest(text, recipe_names())}")
    return text


def _grid(text: str) -> str | float:
    if text in ("ct", "dose"):
        return text
    try:
        spacing_mm = float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"'{text}' is neither ct nor dose nor a number of mm") from error
    if not 0.1 <= spacing_mm <= 50:
        raise argparse.ArgumentTypeError(f"{text} mm is no spacing between 0.1 and 50 mm")
    return spacing_mm


def run(args: argparse.Namespace) -> int:
    """Prepare a study as `args` says; returns the exit code."""
    from mtl_med.prep.check import check_sources
    from mtl_med.prep.engine import How, merge_shards, prepare, prepare_shard
    from mtl_med.prep.redaction import Redactor, redacted
    from mtl_med.prep.shards import Shard

    _refuse_what_cannot_be_meant(args)
    recipe = _with_options(load_recipe(args.dataset), args)
    how = How(args.workers or _processors(), args.limit, args.overwrite, args.scheduler)
    redactor = Redactor(folders=[args.source] if args.source else []) if recipe.options.key else None
    with redacted(redactor):
        if args.check:
            with worker_processes(how.workers):
                return _check(check_sources(recipe, args.source, args.limit))
        if args.merge:
            report = merge_shards(recipe, args.out)
        elif args.shard:
            report = prepare_shard(recipe, args.source, args.out, Shard.parse(args.shard), how)
        else:
            report = prepare(recipe, args.source, args.out, how)
    for case_id, reason in report.failed.items():
        told = reason if reason.startswith(case_id) else f"{case_id}: {reason}"
        print(f"failed: {told}", file=sys.stderr)
    print(_part_of(report, args.shard) if args.shard else _summary(report))
    return report.exit_code


def _check(found: Check) -> int:
    for line in found.lines:
        print(line)
    return found.exit_code


def _refuse_what_cannot_be_meant(args: argparse.Namespace) -> None:
    for name, unless in (("source", "merge"), ("out", "check")):
        if getattr(args, name) is None and not getattr(args, unless):
            raise UsageError(f"--{name} is missing", fix=f"Give the folder, or --{unless}")
    chosen = [name for name in ("check", "merge", "shard", "scheduler") if getattr(args, name)]
    if len(chosen) > 1:
        raise UsageError(f"--{chosen[0]} and --{chosen[1]} cannot be used together", fix="Choose one")
    without_meaning = [name for name in ("source", "limit", "workers", "overwrite") if getattr(args, name)]
    if args.merge and without_meaning:
        why = "It converts nothing: what the shards made becomes one study"
        raise UsageError(f"--{without_meaning[0]} has no meaning with --merge", why=why, fix="Leave it out")


def _with_options(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """The recipe with what the user decided; an option that its reader does not know is refused, not passed over."""
    from mtl_med.prep.names import NameTable
    from mtl_med.prep.readers import READERS

    names = [item.name for item in dataclasses.fields(ReaderOptions) if item.name != "key"]
    options = ReaderOptions(**{name: getattr(args, name) for name in names} | {"doses": tuple(args.doses)})
    asked = [name for name in names if getattr(options, name) != getattr(ReaderOptions(), name)]
    asked += ["deidentify"] if args.deidentify or args.key else []
    known = READERS[recipe.reader].options
    for name in asked:
        if name not in known:
            flag = "--structures" if name == "table" else f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} has no meaning for {recipe.dataset}", fix="Leave it out")
    if options.table is not None:
        NameTable.load(options.table)  # refuses what is no table before anything is read
    if "deidentify" in asked:
        options = dataclasses.replace(options, key=_key(args))
    return recipe.with_options(options) if asked else recipe


def _key(args: argparse.Namespace) -> Path:
    """The file of the key, made where it is missing and may be; a check writes nothing, so that it needs one."""
    from mtl_med.prep.identity import Pseudonyms, key_file

    path = args.key or (key_file(args.out) if args.out else None)
    if path is None or (args.check and not path.exists()):
        raise UsageError("--check cannot make a key", fix="Leave --deidentify out, or give the --key of an earlier run")
    if args.key:
        Pseudonyms.read(path)
    else:
        Pseudonyms.read_or_make(path)
    return path


def _processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _counts(report: Report) -> str:
    counts = {"converted": report.converted, "skipped": report.skipped, "failed": report.failed}
    return ", ".join(f"{len(ids)} {word}" for word, ids in counts.items())


def _summary(report: Report) -> str:
    study = report.manifest
    lines = [f"{_counts(report)} in {report.seconds:.0f} s; study of {len(study)} cases in {study.root}"]
    lines.append(f"{report.with_notes} of {len(study)} cases have notes: see {study.root / 'quality.html'}")
    if report.review:
        lines.append(
            f"{report.unmatched} names of structures are not known: fill in the last column of {report.review}, "
            "and pass it back with --structures"
        )
    return "\n".join(lines)


def _part_of(report: Report, shard: str) -> str:
    return f"{_counts(report)} in {report.seconds:.0f} s; part {shard}: run the others too, then --merge"
