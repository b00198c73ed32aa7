"""A study folder from the raw data of a recipe: every case by itself, in parallel, whole or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED
from mtl_med.files import write_text
from mtl_med.manifest import Case, Manifest
from mtl_med.parallel import map_cases
from mtl_med.prep.convert import PREP_VERSION, Job, prepare_case, read_quality
from mtl_med.prep.quality import quality_table
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.splits import assign_splits, first_of_each_group
from mtl_med.prep.study import kept_cases, open_study
from mtl_med.provenance import write_record

__all__ = ["Report", "prepare"]

log = logging.getLogger(__name__)


@dataclass
class Report:
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
    def with_notes(self) -> int:
        """Number of the study's cases about which the quality table notes something."""
        return sum(bool(case.notes) for case in self.manifest)

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
) -> Report:
    """Write the study folder `out` from the raw data in `source`.

    Cases of groups that `source` does not hold stay in the study. Of the groups that it holds, the manifest lists what
    this run converted or found finished: a case that is gone from the source, or fails now, is left out, while the
    folder that an earlier run wrote for it stays on disk.

    Args:
        recipe: the facts about the data set.
        source: folder of the raw data.
        out: study folder, made when it is missing.
        workers: number of processes.
        limit: prepare only so many cases.
        overwrite: convert finished cases again.

    Raises:
        NothingFoundError: `source` holds no such data.
        UsageError: `out` holds something else, or another run writes there.
        OutputError: `out` cannot be written.
    """
    started = time.time()
    source, out = Path(source).resolve(), Path(out).resolve()
    found = READERS[recipe.reader].scan(source)
    sources = first_of_each_group(found, limit)
    with open_study(out, source, recipe.dataset) as earlier:
        splits = assign_splits(sources, recipe.tune_fraction)
        jobs = [Job(item, splits[item.id]) for item in sources]
        cases, report = _convert_all(jobs, recipe, out, workers, overwrite)
        others = kept_cases(earlier, sources)
        report.manifest = Manifest.build(recipe.dataset, out, [*cases, *others])
        report.seconds = time.time() - started
        _write(report, recipe, source, workers, started)
    return report


def _convert_all(
    jobs: Sequence[Job], recipe: Recipe, out: Path, workers: int, overwrite: bool
) -> tuple[list[Case], Report]:
    cases: list[Case] = []
    report = Report(Manifest(recipe.dataset, out, ()))
    work = partial(prepare_case, recipe, out / "cases", overwrite)
    for job, outcome in zip(jobs, map_cases(work, jobs, workers=workers, label="prepare"), strict=True):
        if outcome.value is None:
            report.failed[job.source.id] = outcome.failure
            continue
        case, converted = outcome.value
        cases.append(case)
        (report.converted if converted else report.skipped).append(case.id)
    return cases, report


def _write(report: Report, recipe: Recipe, source: Path, workers: int, started: float) -> None:
    """Quality table, manifest and run record, in this order: a manifest never stands without its table."""
    manifest = report.manifest
    rows = [(case.id, case.split, *read_quality(case)) for case in manifest]
    write_text(manifest.root / "quality.csv", quality_table(rows))
    manifest.write()
    fields = {
        "source": str(source),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(started)),
        "seconds": round(report.seconds, 2),
        "workers": workers,
        "prep_version": PREP_VERSION,
        "hashes": {"recipe": recipe.digest, "fingerprint": manifest.fingerprint},
        "converted": report.converted,
        "skipped": report.skipped,
        "failed": report.failed,
    }
    write_record(manifest.root / "run.json", "prep", fields, packages=("numpy", "nibabel"))
