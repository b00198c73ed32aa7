"""`metadata/reference.csv` of STOIC: who has COVID-19, and how severe it is."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtl_med.errors import UsageError, nearest

__all__ = ["COVID", "SEVERE", "PatientRow", "read_reference"]

COVID, SEVERE = "covid", "severe"
_COLUMNS = {COVID: "probCOVID", SEVERE: "probSevere"}
_ID = "PatientID"
_CLASSES = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}


@dataclass(frozen=True)
class PatientRow:
    """What the table says of a patient.

    Args:
        labels: task -> 0 or 1; `severe` only where `covid` is 1.
        fault: why the row cannot be used.
        remarks: sentences about labels that are missing or say nothing.
    """

    labels: Mapping[str, int] = field(default_factory=dict)
    fault: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def stratum(self) -> str:
        """What the splits should hold in equal parts."""
        return ", ".join(f"{task} {value}" for task, value in self.labels.items()) or "no label"


def read_reference(path: Path) -> dict[str, PatientRow]:
    """Rows of the table by patient.

    A value that is no 0 or 1, and a patient in two rows, are faults of that patient alone.

    Raises:
        UsageError: the table cannot be read, or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restval="")
            columns = [name.strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            _require_columns(columns, path)
            lines: dict[str, list[tuple[int, dict[str, str]]]] = {}
            for row in reader:
                if any(isinstance(value, str) and value.strip() for value in row.values()):
                    lines.setdefault((row[_ID] or "").strip(), []).append((reader.line_num, row))
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the file") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"is no CSV table: {error}", where=path, fix="Download it again") from error
    if "" in lines:
        where = ", ".join(str(number) for number, _ in lines[""])
        raise UsageError(f"has no {_ID} in line {where}", where=path, fix="Fill it in, or take the line out")
    return {patient: _row(found) for patient, found in lines.items()}


def _require_columns(columns: list[str], path: Path) -> None:
    wanted = (_ID, *_COLUMNS.values())
    for name in wanted:
        if columns.count(name) != 1:
            what = f"has no column {name}" if name not in columns else f"has the column {name} twice"
            raise UsageError(what, where=path, fix=nearest(name, columns) if columns else "Download it again")


def _row(found: list[tuple[int, dict[str, str]]]) -> PatientRow:
    if len(found) > 1:
        lines = " and ".join(str(number) for number, _ in found)
        return PatientRow(fault=f"is in lines {lines} of reference.csv: a patient has one row")
    number, row = found[0]
    texts = {task: (row[column] or "").strip() for task, column in _COLUMNS.items()}
    for task, text in texts.items():
        if text and text not in _CLASSES:
            what = f"{_COLUMNS[task]} is '{text[:20]}' in line {number} of reference.csv, expected 0 or 1"
            return PatientRow(fault=what)
    covid, severe = (_CLASSES[text] if (text := texts[task]) else None for task in (COVID, SEVERE))
    remarks = []
    if covid is None:
        remarks.append(f"reference.csv holds no {_COLUMNS[COVID]}: the case has no label")
    elif covid == 1 and severe is None:
        remarks.append(f"reference.csv holds no {_COLUMNS[SEVERE]}: the case is without that label")
    elif covid == 0 and severe == 1:
        # Severity is not defined without COVID-19, so that this 1 says as little as the 0 of all others.
        remarks.append(f"{_COLUMNS[SEVERE]} is 1 without COVID-19, where severity is not defined: it is left out")
    labels = {} if covid is None else {COVID: covid}
    if covid == 1 and severe is not None:
        labels[SEVERE] = severe
    return PatientRow(labels, remarks=tuple(remarks))
