"""Scores that `mtl-med evaluate` has written: used again only where they are certainly those of the predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mtl_med import __version__
from mtl_med.errors import UsageError
from mtl_med.evaluation import Evaluation
from mtl_med.files import json_fault, read_json, sha256_file
from mtl_med.manifest import Manifest
from mtl_med.metrics.rows import read_rows
from mtl_med.metrics.summary import aggregate_rows
from mtl_med.report.explained import FOLDER

__all__ = ["METRICS_FILE", "find_evaluation"]

METRICS_FILE = "metrics.csv"
_RECORD = {
    "versions": {"mtl_med": str},
    "predictions": str,
    "hashes": {...: str},
    "scored": [str],
    "failed": {...: str},
    "without_prediction": [str],
    "unknown": [str],
    "odd?": [str],
    "groups?": {...: str},
}


def find_evaluation(
    predictions: Path, manifest: Manifest, split: str | None, notes: list[str]
) -> tuple[Evaluation | None, str]:
    """The written scores of a folder of predictions, where they fit it.

    They fit where the record beside the table names these predictions, this study by its fingerprint, the same split,
    this version of mtl_med and the table's own hash, and no prediction was written after the table.

    Args:
        predictions: the folder; the table lies in it or beside it.
        manifest: the study.
        split: the split that is asked for; None for all.
        notes: gets a sentence where a table lies there and does not fit.

    Returns:
        The scores, and where they come from; None and "" where they have to be computed.
    """
    for folder in (predictions, predictions.resolve().parent):
        path = folder / METRICS_FILE
        record = path.with_name(f"{path.stem}.run.json")
        if not (path.is_file() and record.is_file()):
            continue
        try:
            fields = read_json(record)
            fault = json_fault(fields, _RECORD) or _misfit(fields, path, record, predictions, manifest, split)
            if not fault:
                return _evaluation(path, fields, manifest), f"{path}"
        except UsageError as error:
            fault = str(error)
        notes.append(f"The scores in {path} are not used and were computed again: {fault.removesuffix('.')}.")
    return None, ""


def _misfit(
    fields: dict[str, Any], path: Path, record: Path, predictions: Path, manifest: Manifest, split: str | None
) -> str:
    """Why the table cannot be that of the predictions; "" where nothing speaks against it."""
    if Path(fields["predictions"]).resolve() != predictions.resolve():
        return "they are of other predictions"
    if fields["hashes"].get("fingerprint") != manifest.fingerprint:
        return "they were made on another study, or it has changed"
    if fields.get("split") != split and (split or fields["unknown"]):
        return f"they are of {'the split ' + str(fields['split']) if fields.get('split') else 'all that was predicted'}"
    if fields["versions"]["mtl_med"] != __version__:
        return f"they were made by version {fields['versions']['mtl_med']}, and this is {__version__}"
    if fields["hashes"].get(path.name) != sha256_file(path):
        return "the table was changed after it was written"
    written = path.stat().st_mtime_ns
    own = (path, record)
    others = (file for file in predictions.rglob("*") if file.is_file() and file not in own)
    if any(file.stat().st_mtime_ns > written for file in others if FOLDER not in file.relative_to(predictions).parts):
        return "predictions were written after it"
    return ""


def _evaluation(path: Path, fields: dict[str, Any], manifest: Manifest) -> Evaluation:
    rows = read_rows(path)
    written_after = {(row.task, row.metric) for row in aggregate_rows(rows)}
    kept = [row for row in rows if row.case or row.structure or (row.task, row.metric) not in written_after]
    return Evaluation(
        rows=kept,
        scored=tuple(fields["scored"]),
        failures=dict(fields["failed"]),
        without_prediction=tuple(fields["without_prediction"]),
        unknown=tuple(fields["unknown"]),
        fingerprint=manifest.fingerprint,
        odd=tuple(fields.get("odd", ())),
        other_study=bool(fields.get("other_study")),
        old_recipe=str(fields.get("old_recipe", "")),
        groups=fields.get("groups", {}),
    )
