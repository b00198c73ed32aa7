"""The command `prep`: arguments, progress and the closing summary."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from mtl_med.errors import EXIT_INTERRUPTED, MtlMedError

if TYPE_CHECKING:
    from mtl_med.prep.engine import Outcome

__all__ = ["add_arguments", "build_parser", "main", "run"]

DESCRIPTION = "Turn the raw files of a data set into a study folder: NIfTI volumes, manifest and quality table."
EXAMPLE = "example: {prog} openkbp --source open-kbp/provided-data --out study --workers 4"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `prep` to a parser."""
    from mtl_med.prep.recipe import recipe_names

    parser.description = DESCRIPTION
    parser.epilog = EXAMPLE.format(prog=parser.prog)
    parser.add_argument("dataset", choices=recipe_names(), help="which data set the source is")
    parser.add_argument("--source", type=Path, required=True, help="folder of the raw data, as published")
    parser.add_argument("--out", type=Path, required=True, help="study folder to write; finished cases are skipped")
    parser.add_argument("--workers", type=_positive, metavar="N", help="processes (default: one per processor)")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N cases")
    parser.add_argument("--overwrite", action="store_true", help="convert finished cases again")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not above 0")
    return number


def build_parser(prog: str = "python -m mtl_med.prep") -> argparse.ArgumentParser:
    """Parser of `prep` for a program name."""
    parser = argparse.ArgumentParser(prog=prog)
    add_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    args = build_parser().parse_args(argv)
    try:
        return run(args)
    except MtlMedError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: finished cases are kept; the same command goes on with the others\n")
        return EXIT_INTERRUPTED


def run(args: argparse.Namespace) -> int:
    """Prepare a study as `args` says; returns the exit code."""
    from mtl_med.prep.engine import prepare
    from mtl_med.prep.pool import available_cpus
    from mtl_med.prep.recipe import load_recipe

    outcome = prepare(
        load_recipe(args.dataset),
        args.source,
        args.out,
        workers=args.workers or available_cpus(),
        limit=args.limit,
        overwrite=args.overwrite,
        command=sys.argv,
        progress=_progress,
    )
    for reason in outcome.failed.values():
        sys.stderr.write(f"failed: {reason}\n")
    sys.stderr.write(_summary(outcome))
    return outcome.exit_code


def _progress(results: Iterable, total: int) -> Iterable:
    from tqdm import tqdm

    return tqdm(results, total=total, unit="case", disable=None)


def _summary(outcome: Outcome) -> str:
    counts = {"converted": outcome.converted, "skipped": outcome.skipped, "failed": outcome.failed}
    told = ", ".join(f"{len(ids)} {word}" for word, ids in counts.items())
    return f"{told} in {outcome.seconds:.0f} s; study of {len(outcome.manifest)} cases: {outcome.manifest.root}\n"
