"""The long table in which every score leaves: one row per case, structure and metric."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from mtl_med.errors import UsageError
from mtl_med.files import write_text

__all__ = ["COLUMNS", "LABEL_MAP", "Row", "read_rows", "write_rows"]

LABEL_MAP = "labelmap"
"""First word of the convention of a score whose structures came from a label map, which cannot hold overlaps."""


@dataclass(frozen=True)
class Row:
    """One score.

    Args:
        case: id of the case; empty for a score over many cases.
        task: name of the task, such as "dose", "oar" or "target".
        structure: name of the structure or class; empty where the score has none.
        metric: name of the metric.
        value: the score; NaN where it is not defined.
        unit: "Gy", "mm", "1", "%".
        convention: how the value is defined where the field has more than one way.
    """

    case: str
    task: str
    structure: str
    metric: str
    value: float
    unit: str
    convention: str = ""


COLUMNS = tuple(field.name for field in fields(Row))


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as CSV, atomically; a float is written so that reading it gives the same number."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow([repr(float(item)) if isinstance(item, float | int) else item for item in astuple(row)])
    write_text(path, stream.getvalue())


def read_rows(path: str | Path) -> list[Row]:
    """Rows of a CSV that `write_rows` wrote.

    Raises:
        UsageError: the file is missing, has other columns or a value that is no number.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror or error}", where=path, fix="Check the path") from error
    if tuple(header) != COLUMNS:
        raise UsageError(f"has the columns {header}, expected {list(COLUMNS)}", where=path)
    rows = []
    for number, line in enumerate(lines, start=2):
        try:
            case, task, structure, metric, value, unit, convention = line
            rows.append(Row(case, task, structure, metric, float(value), unit, convention))
        except ValueError as error:
            raise UsageError(f"line {number} is no row of scores: {error}", where=path) from error
    return rows
