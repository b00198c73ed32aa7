"""A study folder from the raw data of a recipe: every case by itself, in parallel, whole or not at all."""

from __future__ import annotations

import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mtl_med
from mtl_med.errors import (
    EXIT_ALL_FAILED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    MtlMedError,
    OutputError,
    UsageError,
)
from mtl_med.files import read_json, write_json, write_text
from mtl_med.manifest import Case, Manifest
from mtl_med.prep.convert import PREP_VERSION, STAGING_PREFIX, prepare_case, read_quality
from mtl_med.prep.pool import run_all
from mtl_med.prep.quality import quality_table
from mtl_med.prep.raw import Source
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.splits import assign_splits

__all__ = ["Outcome", "prepare"]

log = logging.getLogger(__name__)

SPLITS_OF_GROUP = {"train": ("fit", "tune"), "validation": ("validation",), "test": ("test",)}


@dataclass
class Outcome:
    """What a run did.

    Args:
        manifest: the study as it is now.
        converted: ids converted now.
        skipped: ids that were finished before.
        failed: id -> why it failed.
        seconds: wall-clock time.
    """

    manifest: Manifest
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0 when every case is there, else 4 (some failed) or 5 (all failed)."""
        if not self.failed:
            return EXIT_OK
        return EXIT_SOME_FAILED if self.converted or self.skipped else EXIT_ALL_FAILED


def prepare(
    recipe: Recipe,
    source: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    limit: int | None = None,
    overwrite: bool = False,
    command: Iterable[str] = (),
    progress: Callable[[Iterable, int], Iterable] | None = None,
) -> Outcome:
    """Write the study folder `out` from the raw data in `source`.

    Cases of groups that `source` does not hold stay in the study; a case of these groups that is gone or fails now is
    left out of the manifest, while its old folder stays on disk.

    Args:
        recipe: the facts about the data set.
        source: folder of the raw data.
        out: study folder, made when it is missing.
        workers: number of processes.
        limit: prepare only the first so many cases.
        overwrite: convert finished cases again.
        command: the command line, for `run.json`.
        progress: wraps the stream of results, given their number.

    Raises:
        NothingFoundError: `source` holds no such data.
        UsageError: `out` holds something else.
        OutputError: `out` cannot be written.
    """
    started = time.time()
    source, out = Path(source).resolve(), Path(out).resolve()
    sources = list(READERS[recipe.reader].scan(source))[:limit]
    earlier = _open_study(out, source, recipe)
    splits = assign_splits(sources, recipe.tune_fraction)
    jobs = [(item, recipe, out / "cases", splits[item.id], overwrite) for item in sources]
    cases: list[Case] = []
    outcome = Outcome(Manifest(recipe.dataset, out, ()))
    results = run_all(prepare_case, jobs, workers)
    for job, result in progress(results, len(jobs)) if progress else results:
        case_id = job[0].id
        if isinstance(result, MtlMedError):
            outcome.failed[case_id] = str(result)
            continue
        case, converted = result
        cases.append(case)
        (outcome.converted if converted else outcome.skipped).append(case_id)
    outcome.manifest = Manifest.build(recipe.dataset, out, [*cases, *_others(earlier, sources, outcome)])
    outcome.seconds = time.time() - started
    _write_study(outcome, recipe, source, list(command), workers, started)
    return outcome


def _open_study(out: Path, source: Path, recipe: Recipe) -> tuple[Case, ...]:
    """Make or enter the study folder, clear what a killed run left, and give the cases that it holds."""
    if out == source or out.is_relative_to(source):
        raise UsageError("the study would lie inside the raw data", where=out, fix="Choose another --out")
    try:
        (out / "cases").mkdir(parents=True, exist_ok=True)
        for left in [*(out / "cases").glob(f"{STAGING_PREFIX}*"), *out.glob(f"{STAGING_PREFIX}*")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    except OSError as error:
        raise OutputError(f"cannot write: {error.strerror or error}", where=out, fix="Choose another --out") from error
    if not (out / "manifest.json").is_file():
        return ()
    fields = read_json(out / "manifest.json")
    if isinstance(fields, dict) and fields.get("dataset") != recipe.dataset:
        raise UsageError(f"holds a study of '{fields.get('dataset')}'", where=out, fix="Choose another --out")
    return _readable_cases(out, fields)


def _readable_cases(out: Path, fields: dict) -> tuple[Case, ...]:
    cases = []
    for item in fields.get("cases", []):
        try:
            cases.append(Case.read(out / item["folder"]))
        except UsageError:
            log.warning("%s: is no finished case any more", out / item["folder"])
    return tuple(cases)


def _others(earlier: Iterable[Case], sources: list[Source], outcome: Outcome) -> list[Case]:
    """Earlier cases of groups that this source does not hold; those of its own groups that are gone are named."""
    groups = {source.group for source in sources}
    own_splits = {split for group in groups for split in SPLITS_OF_GROUP[group]}
    ids = {source.id for source in sources}
    gone = [case.id for case in earlier if case.split in own_splits and case.id not in ids]
    if gone:
        log.warning("no longer in the source and left out of the manifest (folders kept): %s", ", ".join(gone))
    return [case for case in earlier if case.split not in own_splits and case.id not in ids]


def _write_study(
    outcome: Outcome, recipe: Recipe, source: Path, command: list[str], workers: int, started: float
) -> None:
    manifest = outcome.manifest
    rows = [(case.id, case.split, *read_quality(case)) for case in manifest]
    write_text(manifest.root / "quality.csv", quality_table(rows))
    manifest.write()
    run = {
        "schema": "mtl_med/run/1",
        "stage": "prep",
        "command": command,
        "source": str(source),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(outcome.seconds, 2),
        "workers": workers,
        "versions": {
            "mtl_med": mtl_med.__version__,
            "prep": PREP_VERSION,
            "python": platform.python_version(),
            "numpy": np.__version__,
        },
        "hashes": {"recipe": recipe.digest, "fingerprint": manifest.fingerprint},
        "converted": sorted(outcome.converted),
        "skipped": sorted(outcome.skipped),
        "failed": dict(sorted(outcome.failed.items())),
    }
    write_json(manifest.root / "run.json", run)
