"""The course of a training as its folder tells it: `training.csv`, a row per epoch, and `run.json`."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtl_med.errors import UsageError
from mtl_med.files import json_fault, read_json

__all__ = ["TRAINING_FILE", "Training", "read_record", "read_training"]

TRAINING_FILE = "training.csv"
_RECORD = {"hashes?": {...: str}, "versions?": {...: str}, "command?": [str], "best?": {...: dict}}


@dataclass(frozen=True)
class Training:
    """The course of a training.

    Args:
        folder: where it lies.
        curves: column -> value of every epoch: `epoch`, `step`, `loss/<task>`, `weight/<task>`, `learning_rate`,
            `score`, `score/<task>`; NaN where an epoch has none.
        record: the training's `run.json`; empty where there is none.
    """

    folder: Path
    curves: Mapping[str, tuple[float, ...]]
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> set[str]:
        """Hashes of the weights that it ended with."""
        return {value for name, value in self.record.get("hashes", {}).items() if name.endswith(".pt")}

    def of(self, what: str) -> dict[str, tuple[float, ...]]:
        """Task -> values of `loss`, `weight` or `score`."""
        return {name.partition("/")[2]: row for name, row in self.curves.items() if name.startswith(f"{what}/")}


def read_training(folder: Path, notes: list[str]) -> Training | None:
    """The training in a folder; what is damaged is left out and noted.

    Args:
        folder: with `training.csv`.
        notes: gets a sentence for everything that is left out.
    """
    path = folder / TRAINING_FILE
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
        rows = [[float(cell) if cell else math.nan for cell in line] for line in lines]
    except (OSError, ValueError, csv.Error) as error:
        notes.append(f"{path} cannot be read, so no training curves are shown: {error}")
        return None
    if "epoch" not in header or not rows or any(len(row) != len(header) for row in rows):
        notes.append(f"{path} is no table of epochs, so no training curves are shown.")
        return None
    curves = {name: tuple(row[place] for row in rows) for place, name in enumerate(header)}
    return Training(folder, curves, read_record(folder / "run.json", _RECORD, notes))


def read_record(path: Path, fields: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """A JSON object, as far as `fields` tells its form; empty where it is damaged, which is noted, or missing.

    Args:
        path: the file.
        fields: pattern of `mtl_med.files.json_fault`.
        notes: gets a sentence about what is left out.
    """
    if not path.is_file():
        return {}
    try:
        found = read_json(path)
    except UsageError as error:
        notes.append(str(error))
        return {}
    if fault := json_fault(found, fields):
        notes.append(f"{path} is damaged: {fault}; what it tells is left out.")
        return {}
    return found
