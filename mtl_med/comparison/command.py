"""`mtl-med compare`: methods x seeds from one JSON file, run by run, and the tables that follow from them."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtl_med.comparison.checks import open_bundle
from mtl_med.comparison.execution import Job, execute_all, monai_command
from mtl_med.comparison.progress import duration, left, listing, scores_in_words
from mtl_med.comparison.protocol import Protocol, read_protocol
from mtl_med.comparison.results import collect, read_results, with_earlier, write_results
from mtl_med.comparison.runs import FINISHED, OTHER, Run, plan, refuse_others
from mtl_med.comparison.trial import try_rows
from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, UsageError, nearest
from mtl_med.files import shipped, write_text
from mtl_med.manifest import Manifest

__all__ = ["add_arguments", "choose", "find_protocol", "run"]

# The splits that a run reads: to train, to choose the epoch, to be scored on.
_SPLITS = ("fit", "tune", "validation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med compare`."""
    add = parser.add_argument
    add("protocol", help=f"the comparison: a JSON file, or the name of a shipped one ({', '.join(_shipped())})")
    add("--study", type=Path, help="study folder to train and score on; not needed with --list and --tables")
    add("--out", type=Path, required=True, help="folder of the runs, scores.csv, runs.csv and table.md")
    add("--processes", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    add("--threads", type=int, metavar="N", help="threads of each run (default: the cores divided by --processes)")
    add("--only", action="append", default=[], metavar="ROW[:SEED]", help="do these runs alone; can be repeated")
    add(
        "--finished",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder with the tables of finished runs (runs.csv, scores.csv, protocol.json), as in docs/results; runs "
        "of the same settings, data and scores are taken from there; can be repeated",
    )
    add("--list", action="store_true", help="show every run, its state and the time that is left, and do nothing")
    add("--tables", action="store_true", help="make the tables of what is finished, and run nothing")
    add("--overwrite", action="store_true", help="make runs again whose settings or data are no longer those asked for")
    add("--keep-predictions", action="store_true", help="keep the predicted volumes, which are large")


def run(args: argparse.Namespace) -> int:
    """`mtl-med compare`: 0 all chosen runs are finished, 4 some failed, 5 all failed."""
    if args.list and args.tables:
        raise UsageError("--list and --tables cannot be used together", fix="Choose one")
    for name in ("processes", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"{value} is too few", where=f"--{name}", fix="Give 1 or more")
    _refuse_file(args.out)
    protocol = read_protocol(find_protocol(args.protocol))
    bundle = open_bundle(protocol)
    if args.study is None and not (args.list or args.tables):
        raise UsageError("no study is given", where="--study", fix="Give the folder that mtl-med prep wrote")
    runs = plan(protocol, bundle, args.out, _fingerprint(args.study))
    for folder in args.finished:
        results = read_results(folder)
        runs = with_earlier(protocol, runs, results)
        others = [each.name for each in runs if (each.row, each.seed) in results.runs and each.earlier is None]
        if others:
            _say(f"not taken from {folder}, where settings, data or scores are others: {'; '.join(others)}")
    chosen = choose(runs, args.only)
    if args.list:
        _say("\n".join(listing(chosen, args.processes)))
        return EXIT_OK
    failed: list[Run] = []
    if not args.tables:
        if not args.overwrite:
            refuse_others(chosen)
        coming = [each for each in chosen if each.state() != FINISHED]
        if coming:
            try_rows(protocol, bundle, coming, args.study)
        threads = args.threads or max(1, _cores() // args.processes)
        job = Job(
            bundle,
            args.study,
            processes=args.processes,
            threads=threads,
            keep_predictions=args.keep_predictions,
            overwrite=args.overwrite,
            command=monai_command,
            gpus=_gpus(),
        )
        failed = _do(protocol, chosen, job)
    _write_tables(protocol, runs, args.out)
    if failed:
        return EXIT_ALL_FAILED if len(failed) == len(chosen) else EXIT_SOME_FAILED
    return EXIT_OK


def _refuse_file(out: Path) -> None:
    """Refuse a place for results that is a file, or lies below one.

    Raises:
        UsageError: it is.
    """
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(f"{there} is a file", where="--out", fix="Give a folder, which is made where there is none")


def find_protocol(text: str) -> Path:
    """The path itself, or the shipped comparison of that name.

    Raises:
        UsageError: neither; names the nearest shipped ones.
    """
    if Path(text).is_file():
        return Path(text)
    known = _shipped()
    if text in known:
        return known[text]
    hint = nearest(text, known) if known else "Give the path of a JSON file"
    raise UsageError(f"there is no file or shipped comparison '{text}'", fix=hint)


def _shipped() -> dict[str, Path]:
    found = shipped("bundles").glob("*/comparisons/*.json")
    return {path.stem: path for path in sorted(found, key=lambda path: path.stem)}


def choose(runs: Sequence[Run], only: Sequence[str]) -> list[Run]:
    """The runs that `--only ROW` or `--only ROW:SEED` name, or all.

    Raises:
        UsageError: a row or seed that is not there, with the nearest names.
    """
    if not only:
        return list(runs)
    rows = {run.row for run in runs}
    asked: set[tuple[str, int]] = set()
    for text in only:
        row, _, seed = (text, "", "") if text in rows or ":" not in text else text.rpartition(":")
        if row not in rows:
            raise UsageError(f"there is no row '{row}'", where=f"--only {text}", fix=nearest(row, rows))
        seeds = {str(run.seed): run.seed for run in runs if run.row == row}
        if seed and seed not in seeds:
            fix = f"Its seeds: {', '.join(seeds)}"
            raise UsageError(f"row '{row}' has no seed {seed}", where=f"--only {text}", fix=fix)
        asked |= {(row, number) for word, number in seeds.items() if not seed or word == seed}
    return [run for run in runs if (run.row, run.seed) in asked]


def _do(protocol: Protocol, chosen: Sequence[Run], job: Job) -> list[Run]:
    """Execute what is not finished, and tell how it goes; gives the runs that failed."""
    finished = [each for each in chosen if each.state() == FINISHED]
    waiting = [each for each in chosen if each.state() != FINISHED]
    _say(f"{len(finished)} of {len(chosen)} runs are finished; {left(finished, waiting, job.processes)}")
    failed: list[Run] = []
    open_runs = {each.name: each for each in waiting}

    def report(each: Run, record: Mapping[str, Any] | None, reason: str) -> None:
        del open_runs[each.name]
        if record is None:
            failed.append(each)
            text = f"FAILED: {reason.rstrip('.')}"
        else:
            finished.append(each)
            text = f"{duration(record['seconds'])}; {scores_in_words(protocol, each)}"
        rest = left(finished, list(open_runs.values()), job.processes)
        _say(f"[{len(finished) + len(failed)}/{len(chosen)}] {each.name}: {text}; {rest}")

    with _signals_interrupt():
        try:
            execute_all(waiting, job, report)
        except KeyboardInterrupt:
            _say("stopped; the same command goes on where it was, and --tables makes tables of what is finished")
            raise
    return failed


def _write_tables(protocol: Protocol, runs: Sequence[Run], out: Path) -> None:
    from mtl_med.comparison.tables import render

    others = [each.name for each in runs if each.state() == OTHER]
    if others:
        _say(f"not in the tables, since settings or data are no longer those asked for: {'; '.join(others)}")
    results = collect(protocol, runs)
    if not results.runs:
        _say("no run is finished, so there is no table")
        return
    write_results(results, out)
    write_text(out / "table.md", render(out))
    _say(f"written: {out / 'table.md'}, scores.csv, runs.csv, protocol.json ({len(results.runs)} of {len(runs)} runs)")


def _fingerprint(study: Path | None) -> str:
    """Hash of the data, once it is sure that every run finds its splits there; "" without a study."""
    if study is None:
        return ""
    manifest = Manifest.read(study)
    manifest.split(*_SPLITS)
    return manifest.fingerprint


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> tuple[str, ...]:
    """GPUs to deal out among the runs, as CUDA names them: those this process may use, else all of NVIDIA's driver."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return tuple(word.strip() for word in chosen.split(",") if word.strip())
    found = Path("/proc/driver/nvidia/gpus")
    return tuple(str(number) for number, _ in enumerate(found.iterdir())) if found.is_dir() else ()


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the runs as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # Under nohup a closed terminal is to be ignored, and stays so.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]
    before: dict[int, Callable | int | None] = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
