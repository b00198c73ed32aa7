"""Predictions against the truth of a study: one long table, and a short one to read."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mtl_med.classification_figures import write_figures
from mtl_med.errors import (
    EXIT_ALL_FAILED,
    EXIT_OK,
    EXIT_SOME_FAILED,
    CaseError,
    NothingFoundError,
    UsageError,
)
from mtl_med.files import read_json, sha256_file
from mtl_med.image_evaluation import ImageTable, read_image_table
from mtl_med.io import results
from mtl_med.manifest import Case, Manifest, torn_sentence
from mtl_med.metrics.rows import COLUMNS, Row, write_rows
from mtl_med.metrics.summary import aggregate_rows, overall, summary
from mtl_med.parallel import Outcome, at_least_one, map_cases
from mtl_med.prep.recipe import load_recipe, recipe_names
from mtl_med.provenance import write_record
from mtl_med.scoring import Wanted, score_case

__all__ = ["Evaluation", "add_arguments", "evaluate", "overall", "run", "score", "summary", "write_evaluation"]

_log = logging.getLogger(__name__)
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Evaluation:
    """What came of scoring a folder of predictions.

    Args:
        rows: all scores, case by case in the order of the study; after them, without a case, what is told of all cases
            with intervals.
        scored: ids of the cases that were scored.
        failures: id -> sentence, of the cases that could not be scored.
        without_prediction: ids of the study's cases (of the chosen split) that have no prediction.
        unknown: folders of predictions that belong to no such case.
        fingerprint: of the study.
        odd: ids of scored cases with notes in the study's quality table.
        other_study: the predictions say that they were made on another study.
        old_recipe: name of the shipped recipe where the study says that it was prepared by another version of it.
        groups: id -> lesion or patient, of the scored cases that share one.
        torn: lesion or patient -> its splits, where they are several.
    """

    rows: list[Row]
    scored: tuple[str, ...]
    failures: dict[str, str]
    without_prediction: tuple[str, ...]
    unknown: tuple[str, ...]
    fingerprint: str
    odd: tuple[str, ...] = ()
    other_study: bool = False
    old_recipe: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    torn: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def text(self) -> str:
        """The summary, and below it which cases it does not cover."""
        lines = [summary(self.rows)]
        if self.other_study:
            lines.append("CAUTION: these predictions were made on another study than the one they are scored against")
        if self.old_recipe:
            lines.append(
                f"CAUTION: this study was prepared by another version of the recipe '{self.old_recipe}'; to renew it, "
                f"run `mtl-med prep {self.old_recipe}` on the same folders again"
            )
        if self.torn:
            lines.append(f"CAUTION: {torn_sentence(self.torn)}")
        if self.odd:
            lines.append(f"scored although quality.csv notes something odd: {_listing(self.odd)}")
        if self.without_prediction:
            lines.append(f"without prediction: {_listing(self.without_prediction)}")
        if self.unknown:
            lines.append(f"predictions of no case of this study or split: {_listing(self.unknown)}")
        if self.failures:
            lines.append(f"failed: {_listing(tuple(self.failures))}")
            lines += [f"  {case}: {sentence}" for case, sentence in self.failures.items()]
        return "\n".join(lines)


def evaluate(
    study: str | Path,
    predictions: str | Path,
    split: str | None = None,
    *,
    workers: int = 1,
    cases: Collection[str] | None = None,
) -> Evaluation:
    """Score every case that has a prediction.

    What some case's prediction holds is expected of all: a structure that lacks counts as missed; a dose, all
    structures or a row of classification.csv that lack fail the case.

    Args:
        study: the study folder.
        predictions: folder with one folder per case, as `mtl_med.io.results` writes it, classification.csv or both.
        split: score only this split; default: whatever was predicted.
        workers: number of processes.
        cases: ids whose predictions count; others in the folder may be of other weights. Default: all.

    Returns:
        The rows, and the cases that were not scored with the reasons.

    Raises:
        UsageError: `study` is no study folder or has no such split.
        NothingFoundError: no prediction belongs to a case of the study.
    """
    manifest = Manifest.read(study)
    if Path(predictions).resolve().is_relative_to((manifest.root / "cases").resolve()):
        raise UsageError("is the study's own truth", where=predictions, fix="Give the folder of the predictions")
    listed = manifest.split(split) if split else manifest.cases
    folders = results.prediction_folders(predictions)
    table = read_image_table(predictions, manifest)
    folders = {name: Path(predictions) / name for name in sorted(table.cases)} | folders
    if cases is not None:
        folders = {name: folder for name, folder in folders.items() if name in cases}
    chosen = [(case, folders[case.id]) for case in listed if case.id in folders]
    if not chosen:
        raise NothingFoundError(
            f"no prediction of a case of the study {study}{f' in split {split}' if split else ''}",
            where=predictions,
            fix="Give the folder that holds classification.csv, or one folder per case, named by its id, with "
            "dose.nii.gz or structures.seg.nrrd",
        )
    wanted, unreadable = _wanted(chosen, manifest)
    pairs = [pair for pair in chosen if pair[0].id not in unreadable]
    outcomes = list(map_cases(partial(score_case, wanted), pairs, workers=workers, label="evaluate"))
    rows, failed = _with_classes(pairs, outcomes, table)
    failures = unreadable | failed
    ids = {case.id for case in listed}
    scored = [case for case, _ in chosen if case.id not in failures]
    return Evaluation(
        rows=[*rows, *table.scores(rows, scored)],
        scored=tuple(case.id for case in scored),
        failures={case.id: failures[case.id] for case, _ in chosen if case.id in failures},
        without_prediction=tuple(case.id for case in listed if case.id not in folders),
        unknown=tuple(name for name in folders if name not in ids),
        fingerprint=manifest.fingerprint,
        odd=tuple(case.id for case in scored if case.notes),
        other_study=_recorded_hash(Path(predictions), "fingerprint") not in ("", manifest.fingerprint),
        old_recipe=_old_recipe(manifest),
        groups={case.id: case.group for case in scored if case.group},
        torn=manifest.torn_groups(),
    )


def _with_classes(
    pairs: Sequence[tuple[Case, Path]], outcomes: Sequence[Outcome[list[Row]]], table: ImageTable
) -> tuple[list[Row], dict[str, str]]:
    """Rows of all cases, of their maps and of their classes, and the cases that failed in either."""
    rows: list[Row] = []
    failures: dict[str, str] = {}
    for (case, _), outcome in zip(pairs, outcomes, strict=True):
        if outcome.failure:
            failures[case.id] = outcome.failure
            continue
        try:
            rows += [*(outcome.value or ()), *table.rows(case)]
        except CaseError as error:
            failures[case.id] = str(error)
    return rows, failures


def _recorded_hash(folder: Path, name: str) -> str:
    """A hash that the record of the folder's making holds; "" where it does not tell, or is damaged."""
    path = folder / "run.json"
    try:
        record = read_json(path, "Scores do not need it, but nothing tells any more what this folder was made of")
    except UsageError as error:
        if path.exists():
            _log.warning("%s", error)
        return ""
    hashes = record.get("hashes", {}) if isinstance(record, dict) else {}
    return str(hashes.get(name, "")) if isinstance(hashes, dict) else ""


