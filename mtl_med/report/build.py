"""Build a report: read, rank the cases, make every case's page, then the cohort page that leads to them."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from errno import EACCES, ENOTDIR
from functools import partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from mtl_med.errors import OutputError, UsageError
from mtl_med.files import atomic_path, read_json, safe_name, write_text
from mtl_med.parallel import map_cases
from mtl_med.provenance import write_record
from mtl_med.report.case_builder import Place, build_case, head_of
from mtl_med.report.case_page import CaseInputs, CaseSummary, Cell, Options, Script
from mtl_med.report.cohort import cohort_sections, tiles
from mtl_med.report.headline import badness, headline, ranked_by
from mtl_med.report.kinds import REPORTS
from mtl_med.report.page import Fragment, Page, document, fragment, place_of
from mtl_med.report.sources import Inputs, read_inputs

__all__ = ["Report", "build_report"]

_log = logging.getLogger(__name__)
_STAGE = "report"
_PACKAGES = ("numpy", "matplotlib", "jinja2")
_SCRATCH = ".tmp-"  # stays behind where a report was killed
_OURS = ("cases", "viewer", "index.html", "report.html")


@dataclass(frozen=True)
class Report:
    """What was built.

    Args:
        path: what to open.
        cases: in the order of the list.
        seconds: that it took.
    """

    path: Path
    cases: tuple[CaseSummary, ...]
    seconds: float

    @property
    def failed(self) -> tuple[CaseSummary, ...]:
        """Those with something that could not be scored or shown."""
        return tuple(case for case in self.cases if case.failures)


@dataclass(frozen=True)
class _Job:
    inputs: CaseInputs
    place: Place


@dataclass(frozen=True)
class _Made:
    summary: CaseSummary
    scripts: tuple[Script, ...] = ()  # of a single file; in a folder they are written already


class _Scripts:
    """Scripts of a single file as the cases bring them; what all pages share, megabytes each time, is kept once."""

    def __init__(self) -> None:
        self.kept: list[Script] = []
        self._shared: set[str] = set()

    def add(self, scripts: Sequence[Script]) -> None:
        """Those of another fragment."""
        for script in scripts:
            if script.place != "report" or script.name not in self._shared:
                self.kept.append(script)
            if script.place == "report":
                self._shared.add(script.name)


def build_report(
    study: str | Path,
    predictions: Sequence[str | Path],
    out: str | Path,
    options: Options | None = None,
    *,
    split: str | None = None,
    limit: int | None = None,
) -> Report:
    """Build the report of one or more folders of predictions.

    Args:
        study: the study folder.
        predictions: the first is the one in question, the others are compared with it.
        out: folder to write; one that holds an earlier report is written anew.
        options: what is asked for.
        split: only this split; default: whatever was predicted.
        limit: pages for so many cases, the worst, alone; the cohort page tells of all.

    Raises:
        UsageError: no study, no such split, or a folder `out` that holds something else.
        NothingFoundError: a folder without a prediction of a case of the study.
        OutputError: `out` cannot be written.
    """
    start, out, options = time.perf_counter(), Path(out), options or Options()
    _refuse_others(out)
    inputs = read_inputs(study, predictions, options, split=split)
    ranked, order, places = _ranking(inputs)
    chosen = order[: limit or len(order)]
    inputs = replace(inputs, pages={case: places[case].page for case in chosen})
    prepared = {kind: report.prepare(inputs) for kind, report in REPORTS.items() if report.prepare}
    cases = {case.id: case for case in inputs.cases}
    jobs = [_Job(inputs.of_case(cases[case], prepared), _within(places[case], inputs.pages)) for case in chosen]
    _clear(out)
    asked = {
        "study": str(study),
        "predictions": [str(folder) for folder in predictions],
        "split": split,
        "limit": limit,
    }
    # Written first, by which a report that was interrupted is known as one and may be written anew.
    write_record(out / "run.json", _STAGE, {**asked, "finished": False}, _PACKAGES)
    with tempfile.TemporaryDirectory(dir=out, prefix=_SCRATCH) as folder:
        scratch = Path(folder)
        outcomes = map_cases(partial(_make, out, scratch), jobs, workers=options.workers, label=_STAGE)
        summaries, scripts = [], _Scripts()
        for job, outcome in zip(jobs, outcomes, strict=True):
            made = outcome.value or _not_made(job, outcome.failure)
            summaries.append(made.summary)
            scripts.add(made.scripts)
        rest = [_listed(inputs.of_case(cases[case])) for case in order[len(chosen) :]]
        cohort = _cohort(inputs, [*summaries, *rest], ranked)
        if options.single_file:
            path = out / "report.html"
            bodies = [scratch / _fragment_name(job.place) for job in jobs]
            scripts.add(cohort.scripts)
            _write_single(path, inputs, cohort, bodies, scripts.kept)
        else:
            path = out / "index.html"
            write_text(path, "".join(document(_title(inputs), [cohort.html], cohort.scripts)))
    report = Report(path, tuple(summaries), time.perf_counter() - start)
    fields = {
        **asked,
        "options": vars(options),
        "finished": True,
        "seconds": round(report.seconds, 2),
        "hashes": {"fingerprint": inputs.manifest.fingerprint},
        "scores_from": {item.name: item.scores_from for item in inputs.predictions},
        "cases": len(report.cases),
        "failed": {case.id: list(case.failures) for case in report.failed},
    }
    write_record(out / "run.json", _STAGE, fields, _PACKAGES)
    return report


def _ranking(inputs: Inputs) -> tuple[str, list[str], dict[str, Place]]:
    """What cases are ranked by, their ids worst first, and their places."""
    first = inputs.predictions[0].evaluation
    rows: dict[str, list] = {case.id: [] for case in inputs.cases}
    for row in first.rows:
        if row.case in rows:
            rows[row.case].append(row)
    cells = {case: headline(own) for case, own in rows.items()}
    ranked = ranked_by(list(cells.values()))
    order = sorted(cells, key=lambda case: -badness(cells[case], ranked))  # sorting keeps the study's order of equals
    columns = dict.fromkeys(name for own in cells.values() for name in own)
    medians = {name: _median([own[name] for own in cells.values() if name in own]) for name in columns}
    pages = _addresses(order)
    places = {
        case: Place(
            page=pages[case],
            rank=number + 1,
            cases=len(order),
            medians=medians,
            worse=pages[order[number - 1]] if number else "",
            better=pages[order[number + 1]] if number + 1 < len(order) else "",
        )
        for number, case in enumerate(order)
    }
    return ranked, order, places


def _within(place: Place, pages: Mapping[str, str]) -> Place:
    """The place without a way to a case that has no page."""
    return place if place.better in pages.values() else replace(place, better="")


def _median(cells: Sequence[Cell]) -> float:
    """Of the numbers; NaN of classes, whose value is there to sort them."""
    known = [cell.value for cell in cells if cell.number and cell.value is not None and not math.isnan(cell.value)]
    return median(known) if known else math.nan


def _addresses(cases: Sequence[str]) -> dict[str, str]:
    """Address of each case's page: safe letters only, and none that another has on a disk that ignores case."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for case in cases:
        name = plain = safe_name(case)
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name.lower())
        found[case] = f"cases/{name}.html"
    return found


