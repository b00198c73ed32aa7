"""Where everything in the report comes from: data, weights, settings, commands, versions."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from mtl_med.errors import UsageError
from mtl_med.files import read_json
from mtl_med.provenance import versions
from mtl_med.report.case_page import Block, Cell, Line, Section, Table, Text
from mtl_med.report.sources import Inputs, Predicted

__all__ = ["provenance_section"]

_NOT_KNOWN = Cell("not known", mark="none")


def provenance_section(inputs: Inputs) -> Section:
    """Tables of the study and of each folder of predictions, and what does not fit together."""
    blocks: list[Block] = [
        Text(f"{item.name}: {note}", "warning") for item in inputs.predictions for note in item.notes
    ]
    for item in inputs.predictions:
        found = item.evaluation
        if found.other_study:
            text = "these predictions were made on another study than the one they are scored against."
            blocks.append(Text(f"{item.name}: {text}", "bad"))
        if found.old_recipe:
            text = f"the study was prepared by another version of the recipe '{found.old_recipe}'."
            blocks.append(Text(f"{item.name}: {text}", "warning"))
    rows: list[Line] = [
        [label, *(_cell(value) for value in values)] for label, values in _lines(inputs).items() if any(values)
    ]
    blocks.append(Table("Study", ["what", "value"], _study_lines(inputs)))
    blocks.append(Table("Predictions", ["what", *(item.name for item in inputs.predictions)], rows))
    return Section("provenance", "Provenance", tuple(blocks))


def _study_lines(inputs: Inputs) -> list[Line]:
    manifest = inputs.manifest
    try:
        record: Any = read_json(manifest.root / "run.json")
    except UsageError:
        record = {}
    record = record if isinstance(record, dict) else {}
    lines = {
        "folder": str(manifest.root),
        "data set": manifest.dataset,
        "data fingerprint": manifest.fingerprint,
        "cases": f"{len(manifest)}, of which {len(inputs.cases)} are predicted",
        "split": inputs.split or "whatever was predicted",
        "prepared with": _versions(record.get("versions")),
        "command": _command(record.get("command")),
        "this report": _versions(versions(("numpy", "matplotlib", "jinja2"))),
    }
    return [[label, _cell(value)] for label, value in lines.items()]


def _lines(inputs: Inputs) -> dict[str, list[str]]:
    items = inputs.predictions
    return {
        "folder": [str(item.folder) for item in items],
        "scores": [item.scores_from for item in items],
        "method": [_text(item.settings.get("method")) for item in items],
        "encoder": [_text(item.settings.get("encoder")) for item in items],
        "inputs": [_text(item.settings.get("inputs")) for item in items],
        "tasks": [", ".join(map(str, _mapping(item.settings.get("tasks")))) for item in items],
        "seed": [_text(item.settings.get("seed")) for item in items],
        "weighting of the losses": [_text(item.settings.get("weighting")) for item in items],
        "weights": [_text(_mapping(item.record.get("weights")).get("path")) for item in items],
        "hash of the weights (SHA-256)": [_text(_mapping(item.record.get("weights")).get("sha256")) for item in items],
        "data fingerprint in training": [
            _text(_mapping(item.settings.get("study")).get("fingerprint")) for item in items
        ],
        "training": [_course(item) for item in items],
        "trained with": [_versions(_training(item).get("versions")) for item in items],
        "training command": [_command(_training(item).get("command")) for item in items],
        "predicted with": [_versions(item.record.get("versions")) for item in items],
        "prediction command": [_command(item.record.get("command")) for item in items],
    }


def _training(item: Predicted) -> Mapping[str, Any]:
    return item.training.record if item.training else {}


def _course(item: Predicted) -> str:
    record = _training(item)
    parts = [f"{record[key]} {key}" for key in ("epochs", "steps", "minutes") if key in record]
    return ", ".join(parts)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _versions(found: Any) -> str:
    return ", ".join(f"{name} {version}" for name, version in _mapping(found).items())


def _command(words: Any) -> str:
    return shlex.join(str(word) for word in words) if isinstance(words, list) else ""


def _cell(value: str) -> Cell:
    return Cell(value) if value else _NOT_KNOWN