def _old_recipe(manifest: Manifest) -> str:
    """Name of the recipe of the study's data set where the study was prepared by another version of it, else ""."""
    made_by = _recorded_hash(manifest.root, "recipe")
    if not made_by or manifest.dataset not in recipe_names():
        return ""
    return "" if made_by == load_recipe(manifest.dataset).digest else manifest.dataset


def _wanted(chosen: Sequence[tuple[Case, Path]], manifest: Manifest) -> tuple[Wanted, dict[str, str]]:
    """What to score, and the cases whose predictions cannot even be listed."""
    tasks = {name: _task(case, item.kind, manifest) for case in manifest for name, item in case.structures.items()}
    predicted: set[str] = set()
    unreadable: dict[str, str] = {}
    for case, folder in chosen:
        try:
            predicted.update(results.predicted_names(folder))
        except CaseError as error:
            unreadable[case.id] = str(error)
    strange = sorted(predicted - set(tasks))
    if strange:
        _log.warning("predicted structures that the study does not know are not scored: %s", ", ".join(strange))
    dose = any(results.has_dose(folder) for _, folder in chosen)
    return Wanted(dose, {name: task for name, task in sorted(tasks.items()) if name in predicted}), unreadable


def _task(case: Case, kind: str, manifest: Manifest) -> str:
    """The task of a structure: its kind, but for a photograph, whose one outlined task has a name of its own."""
    outlined = [task for task in case.tasks if task not in manifest.classes]
    return outlined[0] if case.grid is None and len(outlined) == 1 else kind


