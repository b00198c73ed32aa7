"""What image-level tasks predict, one row per case: `classification.csv`.

Columns: `id`, and per task `<task>` (the decided class) and `<task>.p_<class>` (its probability) for each class.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtl_med.errors import CaseError, UsageError, nearest
from mtl_med.files import write_text
from mtl_med.tasks import Task

__all__ = ["CLASSIFICATION_FILE", "Decision", "read_classification", "write_classification"]

CLASSIFICATION_FILE = "classification.csv"
_SUM_TOLERANCE = 1e-3  # of probabilities that somebody may have rounded

Decision = tuple[str, Sequence[float]]
"""The decided class, and the probability of each class in the order of the task's class names."""


def write_classification(path: str | Path, tasks: Sequence[Task], rows: Mapping[str, Mapping[str, Decision]]) -> None:
    """Write the table, whole or not at all, sorted by id.

    Args:
        path: the CSV file.
        tasks: the tasks; pixel-level ones have no place in it and are passed over.
        rows: id -> task -> decision and probabilities; a task that lacks leaves its cells empty.

    Raises:
        UsageError: a decision that is no class of its task, or another number of probabilities than classes.
        OutputError: the file cannot be written.
    """
    listed = [task for task in tasks if task.kind == "classification"]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", *(column for task in listed for column in _columns(task))])
    for case_id in sorted(rows):
        writer.writerow([case_id, *(cell for task in listed for cell in _cells(case_id, task, rows[case_id]))])
    write_text(path, stream.getvalue())


def _names(task: Task) -> tuple[str, ...]:
    return task.class_names or tuple(str(index) for index in range(task.channels))


def _columns(task: Task) -> list[str]:
    return [task.name, *(f"{task.name}.p_{name}" for name in _names(task))]


def _cells(case_id: str, task: Task, decisions: Mapping[str, Decision]) -> list[str]:
    names = _names(task)
    if task.name not in decisions:
        return [""] * (1 + len(names))
    decision, probabilities = decisions[task.name]
    if decision not in names:
        fix = nearest(decision, names)
        raise UsageError(f"'{decision}' is no class of task '{task.name}'", where=case_id, fix=fix)
    if len(probabilities) != len(names):
        what = f"{len(probabilities)} probabilities for the {len(names)} classes of task '{task.name}'"
        raise UsageError(what, where=case_id)
    return [decision, *(f"{float(value):.6g}" for value in probabilities)]


def read_classification(
    path: str | Path, faults: dict[str, str] | None = None
) -> dict[str, tuple[tuple[str, ...], dict[str, tuple[str, NDArray[np.float64]]]]]:
    """Read the table.

    Args:
        path: the CSV file.
        faults: where a sentence goes about each case whose row cannot be used; the case is then in no task. Without it
            the first such row is an error.

    Returns:
        task -> (class names, id -> (decision, probabilities of the classes)), tasks and cases in the table's order.

    Raises:
        CaseError: it is missing or holds other columns; or a row has other cells, a case that another has, an unknown
            class, or no probabilities.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            header, *lines = list(csv.reader(stream)) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise CaseError(f"cannot be read: {reason}", where=path, fix="Predict again") from error
    classes = _classes(header, path)
    found: dict[str, tuple[tuple[str, ...], dict]] = {task: (names, {}) for task, names in classes.items()}
    seen: set[str] = set()
    for number, line in enumerate(lines, start=2):
        if not line:
            continue
        if not line[0]:
            raise CaseError(f"line {number} has no id", where=path, fix="Name its case, or remove the line")
        case_id = line[0]
        try:
            if case_id in seen:
                what = f"line {number} names case '{case_id}' a second time"
                raise CaseError(what, where=path, fix="Remove one of them")
            seen.add(case_id)
            own = _decisions(header, line, classes, f"line {number} (case '{case_id}')", path)
        except CaseError as error:
            if faults is None:
                raise
            faults[case_id] = str(error)
            own = {}
        for task, (_, rows) in found.items():
            if task in own:
                rows[case_id] = own[task]
            elif case_id in (faults or ()):
                rows.pop(case_id, None)
    return found


def _decisions(
    header: Sequence[str], line: Sequence[str], classes: Mapping[str, Sequence[str]], where: str, path: Path
) -> dict[str, tuple[str, NDArray[np.float64]]]:
    """What one row holds of each task that is not left empty."""
    if len(line) != len(header):
        raise CaseError(f"{where} has {len(line)} cells, expected {len(header)}", where=path)
    cells = dict(zip(header, line, strict=True))
    return {task: _decision(cells, task, names, where, path) for task, names in classes.items() if cells[task]}


def _classes(header: Sequence[str], path: Path) -> dict[str, tuple[str, ...]]:
    """Each task with its classes, from the names of the columns."""
    tasks = [column for column in header[1:] if ".p_" not in column]
    classes = {
        task: tuple(column.removeprefix(f"{task}.p_") for column in header if column.startswith(f"{task}.p_"))
        for task in tasks
    }
    expected = ["id", *(column for task in tasks for column in (task, *(f"{task}.p_{n}" for n in classes[task])))]
    if not tasks or list(header) != expected or len(set(header)) != len(header) or not all(classes.values()):
        raise CaseError(
            f"has the columns {','.join(header) or '(none)'}",
            where=path,
            fix="Give a table with the columns id and, per task, <task> and <task>.p_<class> for each class",
        )
    return classes


def _decision(
    cells: Mapping[str, str], task: str, names: Sequence[str], where: str, path: Path
) -> tuple[str, NDArray[np.float64]]:
    if cells[task] not in names:
        raise CaseError(
            f"{where}: '{cells[task]}' is no class of task '{task}'", where=path, fix=nearest(cells[task], names)
        )
    try:
        values = np.array([float(cells[f"{task}.p_{name}"]) for name in names])
    except ValueError as error:
        raise CaseError(f"{where}: a probability of task '{task}' is no number", where=path) from error
    if not np.isfinite(values).all():
        raise CaseError(f"{where}: a probability of task '{task}' is not finite", where=path, fix="Predict again")
    if not (values.min() >= 0 and math.isclose(values.sum(), 1, abs_tol=_SUM_TOLERANCE)):
        raise CaseError(f"{where}: the probabilities of task '{task}' do not sum to 1", where=path, fix="Predict again")
    return cells[task], values
