"""The command `prep`: its arguments and its closing summary."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.prep.recipe import recipe_names

if TYPE_CHECKING:
    from mtl_med.prep.engine import Report

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med prep` and `python -m mtl_med.prep`."""
    parser.add_argument("dataset", choices=recipe_names(), help="data set that the source holds")
    parser.add_argument("--source", type=Path, required=True, help="folder of the raw data, as published")
    about = "study folder to write: CT (HU), dose (Gy) and structures as NIfTI, and quality.csv"
    parser.add_argument("--out", type=Path, required=True, help=about)
    about = "cases converted at a time (default: one per processor)"
    parser.add_argument("--workers", type=_count, metavar="N", help=about)
    about = "prepare N cases only: the first of each group (training, validation, test) by its share (default: all)"
    parser.add_argument("--limit", type=_count, metavar="N", help=about)
    about = "convert again what is finished (default: only what is new or has changed)"
    parser.add_argument("--overwrite", action="store_true", help=about)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Prepare a study as `args` says; returns the exit code."""
    from mtl_med.prep.engine import prepare
    from mtl_med.prep.recipe import load_recipe

    report = prepare(
        load_recipe(args.dataset),
        args.source,
        args.out,
        workers=args.workers or _processors(),
        limit=args.limit,
        overwrite=args.overwrite,
    )
    for reason in report.failed.values():
        print(f"failed: {reason}", file=sys.stderr)
    print(_summary(report))
    return report.exit_code


def _processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _summary(report: Report) -> str:
    counts = {"converted": report.converted, "skipped": report.skipped, "failed": report.failed}
    told = ", ".join(f"{len(ids)} {word}" for word, ids in counts.items())
    study = report.manifest
    notes = f"{report.with_notes} of {len(study)} cases have notes: see {study.root / 'quality.csv'}"
    return f"{told} in {report.seconds:.0f} s; study of {len(study)} cases in {study.root}\n{notes}"