def _require_table(path: Path) -> None:
    """Refuse to write over a file that is no table of scores.

    Raises:
        UsageError: it is something else.
    """
    if not path.is_file():
        return
    with path.open("rb") as stream:
        head = stream.readline().decode("utf-8", "replace").strip()
    if head and head != ",".join(COLUMNS):
        raise UsageError("exists and is no table of scores", where=path, fix="Choose another --out")


def write_evaluation(result: Evaluation, out: str | Path, *, asked: Mapping[str, object], seconds: float) -> Path:
    """Write the rows, below them the scores over all cases (rows without a case), and a record of the run beside it.

    The record is called after the table (`metrics.csv` -> `metrics.run.json`), since a folder of predictions has a
    `run.json` of its own.

    Args:
        result: of `evaluate`.
        out: the CSV file.
        asked: what was asked for, as plain JSON values.
        seconds: time it took.

    Returns:
        The record's path.
    """
    out = Path(out)
    _require_table(out)
    write_rows(out, [*result.rows, *aggregate_rows(result.rows)])
    record = out.with_name(f"{out.stem}.run.json")
    fields = {
        **asked,
        "seconds": round(seconds, 2),
        "hashes": {"fingerprint": result.fingerprint, out.name: sha256_file(out)},
        "scores": {key: None if math.isnan(value) else value for key, value in overall(result.rows).items()},
        "scored": list(result.scored),
        "odd": list(result.odd),
        "other_study": result.other_study,
        "old_recipe": result.old_recipe,
        **({"torn_groups": {name: list(splits) for name, splits in result.torn.items()}} if result.torn else {}),
        "without_prediction": list(result.without_prediction),
        "unknown": list(result.unknown),
        "failed": result.failures,
        **({"groups": dict(result.groups)} if result.groups else {}),
    }
    write_record(record, "evaluate", fields)
    return record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `mtl-med evaluate`."""
    parser.add_argument("--study", type=Path, required=True, help="study folder: planned doses and contours")
    about = (
        "folder with one folder per case that holds dose.nii.gz (Gy), structures.seg.nrrd or both, "
        "and classification.csv where there are image-level tasks"
    )
    parser.add_argument("--predictions", type=Path, required=True, help=about)
    about = "CSV table to write, one score per row with its unit, such as metrics.csv"
    parser.add_argument("--out", type=Path, required=True, help=about)
    about = "score this split alone: fit, tune, validation or test; a case of it that has no prediction is a failure"
    parser.add_argument("--split", help=f"{about} (default: every case that has a prediction)")
    parser.add_argument(
        "--workers", type=at_least_one, default=1, metavar="N", help="cases scored at a time (default: 1)"
    )
    about = "folder for pictures of image-level tasks: ROC curve, confusion matrix, calibration"
    parser.add_argument("--figures", type=Path, metavar="DIR", help=about)


def run(args: argparse.Namespace) -> int:
    """`mtl-med evaluate`: 0 all scored, 4 some failed or a case of the chosen split is missing, 5 all failed."""
    return score(args.study, args.predictions, args.out, args.split, workers=args.workers, figures=args.figures)


def score(
    study: str | Path,
    predictions: str | Path,
    out: str | Path,
    split: str | None = None,
    *,
    workers: int = 1,
    cases: Collection[str] | None = None,
    figures: str | Path | None = None,
) -> int:
    """Evaluate, write the table and its record, and print the summary.

    Args:
        study: as of `evaluate`.
        predictions: as of `evaluate`.
        out: the table.
        split: as of `evaluate`.
        workers: as of `evaluate`.
        cases: as of `evaluate`.
        figures: folder for pictures of the image-level tasks.

    Returns:
        The exit code of `run`.
    """
    start = time.perf_counter()
    result = evaluate(study, predictions, split, workers=workers, cases=cases)
    asked = {"study": str(study), "predictions": str(predictions), "split": split}
    write_evaluation(result, out, asked=asked, seconds=time.perf_counter() - start)
    sys.stdout.write(f"{result.text()}\nwritten: {out}\n")
    if figures is not None:
        drawn = write_figures(result.rows, result.groups, figures)
        told = f"{figures} ({', '.join(path.name for path in drawn)})" if drawn else "no figure: no image-level task"
        sys.stdout.write(f"written: {told}\n" if drawn else f"{told} was scored\n")
    if result.failures and not result.scored:
        return EXIT_ALL_FAILED
    return EXIT_SOME_FAILED if result.failures or (split and result.without_prediction) else EXIT_OK


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{len(names)} ({shown}{f', and {more} more' if more > 0 else ''})"
