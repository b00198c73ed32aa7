"""A study folder from the raw data of a recipe: every case by itself, in parallel, whole or not at all."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mtl_med.errors import EXIT_ALL_FAILED, EXIT_OK, EXIT_SOME_FAILED, UsageError
from mtl_med.files import read_json, write_text
from mtl_med.manifest import Case, Manifest
from mtl_med.parallel import Outcome, map_cases, worker_processes
from mtl_med.prep.convert import PREP_VERSION, Job, prepare_case, read_quality
from mtl_med.prep.identity import is_pseudonym
from mtl_med.prep.mosaic import write_mosaics
from mtl_med.prep.quality import quality_table
from mtl_med.prep.quality_page import write_quality_page
from mtl_med.prep.quality_rows import short_notes
from mtl_med.prep.raw import Source
from mtl_med.prep.readers import READERS
from mtl_med.prep.recipe import Recipe
from mtl_med.prep.review import review_names
from mtl_med.prep.shards import Shard, ShardCase, merge, open_shard, plan_digest, require_shards, write_shard
from mtl_med.prep.splits import assign_splits, first_of_each_group
from mtl_med.prep.study import kept_cases, open_study
from mtl_med.prep.wholeness import missing
from mtl_med.provenance import write_record

__all__ = ["How", "Report", "find_sources", "merge_shards", "prepare", "prepare_shard"]

log = logging.getLogger(__name__)

QUALITY_PAGE = "quality.html"


@dataclass(frozen=True)
class How:
    """How the cases of a run are worked through.

    Args:
        workers: number of processes.
        limit: prepare only so many cases.
        overwrite: convert finished cases again.
        scheduler: address of a Dask scheduler whose workers convert; empty for this machine.
    """

    workers: int = 1
    limit: int | None = None
    overwrite: bool = False
    scheduler: str = ""


_DEFAULT = How()


@dataclass
class Report:
    """What a run did.

    Args:
        manifest: the study as it is now; of one shard's run, its own cases.
        converted: ids converted now.
        skipped: ids that were finished before.
        failed: id -> why it failed.
        seconds: wall-clock time.
        unmatched: number of names of structures that are not known.
        review: the list of them, for a person to fill in; None where there are none.
    """

    manifest: Manifest
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    unmatched: int = 0
    review: Path | None = None

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


def find_sources(recipe: Recipe, source: Path, limit: int | None = None) -> list[Source]:
    """The cases of the raw data, in an order that depends on nothing else.

    Raises:
        NothingFoundError: `source` holds no such data.
    """
    return first_of_each_group(READERS[recipe.reader].scan(source, recipe), limit)


def prepare(recipe: Recipe, source: str | Path, out: str | Path, how: How = _DEFAULT) -> Report:
    """Write the study folder `out` from the raw data in `source`.

    Cases of groups that `source` does not hold stay in the study. Of the groups that it holds, the manifest lists what
    this run converted or found finished: a case that is gone from the source, or fails now, is left out, while the
    folder that an earlier run wrote for it stays on disk.

    Args:
        recipe: the facts about the data set, and the user's decisions.
        source: folder of the raw data.
        out: study folder, made when it is missing.
        how: how many at a time, and which.

    Raises:
        NothingFoundError: `source` holds no such data.
        UsageError: `out` holds something else, or another run writes there.
        OutputError: `out` cannot be written.
    """
    started = time.time()
    source, out = Path(source).resolve(), Path(out).resolve()
    with worker_processes(how.workers):
        sources = find_sources(recipe, source, how.limit)
        with open_study(out, source, recipe.dataset) as earlier:
            _require_same_identities(out, hidden=recipe.options.key is not None)
            report, cases = _convert_all(sources, recipe, out, how)
            others = _whole(kept_cases(earlier, sources))
            report.manifest = Manifest.build(recipe.dataset, out, [*cases, *others], recipe.classes)
            _write(report, recipe, _told(recipe, source, how, started), started, how.workers)
            review_names(report, recipe, sources)
    return report


def prepare_shard(recipe: Recipe, source: str | Path, out: str | Path, shard: Shard, how: How = _DEFAULT) -> Report:
    """Convert one shard's cases into `out`; `merge_shards` makes a study of all of them.

    Args:
        recipe: the facts about the data set, and the user's decisions.
        source: folder of the raw data, the same for every shard.
        out: study folder, which other shards may share.
        shard: which part of the cases.
        how: how many at a time, and which.

    Raises:
        NothingFoundError: `source` holds no such data.
        UsageError: `out` lies in `source`, holds cases with names where these have none or the other way round, or
            another run of this shard writes there.
        OutputError: `out` cannot be written.
    """
    started = time.time()
    source, out = Path(source).resolve(), Path(out).resolve()
    with worker_processes(how.workers):
        sources = find_sources(recipe, source, how.limit)
        _require_same_identities(out, hidden=recipe.options.key is not None)
        with open_shard(out, source, shard):
            splits = assign_splits(sources, recipe.fractions, recipe.split_seed)
            report, cases = _convert_all(sources, recipe, out, how, shard)
            report.manifest = Manifest.build(recipe.dataset, out, cases, recipe.classes)
            report.seconds = time.time() - started
            done = {case.id: case for case in cases}
            outcomes = {
                item.id: ShardCase(
                    item.group,
                    splits[item.id],
                    source_hash=done[item.id].source_hash if item.id in done else "",
                    failure=report.failed.get(item.id, ""),
                    converted=item.id in report.converted,
                )
                for item in shard.select(sources)
            }
            plan = plan_digest(recipe.digest, sources, splits)
            told = _told(recipe, source, how, started) | {"seconds": round(report.seconds, 2)}
            write_shard(out, shard, recipe.dataset, plan, outcomes, told)
    return report


def merge_shards(recipe: Recipe, out: str | Path) -> Report:
    """Make one study of all shards that were converted into `out`.

    Args:
        recipe: that of the shards.
        out: the study folder.

    Raises:
        UsageError: a shard is missing, or they do not belong together.
        OutputError: `out` cannot be written.
    """
    started = time.time()
    out = Path(out).resolve()
    require_shards(out)
    with open_study(out, None, recipe.dataset) as earlier:
        merged = merge(out, recipe.dataset)
        _require_same_identities(out, hidden=merged.deidentified)
        others = _whole(kept_cases(earlier, merged.sources(out)))
        report = Report(
            Manifest.build(recipe.dataset, out, [*merged.cases, *others], recipe.classes),
            merged.converted,
            merged.skipped,
            merged.failed,
        )
        told = {"shards": merged.shards, "started": _clock(started), "deidentified": merged.deidentified}
        _write(report, recipe, told | ({"command": []} if merged.deidentified else {}), started)
        if not merged.deidentified:  # what structures without a known name were called stands in the sources alone
            review_names(report, recipe)
    return report


def _convert_all(
    sources: Sequence[Source], recipe: Recipe, out: Path, how: How, shard: Shard | None = None
) -> tuple[Report, list[Case]]:
    splits = assign_splits(sources, recipe.fractions, recipe.split_seed)
    own = shard.select(sources) if shard else sources
    jobs = [Job(item, splits[item.id]) for item in own]
    cases: list[Case] = []
    report = Report(Manifest(recipe.dataset, out, ()))
    for job, outcome in zip(jobs, _outcomes(jobs, recipe, out, how), strict=True):
        if outcome.value is None:
            report.failed[job.source.id] = outcome.failure
            continue
        case, converted = outcome.value
        cases.append(case)
        (report.converted if converted else report.skipped).append(case.id)
    return report, cases


def _outcomes(jobs: Sequence[Job], recipe: Recipe, out: Path, how: How) -> Iterator[Outcome[tuple[Case, bool]]]:
    work = partial(_prepare_whole, recipe, out / "cases", how.overwrite)
    if not how.scheduler:
        return map_cases(work, jobs, workers=how.workers, label="prepare")
    from mtl_med.prep.cluster import map_cases_on_cluster

    return map_cases_on_cluster(work, jobs, scheduler=how.scheduler, label="prepare")


def _prepare_whole(recipe: Recipe, cases_dir: Path, overwrite: bool, job: Job) -> tuple[Case, bool]:
    """As `prepare_case`; a finished case that the study cannot be made of is converted again."""
    case, converted = prepare_case(recipe, cases_dir, overwrite, job)
    if converted or not missing(case):
        return case, converted
    return prepare_case(recipe, cases_dir, True, job)


def _whole(kept: Sequence[Case]) -> list[Case]:
    """The cases whose files are all there; the others are left out with a warning, as their source is not at hand."""
    found = {case.id: missing(case) for case in kept}
    for case_id, what in found.items():
        if what:
            log.warning(
                "%s is left out of the manifest: %s. Prepare its source again: it is then converted anew",
                case_id,
                what.rstrip("."),
            )
    return [case for case in kept if not found[case.id]]


def _require_same_identities(out: Path, *, hidden: bool) -> None:
    """Refuse to put cases with and without names into one study.

    Args:
        out: the study folder.
        hidden: whether the cases of this run have none.

    Raises:
        UsageError: it would.
    """
    for record in (out / "run.json", *sorted(out.glob("run-*of*.json"))):
        if not record.is_file():
            continue
        fields = read_json(record, "Choose another --out, or remove it if you know how the study was made")
        if not isinstance(fields, dict):
            raise UsageError("is no record of a run", where=record, fix="Choose another --out")
        earlier = bool(fields.get("deidentified"))
        if earlier != hidden:
            told = "with" if earlier else "without"
            raise UsageError(f"holds a study that was made {told} --deidentify", where=out, fix="Choose another --out")
    # A run that was stopped leaves cases and no record.
    named = [case for case in (out / "cases").glob("[!.]*") if not is_pseudonym(case.name)] if hidden else []
    if named:
        raise UsageError(
            f"holds {len(named)} cases that were made without --deidentify",
            where=out / "cases",
            fix="Choose another --out, or remove them",
        )


def _told(recipe: Recipe, source: Path, how: How, started: float) -> dict[str, Any]:
    """What a record says of the run; in one that de-identifies neither the path nor the command, which may name."""
    hidden = recipe.options.key is not None
    fields = {"source": "" if hidden else str(source), "workers": how.workers, "started": _clock(started)}
    fields["deidentified"] = hidden
    return fields | ({"command": []} if hidden else {})


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def _write(report: Report, recipe: Recipe, told: dict[str, Any], started: float, workers: int = 1) -> None:
    """Quality tables, manifest and run record, in this order: a manifest never stands without its tables."""
    manifest = report.manifest
    found = {case.id: read_quality(case) for case in manifest}
    rows = [(case.id, case.split, found[case.id].measures, found[case.id].notes) for case in manifest]
    write_text(manifest.root / "quality.csv", quality_table(rows))
    sheets = write_mosaics(manifest, {key: short_notes(item.notes) for key, item in found.items()}, workers)
    write_quality_page(manifest, found, manifest.root / QUALITY_PAGE, failed=report.failed, sheets=sheets)
    manifest.write()
    report.seconds = time.time() - started
    fields = told | {
        "seconds": round(report.seconds, 2),
        "prep_version": PREP_VERSION,
        "hashes": {"recipe": recipe.digest, "fingerprint": manifest.fingerprint},
        "converted": report.converted,
        "skipped": report.skipped,
        "failed": report.failed,
    }
    write_record(manifest.root / "run.json", "prep", fields, packages=("numpy", "nibabel"))