def _make(out: Path, scratch: Path, job: _Job) -> _Made:
    """Build one case's page and write it; of a single file, its part."""
    page = build_case(job.inputs, job.place)
    head = head_of(page, job.place)
    if job.inputs.options.single_file:
        part = fragment(head, page.sections, single=True, first=False)
        write_text(scratch / _fragment_name(job.place), part.html)
        return _Made(page.summary, part.scripts)
    part = fragment(head, page.sections, up="../")
    name = Path(job.place.page).stem
    for script in part.scripts:
        target = out / place_of(script, name)
        if script.place != "page" and not (script.place == "report" and target.exists()):
            write_text(target, script.text)
    text = "".join(document(page.summary.id, [part.html], part.scripts, up="../", case=name))
    write_text(out / job.place.page, text)
    return _Made(page.summary)


def _not_made(job: _Job, failure: str) -> _Made:
    summary = _listed(job.inputs)
    return _Made(replace(summary, failures=(f"No page could be made: {failure}", *summary.failures)))


def _listed(inputs: CaseInputs) -> CaseSummary:
    """What the list tells of a case without a page."""
    cells = headline(inputs.predictions[0].rows)
    failures = tuple(f"{item.name} could not be scored: {item.failure}" for item in inputs.predictions if item.failure)
    return CaseSummary(inputs.case.id, inputs.case.split, "", cells, tuple(inputs.case.notes), failures)


def _fragment_name(place: Place) -> str:
    return f"{Path(place.page).name}.part"


def _title(inputs: Inputs) -> str:
    return f"{', '.join(item.name for item in inputs.predictions)} on {inputs.manifest.dataset}"


def _cohort(inputs: Inputs, summaries: Sequence[CaseSummary], ranked: str) -> Fragment:
    first = inputs.predictions[0]
    others = [item.name for item in inputs.predictions[1:]]
    lead = f"Predictions of {first.name} against the study {inputs.manifest.dataset}"
    lead += f", compared with {', '.join(others)}." if others else "."
    notes = []
    if first.evaluation.other_study:
        notes.append(("bad", "These predictions were made on another study than the one they are scored against."))
    if first.evaluation.failures:
        count = len(first.evaluation.failures)
        told = f"{count} {'case' if count == 1 else 'cases'} could not be scored: first in the list, and in no score."
        notes.append(("bad", told))
    page = Page(_title(inputs), lead, "index", tiles(inputs, summaries), notes)
    return fragment(page, cohort_sections(inputs, summaries, ranked), single=inputs.options.single_file)


def _write_single(
    path: Path, inputs: Inputs, cohort: Fragment, bodies: Sequence[Path], scripts: Sequence[Script]
) -> None:
    """One document of all parts, each read when it is written: they may be large together."""
    parts = (body.read_text(encoding="utf-8") for body in bodies if body.is_file())
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream,
    ):
        for text in document(_title(inputs), chain([cohort.html], parts), scripts):
            stream.write(text)


def _refuse_others(out: Path) -> None:
    """Refuse to write into a folder that holds something else, or where nothing can be written: before the work.

    Raises:
        UsageError: it holds something else.
        OutputError: it cannot be written or looked into.
    """
    try:
        place = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
        if place != out and not place.is_dir():
            raise NotADirectoryError(ENOTDIR, f"{place.name} is a file")
        if place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, "no permission")
        if place != out or (out.is_dir() and not any(out.iterdir())):
            return
    except OSError as error:
        raise _cannot_write(out, error) from error
    record: Any = None
    if (out / "run.json").is_file():
        try:
            record = read_json(out / "run.json")
        except UsageError:
            record = None
    if not isinstance(record, dict) or record.get("stage") != _STAGE:
        raise UsageError("exists and holds no report", where=out, fix="Choose another --out")


def _clear(out: Path) -> None:
    """Remove what an earlier report left, so that no page of another case stays."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path in (*(out / name for name in _OURS), *out.glob(f"{_SCRATCH}*")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(out, error) from error


def _cannot_write(out: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write: {error.strerror or error}", where=out, fix="Choose another --out")
