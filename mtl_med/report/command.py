"""`mtl-med report`: options, and what is told at the end."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED
from mtl_med.parallel import at_least_one
from mtl_med.report.case_page import Options

__all__ = ["add_arguments", "run"]

_SHOWN = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med report`."""
    parser.add_argument("--study", type=Path, required=True, help="study folder: planned doses, contours, labels")
    about = (
        "folder of predictions as `mtl-med evaluate` takes it; further ones, after it or with another --predictions, "
        "are compared with the first"
    )
    parser.add_argument(
        "--predictions", type=Path, required=True, nargs="+", action="extend", metavar="DIR", help=about
    )
    about = "folder to write; open its index.html, which needs no network"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=about)
    about = "one file, DIR/report.html, that can be mailed, instead of a page per case"
    parser.add_argument("--single-file", action="store_true", help=about)
    parser.add_argument(
        "--gamma", action="store_true", help="gamma map and pass rate of every dose; takes seconds each"
    )
    about = "clinical goals: a preset such as head_and_neck or prostate, or a JSON file (default: what fits the study)"
    parser.add_argument("--goals", default="", metavar="NAME|FILE", help=about)
    parser.add_argument("--split", help="this split alone: fit, tune, validation or test (default: what was predicted)")
    about = "pages for the N worst cases alone; the cohort page tells of all"
    parser.add_argument("--limit", type=at_least_one, metavar="N", help=about)
    parser.add_argument("--no-viewer", action="store_true", help="leave out the viewer: smaller pages")
    parser.add_argument("--workers", type=at_least_one, default=1, metavar="N", help="cases at a time (default: 1)")


def run(args: argparse.Namespace) -> int:
    """`mtl-med report`: 0 all shown, 4 something of some case could not be scored or shown, 5 of every case."""
    from mtl_med.report.build import build_report

    options = Options(
        gamma=args.gamma,
        goals=args.goals,
        viewer=not args.no_viewer,
        single_file=args.single_file,
        workers=args.workers,
    )
    report = build_report(args.study, args.predictions, args.out, options, split=args.split, limit=args.limit)
    count = len(report.cases)
    lines = [f"{count} {'case' if count == 1 else 'cases'} in {report.seconds:.1f} s"]
    for case in report.failed[:_SHOWN]:
        lines += [f"  {case.id}: {sentence}" for sentence in case.failures]
    if len(report.failed) > _SHOWN:
        lines.append(f"  and {len(report.failed) - _SHOWN} more")
    lines.append(f"written: {report.path}")
    sys.stdout.write("\n".join(lines) + "\n")
    if not report.failed:
        return EXIT_OK
    return EXIT_ALL_FAILED if len(report.failed) == count else EXIT_SOME_FAILED
